//! The output: a list in groups for people, and JSON for programs.

use std::{
    env,
    io::{self, IsTerminal},
};

use console::{Term, measure_text_width};
use eticket_base::doctor::{Check, Group, Status};

/// The column of the texts: two spaces, a mark or a word, and the longest name.
const NAMES: usize = 17;
/// A narrower terminal gets longer lines than it has.
const NARROWEST: usize = 50;

/// What an invalid configuration leaves out.
const SKIPPED: &str = "Not checked, because that needs a valid configuration: data folder, store, bus, policy, certificates, \
                       authentication, upstreams.";

/// The results of all checks.
pub(super) struct Report {
    checks: Vec<Check>,
    /// Whether checks were left out, because the configuration is not valid.
    skipped: bool,
}

/// How a list for people looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Style {
    /// The columns of the terminal; `None` for a file or a pipe.
    width: Option<usize>,
    colors: bool,
    marks: bool,
}

impl Style {
    fn of_stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        let colors = is_terminal && set("NO_COLOR").is_none() && !dumb;
        // The first of these that is set decides which characters the terminal has.
        let charset = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
        let charset = charset.to_string_lossy().to_uppercase().replace('-', "");
        let width = Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        Self { width: is_terminal.then_some(width.max(NARROWEST)), colors, marks: colors && charset.contains("UTF8") }
    }

    fn paint(self, text: &str, codes: &str) -> String {
        if self.colors { format!("\u{1b}[{codes}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn mark(self, status: Status) -> String {
        let (mark, word, codes) = match status {
            Status::Ok => ("✔", "ok  ", "32"),
            Status::Warn => ("!", "warn", "33"),
            Status::Fail => ("✘", "FAIL", "1;31"),
        };
        self.paint(if self.marks { mark } else { word }, codes)
    }

    /// The width of a mark.
    fn marked(self) -> usize {
        if self.marks { 1 } else { 4 }
    }
}

impl Report {
    pub(super) fn new(mut checks: Vec<Check>, skipped: bool) -> Self {
        // Stable: within a group, the order of the checks stays.
        checks.sort_by_key(|check| check.group);
        Self { checks, skipped }
    }

    pub(super) fn has(&self, status: Status) -> bool {
        self.count(status) > 0
    }

    fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// Indented on a terminal, one line otherwise, as the results of the client commands.
    pub(super) fn json(&self) -> String {
        let text = match io::stdout().is_terminal() {
            true => serde_json::to_string_pretty(&self.checks),
            false => serde_json::to_string(&self.checks),
        };
        // Texts only, so this cannot fail.
        text.unwrap_or_default() + "\n"
    }

    pub(super) fn text(&self) -> String {
        self.list(Style::of_stdout())
    }

    fn list(&self, style: Style) -> String {
        let (mut text, mut group) = (String::new(), None);
        for check in &self.checks {
            if group.replace(check.group) != Some(check.group) {
                text += &heading(check.group, style, text.is_empty());
            }
            text += &entry(check, style);
        }
        if self.skipped {
            text += &format!("\n{}\n", wrapped(SKIPPED, 0, style.width));
        }
        let plural = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let failures = self.count(Status::Fail);
        let last = [
            format!("{} ok", self.count(Status::Ok)),
            plural(self.count(Status::Warn), "warning"),
            plural(failures, "failure"),
        ];
        let codes = if failures > 0 { "1;31" } else { "1" };
        text + &format!("\n{}\n", style.paint(&last.join(", "), codes))
    }
}

fn heading(group: Group, style: Style, first: bool) -> String {
    format!("{}{}\n", if first { "" } else { "\n" }, style.paint(&group.to_string(), "1"))
}

fn entry(check: &Check, style: Style) -> String {
    let subject = if check.subject.is_empty() { String::new() } else { format!("{}: ", check.subject) };
    let indent = 2 + style.marked() + 1 + NAMES + 1;
    let detail = wrapped(&format!("{subject}{}", check.detail), indent, style.width);
    let mut text = format!("  {} {:<NAMES$} {detail}\n", style.mark(check.status), check.name);
    if check.status != Status::Ok {
        let below = " ".repeat(indent);
        let label = "remedy: ";
        let remedy = wrapped(&check.remedy, indent + label.len(), style.width);
        // A link is never broken, so that the terminal can open it. It begins further left for the same reason.
        let left = " ".repeat(2 + style.marked() + 1);
        text += &format!("{below}{label}{remedy}\n{left}{}\n", style.paint(&check.link(), "2"));
    }
    text
}

/// Breaks a text between words; lines after the first begin in the column `indent`.
fn wrapped(text: &str, indent: usize, width: Option<usize>) -> String {
    let Some(room) = width.map(|width| width.saturating_sub(indent)) else { return text.to_owned() };
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last().map_or(0, |line| measure_text_width(line));
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if last + 1 + measure_text_width(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { width: None, colors: false, marks: false };

    fn report() -> Report {
        let checks = vec![
            Check::warn(Group::Data, "disk-space", "only 500 MiB free", "free some space").of("./eticket-data"),
            Check::fail(
                Group::Upstreams,
                "upstream",
                "127.0.0.1:8082 cannot be reached: Connection refused (os error 111)",
                "start the ticket server there, or correct reservation.upstream.ticket.url",
            ),
            Check::ok(Group::Configuration, "configuration", "valid"),
            Check::ok(Group::Data, "data-lock", "free"),
        ];
        Report::new(checks, false)
    }

    #[test]
    fn a_pipe_gets_words_without_colours_and_whole_lines() {
        let expected = "configuration
  ok   configuration     valid

data folder
  warn disk-space        ./eticket-data: only 500 MiB free
                         remedy: free some space
       https://git.example.org/eticket/blob/main/docs/doctor.md#disk-space
  ok   data-lock         free

upstreams
  FAIL upstream          127.0.0.1:8082 cannot be reached: Connection refused (os error 111)
                         remedy: start the ticket server there, or correct reservation.upstream.ticket.url
       https://git.example.org/eticket/blob/main/docs/doctor.md#upstream

2 ok, 1 warning, 1 failure
";
        assert_eq!(report().list(PLAIN), expected);
    }

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        for marks in [true, false] {
            let text = report().list(Style { width: Some(80), colors: false, marks });
            for line in text.lines() {
                assert!(measure_text_width(line) <= 80, "{line}");
            }
            assert!(text.contains("✘") == marks && text.contains("FAIL") != marks, "{text}");
        }
    }

    #[test]
    fn what_an_invalid_configuration_leaves_out_is_said() {
        let report = Report::new(vec![Check::fail(Group::Configuration, "configuration", "a", "b")], true);
        let text = report.list(PLAIN);
        assert!(text.contains("Not checked") && text.ends_with("0 ok, 0 warnings, 1 failure\n"), "{text}");
        assert!(report.has(Status::Fail) && !report.has(Status::Warn));
    }
}
