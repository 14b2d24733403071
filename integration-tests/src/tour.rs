//! Runs the commands of a documentation page as a reader would.
//!
//! A shell block after a line `<!-- tour -->` belongs to the tour. All such blocks of a page run in one bash, so later
//! blocks see the variables of earlier ones. In a block, `# => text` states that the output since the previous
//! expectation contains `text`; several such lines in a row refer to the same output. A failing command does not end
//! the tour: rejections are part of it, and the page expects them by their text.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    process::{Command, Stdio},
};

use crate::binary::root;

const MARK: &str = "<!-- tour -->";
const EXPECTATION: &str = "# => ";
/// Written by the shell at the place of an expectation; no command writes such a line.
const SIGNAL: &str = "\u{1f}expected";

/// Returns the blocks of a page that belong to the tour, in order.
pub fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.trim() != MARK {
            continue;
        }
        let fence = lines.by_ref().find(|line| !line.trim().is_empty()).unwrap_or_default();
        assert!(fence.trim() == "```sh", "{MARK} is followed by a shell block, not by {fence:?}");
        let block: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != "```").collect();
        blocks.push(block.join("\n"));
    }
    blocks
}

/// Returns the other shell blocks of a page; each is a single command.
pub fn commands(page: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let (mut lines, mut marked) = (page.lines(), false);
    while let Some(line) = lines.next() {
        if line.trim() == "```sh" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != "```").collect();
            if !std::mem::take(&mut marked) {
                commands.push(block.join("\n"));
            }
        }
        marked |= line.trim() == MARK;
    }
    commands
}

/// Replaces the default addresses, such as `localhost:8088` and `127.0.0.1:8088`, by the addresses under test.
pub fn with_addresses(script: &str, addresses: &BTreeMap<u16, String>) -> String {
    let mut script = script.to_owned();
    for (port, address) in addresses {
        for host in ["localhost", "127.0.0.1"] {
            script = script.replace(&format!("{host}:{port}"), address);
        }
    }
    script
}

/// Runs the blocks in bash with this `PATH`; returns the number of expectations that were met.
///
/// # Panics
/// At the first expectation that is not met, with the actual output.
pub fn run(blocks: &[String], path: &OsStr) -> usize {
    // Standard error is part of what a reader sees: grpcurl prints rejections there.
    let mut script = String::from("set -u -o pipefail\nexec 2>&1\n");
    for line in blocks.iter().flat_map(|block| block.lines()) {
        match line.strip_prefix(EXPECTATION) {
            Some(_) => script.push_str(&format!("printf '\\n%s\\n' '{SIGNAL}'")),
            None => script.push_str(line),
        }
        script.push('\n');
    }
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("PATH", path)
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .expect("bash is installed");
    let written = String::from_utf8_lossy(&output.stdout).into_owned();
    let expectations: Vec<&str> =
        blocks.iter().flat_map(|block| block.lines()).filter_map(|line| line.strip_prefix(EXPECTATION)).collect();
    compare(&expectations, &written);
    expectations.len()
}

fn compare(expectations: &[&str], written: &str) {
    let mut parts = written.split(SIGNAL);
    let mut seen = "";
    for expected in expectations {
        let part = parts.next().unwrap_or_default();
        // No output since the previous expectation: both refer to the same output.
        if !part.trim().is_empty() {
            seen = part;
        }
        let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            plain(seen).contains(&plain(expected)),
            "the page promises\n  {expected}\nbut this was written:\n{seen}\n\nall:\n{written}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A page\n```sh\nnot run\n```\n<!-- tour -->\n```sh\nA=1\necho \"a: $A\"\n# => a: 1\n```\ntext\n\
        <!-- tour -->\n\n```sh\necho b $A; echo c >&2; false\n# => b 1\n# => c\n# a comment\n```\n";

    fn path() -> std::ffi::OsString {
        std::env::var_os("PATH").unwrap_or_default()
    }

    #[test]
    fn blocks_of_the_tour_run_in_one_shell() {
        let blocks = blocks(PAGE);
        assert_eq!(blocks.len(), 2);
        assert_eq!(run(&blocks, &path()), 3);
        assert_eq!(commands(PAGE), ["not run"]);
    }

    #[test]
    #[should_panic(expected = "the page promises")]
    fn a_wrong_expectation_is_detected() {
        run(&blocks("<!-- tour -->\n```sh\necho a\n# => a\necho c\n# => a\n```"), &path());
    }

    #[test]
    fn default_addresses_are_replaced() {
        let addresses = BTreeMap::from([(8088, "127.0.0.1:4711".to_owned())]);
        let script = with_addresses("grpcurl localhost:8088 list; curl http://127.0.0.1:8088/x", &addresses);
        assert_eq!(script, "grpcurl 127.0.0.1:4711 list; curl http://127.0.0.1:4711/x");
    }
}
