//! The validity periods of the certificates that a configuration names.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    ClientKeys, ClientTlsConfig, ServerTlsConfig,
    config::SERVER_SECTION,
    files::{Invalid, PemFile},
};

/// The period in which a certificate is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub not_before: u64,
    /// Its last second.
    pub not_after: u64,
}

/// The purpose of a file of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A certificate that is shown, with its intermediate certificates: each must be valid.
    Identity,
    /// Authorities that are trusted: one valid certificate may be enough.
    Authorities,
}

/// A file of certificates that a configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFile {
    /// The key, relative to the server: `tls.cert_file`.
    pub key: String,
    /// The path.
    pub path: PathBuf,
    /// The purpose.
    pub purpose: Purpose,
}

impl CertificateFile {
    /// Reads the periods of all certificates in the file; at least one.
    ///
    /// # Errors
    /// The problem, if the file cannot be read or has no certificates in PEM.
    pub fn read(&self) -> Result<Vec<Validity>, String> {
        periods(&self.path).map_err(|invalid| invalid.problem)
    }
}

impl ServerTlsConfig {
    /// The files of certificates; empty without TLS.
    #[must_use]
    pub fn certificate_files(&self) -> Vec<CertificateFile> {
        let full = |key: &str| format!("{SERVER_SECTION}.{key}");
        listed(&[
            (full("cert_file"), &self.cert_file, Purpose::Identity),
            (full("client_ca_file"), &self.client_ca_file, Purpose::Authorities),
        ])
    }
}

impl ClientTlsConfig {
    /// The files of certificates; empty without TLS.
    #[must_use]
    pub fn certificate_files(&self, keys: &ClientKeys) -> Vec<CertificateFile> {
        listed(&[
            (keys.full("cert_file"), &self.cert_file, Purpose::Identity),
            (keys.full("ca_file"), &self.ca_file, Purpose::Authorities),
        ])
    }
}

fn listed(files: &[(String, &Option<PathBuf>, Purpose)]) -> Vec<CertificateFile> {
    let file = |(key, path, purpose): &(String, &Option<PathBuf>, Purpose)| {
        let path = (*path).clone()?;
        Some(CertificateFile { key: key.clone(), path, purpose: *purpose })
    };
    files.iter().filter_map(file).collect()
}

fn periods(path: &Path) -> Result<Vec<Validity>, Invalid> {
    let file = PemFile::read("cert_file", path)?;
    let period = |certificate: &CertificateDer<'_>| {
        validity(certificate).map_err(|error| file.invalid(format!("a certificate is not valid: {error}")))
    };
    file.certificates()?.iter().map(period).collect()
}

/// Reads the period out of the verifier's errors: the library has no other access to it, and checks the period first.
fn validity(certificate: &CertificateDer<'_>) -> Result<Validity, webpki::Error> {
    let certificate = EndEntityCert::try_from(certificate)?;
    let at = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let verified = certificate.verify_for_usage(&[], &[], &[], time, KeyUsage::server_auth(), None, None);
        verified.map(drop).err()
    };
    let not_before = match at(0) {
        Some(webpki::Error::CertNotValidYet { not_before, .. }) => not_before.as_secs(),
        Some(error @ (webpki::Error::BadDer | webpki::Error::InvalidCertValidity)) => return Err(error),
        // Valid since 1970, or longer.
        _ => 0,
    };
    match at(u64::MAX) {
        Some(webpki::Error::CertExpired { not_after, .. }) => {
            Ok(Validity { not_before, not_after: not_after.as_secs() })
        }
        Some(error) => Err(error),
        None => Ok(Validity { not_before, not_after: u64::MAX }),
    }
}

#[cfg(test)]
mod tests {
    use eticket_local_servers::certificates::{Authority, Identity};

    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    fn read(identity: &Identity, name: &str) -> Result<Vec<Validity>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, _) = identity.write(folder.path(), name).expect("written");
        CertificateFile { key: "tls.cert_file".to_owned(), path, purpose: Purpose::Identity }.read()
    }

    #[test]
    fn the_period_of_each_certificate_of_a_file_is_read() {
        let authority = Authority::new().expect("a certificate");
        let expired = authority.issue_expired(&["a.example"]).expect("a certificate");
        // 2020-01-01 to 2020-01-02.
        let (from, until) = (1_577_836_800, 1_577_836_800 + DAY);
        let expected = Validity { not_before: from, not_after: until };
        assert_eq!(read(&expired, "expired"), Ok(vec![expected]));
        let chain = Identity { certificate: expired.certificate.clone() + &authority.pem(), ..expired };
        let found = read(&chain, "chain").expect("two certificates");
        assert_eq!((found.len(), found[0]), (2, expected));
        assert!(found[1].not_after > until, "an authority is read like any other certificate: {found:?}");
    }

    #[test]
    fn a_file_without_certificates_is_a_problem_and_not_an_empty_list() {
        let text = Identity { certificate: "no certificate".to_owned(), key: String::new() };
        let problem = read(&text, "text").expect_err("no PEM");
        assert!(problem.contains("BEGIN CERTIFICATE"), "{problem}");
    }

    #[test]
    fn a_server_lists_its_certificate_and_the_authorities_of_its_clients() {
        let config = ServerTlsConfig {
            cert_file: Some("a.pem".into()),
            key_file: Some("a.key".into()),
            client_ca_file: Some("ca.pem".into()),
            ..ServerTlsConfig::default()
        };
        let keys: Vec<_> = config.certificate_files().into_iter().map(|file| (file.key, file.purpose)).collect();
        let expected =
            [("tls.cert_file".to_owned(), Purpose::Identity), ("tls.client_ca_file".to_owned(), Purpose::Authorities)];
        assert_eq!(keys, expected);
        let keys = ClientKeys::Upstream("upstream.ticket".to_owned());
        let client = ClientTlsConfig { ca_file: Some("ca.pem".into()), ..ClientTlsConfig::default() };
        assert_eq!(client.certificate_files(&keys)[0].key, "upstream.ticket.tls.ca_file");
        assert!(ServerTlsConfig::default().certificate_files().is_empty());
    }
}
