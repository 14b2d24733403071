//! The console in a browser, by the Service of the gateway.

use std::process::Command;

use eticket_integration_tests::binary::root;

use crate::release::{Release, output};

/// An admin registers a ticket and a user reserves it, in Chromium.
pub(crate) fn console(release: &Release<'_>) {
    let mut playwright = Command::new("npx");
    playwright.args(["--no-install", "playwright", "test", "--project=console", "--output=test-results/kubernetes"]);
    // Of an address that is not loopback, browsers take a page without TLS for less secure.
    playwright.args(["scenario.spec.ts", "--grep", "an admin registers a ticket"]);
    playwright.current_dir(root().join("gateway-grpc-web/web"));
    playwright.env("ETICKET_GATEWAY", format!("http://{}", release.gateway()));
    playwright.env("ETICKET_PAGES", "gateway").env("ETICKET_CHROMIUM", "/usr/bin/chromium");
    output(&mut playwright).expect("the console works");
}
