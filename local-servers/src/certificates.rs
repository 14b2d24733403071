//! Certificate authorities of a test, and certificates of them.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, Error, IsCa, KeyPair, date_time_ymd};

/// A certificate authority with a new key.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// # Errors
    /// Returns the errors of the cryptography.
    pub fn new() -> Result<Self, Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Certificates name their authority: another one with the same name would be a wrong key, not a stranger.
        let chance = RandomState::new().build_hasher().finish();
        params.distinguished_name.push(DnType::CommonName, format!("authority {chance:x}"));
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Returns the certificate of the authority, in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for DNS names and IP addresses.
    ///
    /// # Errors
    /// If a name is not valid.
    pub fn issue(&self, names: &[&str]) -> Result<Identity, Error> {
        self.sign(CertificateParams::new(owned(names))?)
    }

    /// Issues a certificate that is no longer valid.
    ///
    /// # Errors
    /// If a name is not valid.
    pub fn issue_expired(&self, names: &[&str]) -> Result<Identity, Error> {
        let mut params = CertificateParams::new(owned(names))?;
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 1, 2));
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<Identity, Error> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Identity {
    /// Writes `NAME.pem` and `NAME.key` in a folder; returns their paths.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> io::Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        fs::write(&certificate, &self.certificate)?;
        fs::write(&key, &self.key)?;
        Ok((certificate, key))
    }
}
