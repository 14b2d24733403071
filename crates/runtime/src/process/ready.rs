//! Reports that all servers are ready: one line of JSON for programs, a few lines for people.

use std::{
    io::{self, Write},
    net::SocketAddr,
    thread,
};

use eticket_base::{config::LogFormat, telemetry};

/// Reports the addresses to programs and people, in the given order. `encrypted` is whether the first server speaks TLS.
pub(crate) fn report(program: &str, addresses: &[(&'static str, SocketAddr)], encrypted: bool, format: LogFormat) {
    // A write to a full pipe that nobody reads blocks, so a separate thread writes.
    let line = line(addresses) + "\n";
    if let Err(error) = thread::Builder::new().name("ready-line".to_owned()).spawn(move || print(&line)) {
        tracing::error!(%error, "cannot write the ready line to standard output");
    }
    let flag = if encrypted { "-cacert CA.pem" } else { "-plaintext" };
    let attempt = addresses.first().map(|(_, address)| format!("grpcurl {flag} {address} list"));
    let attempt = attempt.unwrap_or_default();
    match format {
        // Programs read a JSON log, so the addresses are fields.
        LogFormat::Json => {
            let addresses = addresses.iter().map(|(name, address)| format!("{name} {address}"));
            tracing::info!(addresses = addresses.collect::<Vec<_>>().join(", "), attempt, "ready");
        }
        LogFormat::Text => {
            let mut text = format!("\n{program} is ready\n");
            for (name, address) in addresses {
                text += &format!("  {name:<12} {address}\n");
            }
            text += &format!("Try: {attempt}\n\n");
            telemetry::say(&text);
        }
    }
}

/// Writes to standard output. Errors are ignored, so that a closed pipe does not stop the servers.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

fn line(addresses: &[(&'static str, SocketAddr)]) -> String {
    let fields = addresses.iter().map(|(name, address)| format!(",\"{name}\":\"{address}\""));
    format!("{{\"ready\":true{}}}", fields.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_json() {
        let addresses =
            [("gateway", SocketAddr::from(([127, 0, 0, 1], 8088))), ("admin", "[::1]:9".parse().expect("an address"))];
        let line = line(&addresses);
        assert_eq!(line, r#"{"ready":true,"gateway":"127.0.0.1:8088","admin":"[::1]:9"}"#);
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["admin"], "[::1]:9");
    }
}
