//! Keys, certificates and kubeconfig files of the parts of a cluster.

use std::{fs, path::Path};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use super::{API_ADDRESS, NODE, NODE_ADDRESS};

/// What a part calls the API server as: name of the files, user, and group.
const CLIENTS: [(&str, &str, &str); 6] = [
    ("admin", "admin", "system:masters"),
    ("apiserver-kubelet", "apiserver-kubelet", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("kubelet", "system:node:node", "system:nodes"),
    ("proxy", "system:kube-proxy", ""),
    ("scheduler", "system:kube-scheduler", ""),
];

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Writes all files.
pub(super) fn write(folder: &Path) -> Result<()> {
    let (authority, front) = (authority("kubernetes")?, authority("front-proxy")?);
    fs::write(folder.join("ca.crt"), authority.pem())?;
    fs::write(folder.join("front-ca.crt"), front.pem())?;
    issue(folder, &front, "front-proxy", ("front-proxy", ""), &[])?;
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        NODE_ADDRESS,
        API_ADDRESS,
        "127.0.0.1",
    ];
    issue(folder, &authority, "apiserver", ("kube-apiserver", ""), &names)?;
    issue(folder, &authority, "kubelet-server", (NODE, ""), &[NODE, NODE_ADDRESS])?;
    for (file, user, group) in CLIENTS {
        issue(folder, &authority, file, (user, group), &[])?;
        fs::write(folder.join(format!("{file}.conf")), kubeconfig(folder, file))?;
    }
    // Tokens of service accounts are signed with this key.
    let tokens = KeyPair::generate()?;
    fs::write(folder.join("tokens.key"), tokens.serialize_pem())?;
    fs::write(folder.join("tokens.pub"), tokens.public_key_pem())?;
    Ok(())
}

fn authority(name: &str) -> Result<Authority> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn issue(folder: &Path, authority: &Authority, file: &str, subject: (&str, &str), names: &[&str]) -> Result<()> {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    let (user, group) = subject;
    params.distinguished_name.push(DnType::CommonName, user);
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    fs::write(folder.join(format!("{file}.crt")), params.signed_by(&key, authority)?.pem())?;
    fs::write(folder.join(format!("{file}.key")), key.serialize_pem())?;
    Ok(())
}

fn kubeconfig(folder: &Path, file: &str) -> String {
    let folder = folder.display();
    format!(
        r#"apiVersion: v1
kind: Config
current-context: cluster
clusters: [{{name: cluster, cluster: {{server: "https://{NODE_ADDRESS}:6443", certificate-authority: "{folder}/ca.crt"}}}}]
users: [{{name: user, user: {{client-certificate: "{folder}/{file}.crt", client-key: "{folder}/{file}.key"}}}}]
contexts: [{{name: cluster, context: {{cluster: cluster, user: user}}}}]
"#
    )
}
