//! TLS between all servers and tokens for every call, switched on by `helm upgrade`.

use std::{fs, path::Path};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, api, calendar,
    tokens::{AUDIENCE, ISSUER, IdentityProvider},
};
use eticket_local_servers::certificates::Authority;
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt;

use crate::{release::Release, upgrades::COMPONENTS};

/// `helm test` succeeds with TLS and the token of an admin; a caller without a token, and one without TLS, are refused.
pub(crate) async fn tls_and_tokens(release: &Release<'_>) {
    let (authority, provider) = (Authority::new().expect("an authority"), IdentityProvider::default());
    let names = COMPONENTS.map(Release::object);
    let certificate = authority.issue(&names.each_ref().map(String::as_str)).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("written");
        from_file(name, &path)
    };
    let pair = [
        file("tls.crt", &certificate.certificate),
        file("tls.key", &certificate.key),
        file("ca.crt", &authority.pem()),
    ];
    let [certificate_file, key_file, authority_file] = pair.each_ref().map(String::as_str);
    release.kubectl(&["create", "secret", "generic", "shop-tls", certificate_file, key_file, authority_file]);
    let keys = from_file("jwks.json", provider.jwks());
    release.kubectl(&["create", "configmap", "shop-keys", &keys]);
    let token = file("token", &provider.token("root", "admin", None));
    release.kubectl(&["create", "secret", "generic", "shop-admin", &token]);

    let (issuer, audience) = (format!("--set=auth.issuer={ISSUER}"), format!("--set=auth.audience={AUDIENCE}"));
    let settings = [
        "--set=tls.enabled=true,tls.existingSecret=shop-tls,test.tokenSecret=shop-admin",
        "--set-string=auth.mode=jwt,auth.existingConfigMap=shop-keys",
        &issuer,
        &audience,
        "--wait",
        "--timeout=180s",
    ];
    release.helm("upgrade", &settings).expect("upgraded");
    COMPONENTS.iter().for_each(|component| release.rolled_out(component));
    release.test();

    let register = async |api: Api| api.register("no-token", calendar::upcoming(Weekday::Wed)).await;
    let refused = register(Api::over(encrypted(release, &authority))).await.expect_err("there is no token");
    assert_eq!((refused.code(), api::reason(&refused).as_str()), (Code::Unauthenticated, "TOKEN_MISSING"));
    let plain = register(release.api()).await.expect_err("there is no TLS");
    assert!(plain.get_details_error_info().is_none(), "the gateway has answered: {plain}");
}

fn from_file(name: &str, path: &Path) -> String {
    format!("--from-file={name}={}", path.display())
}

/// A channel to the gateway that trusts this authority.
fn encrypted(release: &Release<'_>, authority: &Authority) -> tonic::transport::Channel {
    let tls = ClientTlsConfig::new()
        .domain_name(Release::object("gateway"))
        .ca_certificate(Certificate::from_pem(authority.pem()));
    let endpoint = Endpoint::from_shared(format!("https://{}", release.gateway())).expect("an address");
    endpoint.tls_config(tls).expect("valid").connect_lazy()
}
