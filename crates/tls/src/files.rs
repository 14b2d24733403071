//! PEM files, and what they contain.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use eticket_base::config::{Error, regular_file};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use webpki::EndEntityCert;

use crate::{
    config::{ClientKeys, SERVER_SECTION},
    provider,
};

/// Why a file cannot be used. The key is relative to the section of the TLS keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {path}: {problem}")]
pub(crate) struct Invalid {
    pub(crate) key: &'static str,
    pub(crate) path: String,
    pub(crate) problem: String,
}

impl Invalid {
    fn new(key: &'static str, path: &Path, problem: impl Into<String>) -> Self {
        Self { key, path: path.display().to_string(), problem: problem.into() }
    }

    /// Converts this into an error of the configuration of a server.
    pub(crate) fn of_server(self) -> Error {
        Error::new(format!("{SERVER_SECTION}.{}", self.key), Some(self.path), self.problem)
    }

    /// Converts this into an error of the configuration of a client.
    pub(crate) fn of_client(self, keys: &ClientKeys) -> Error {
        Error::new(keys.full(self.key), Some(self.path), self.problem)
    }
}

/// The contents of a file, and where they are from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PemFile {
    key: &'static str,
    path: PathBuf,
    pub(crate) contents: Vec<u8>,
}

impl PemFile {
    pub(crate) fn read(key: &'static str, path: &Path) -> Result<Self, Invalid> {
        let contents = regular_file::read(path)
            .map_err(|error| Invalid::new(key, path, format!("the file cannot be read: {error}")))?;
        if contents.is_empty() {
            return Err(Invalid::new(key, path, "the file is empty"));
        }
        Ok(Self { key, path: path.to_owned(), contents })
    }

    pub(crate) fn invalid(&self, problem: impl Into<String>) -> Invalid {
        Invalid::new(self.key, &self.path, problem)
    }

    /// Returns the certificates of the file; at least one.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Invalid> {
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.contents).collect();
        match parsed {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            Ok(_) => Err(self.invalid("expected certificates in PEM (-----BEGIN CERTIFICATE-----)")),
            Err(error) => Err(self.invalid(format!("expected certificates in PEM: {error}"))),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, Invalid> {
        // The text of the error may quote the file, which is secret.
        PrivateKeyDer::from_pem_slice(&self.contents)
            .map_err(|_| self.invalid("expected an unencrypted private key in PEM (-----BEGIN PRIVATE KEY-----)"))
    }

    /// Returns the authorities of the file; at least one.
    pub(crate) fn authorities(&self) -> Result<Arc<RootCertStore>, Invalid> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            let refuse = |error| self.invalid(format!("a certificate cannot be an authority: {error}"));
            roots.add(certificate).map_err(refuse)?;
        }
        Ok(Arc::new(roots))
    }
}

/// Returns the certificate chain with its key, after a check that they belong together.
pub(crate) fn certified(chain: &PemFile, key: &PemFile) -> Result<CertifiedKey, Invalid> {
    let (certificates, private_key) = (chain.certificates()?, key.private_key()?);
    CertifiedKey::from_der(certificates, private_key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            key.invalid(format!("is not the key of the certificate in {}", chain.path.display()))
        }
        rustls::Error::InvalidCertificate(_) => chain.invalid(format!("the certificate is not valid: {error}")),
        error => key.invalid(format!("the key cannot be used: {error}")),
    })
}

/// Returns the DNS names of a certificate, in lower case.
pub(crate) fn dns_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, webpki::Error> {
    let certificate = EndEntityCert::try_from(certificate)?;
    Ok(certificate.valid_dns_names().map(str::to_ascii_lowercase).collect())
}
