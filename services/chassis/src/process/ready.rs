//! The signs that everything answers: a line of JSON for programs, a few lines for people.

use std::{
    io::{self, Write},
    net::SocketAddr,
    thread,
};

use crate::{config::LogFormat, telemetry};

/// Tells programs and people, the names in the order given.
pub(crate) fn tell(program: &str, addresses: &[(&'static str, SocketAddr)], format: LogFormat) {
    // On a thread of its own: a pipe that is full and that nobody reads holds up nothing else.
    let line = line(addresses) + "\n";
    if let Err(error) = thread::Builder::new().name("ready-line".to_owned()).spawn(move || print(&line)) {
        tracing::error!(%error, "the ready line is not written to standard output");
    }
    let attempt = addresses.first().map(|(_, address)| format!("grpcurl -plaintext {address} list"));
    let attempt = attempt.unwrap_or_default();
    match format {
        // In a log that programs read, people find it as fields.
        LogFormat::Json => {
            let addresses = addresses.iter().map(|(name, address)| format!("{name} {address}"));
            tracing::info!(addresses = addresses.collect::<Vec<_>>().join(", "), attempt, "ready");
        }
        LogFormat::Text => {
            let mut text = format!("\n{program} is ready\n");
            for (name, address) in addresses {
                text += &format!("  {name:<12} {address}\n");
            }
            text += &format!("try: {attempt}\n\n");
            telemetry::say(&text);
        }
    }
}

/// To standard output. Where nobody reads it any more, serving goes on.
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
