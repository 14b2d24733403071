//! The signs that everything answers: a line of JSON for programs, a few lines for people.

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
};

use crate::config::{LogConfig, LogFormat};

/// The format of the log: as configured, else text for a terminal and JSON for everything else.
pub(crate) fn format_of(log: &LogConfig) -> LogFormat {
    let usual = if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    log.format.unwrap_or(usual)
}

/// Tells programs and people, the names in the order given.
pub(crate) fn tell(program: &str, addresses: &[(&'static str, SocketAddr)], format: LogFormat) {
    print(&(line(addresses) + "\n"));
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
            io::stderr().write_all(text.as_bytes()).ok();
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
