//! Commands over several items: a few at a time, results in the order of the items, an end at the first sign that the server is
//! gone.

use std::{collections::BTreeMap, collections::HashSet, pin::pin};

use eticket_base::telemetry;
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{
    Outcome,
    error::{Error, printable},
    output::{Format, Screen, Tone},
};

/// Items that are under way at a time.
const AT_A_TIME: usize = 8;
/// Columns of the longest result of a command and of a dry run.
const LONGEST_RESULT: usize = "registered".len();
const LONGEST_PLAN: usize = "would register".len();

/// Whether items are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Command,
    /// Nothing is changed.
    DryRun,
}

/// The result of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    id: String,
    result: String,
    detail: String,
    tone: Tone,
    /// The exit code that a command for this item alone would have.
    code: u8,
}

impl Line {
    pub(crate) fn done(id: &str, result: &str, detail: impl Into<String>) -> Self {
        Self { id: id.to_owned(), result: result.to_owned(), detail: detail.into(), tone: Tone::Good, code: 0 }
    }

    /// Nothing had to be done.
    pub(crate) fn unchanged(id: &str, detail: impl Into<String>) -> Self {
        Self { tone: Tone::Quiet, ..Self::done(id, "unchanged", detail) }
    }

    pub(crate) fn refused(id: &str, result: &str, detail: impl Into<String>) -> Self {
        Self { tone: Tone::Bad, code: 1, ..Self::done(id, result, detail) }
    }

    pub(crate) fn failed(id: &str, error: &Error) -> Self {
        let detail = match error.reason() {
            reason if reason.is_empty() => error.text(),
            reason => format!("{reason}: {}", error.text()),
        };
        let result = if error.code() == 1 { "refused" } else { "failed" };
        Self { code: error.code(), ..Self::refused(id, result, detail) }
    }
}

/// The items without those that were already there.
pub(crate) fn distinct(items: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    items.into_iter().filter(|item| seen.insert(item.clone())).collect()
}

/// Does `work` for each item and prints each result as soon as it and all before it are there. Ends early on Ctrl-C, and when an
/// item fails because the server is not available.
///
/// `id` returns the id of an item; ids that come align.
pub(crate) async fn run<T, Fut>(
    screen: &Screen,
    kind: Kind,
    items: Vec<T>,
    id: impl Fn(&T) -> &str,
    work: impl Fn(T) -> Fut,
) -> Outcome
where
    Fut: Future<Output = Line>,
{
    let total = items.len();
    let bar = bar(total);
    let result = if kind == Kind::DryRun { LONGEST_PLAN } else { LONGEST_RESULT };
    let widths = (result, items.iter().map(|item| id(item).len()).max().unwrap_or_default());
    let mut printer = Printer { screen, lines: Vec::new(), widths };
    printer.header()?;
    let mut results = pin!(stream::iter(items).map(work).buffered(AT_A_TIME));
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut cut = None;
    loop {
        let line = tokio::select! {
            biased;
            _ = &mut interrupted => {
                cut = Some(Error::Interrupted);
                break;
            }
            line = results.next() => line,
        };
        let Some(line) = line else { break };
        let code = line.code;
        bar.inc(1);
        bar.suspend(|| printer.print(line))?;
        if code > 1 {
            cut = (printer.lines.len() < total).then_some(Error::Partial { code });
            break;
        }
    }
    bar.finish_and_clear();
    printer.summary(kind, total)?;
    let worst = printer.lines.iter().map(|line| line.code).max().unwrap_or_default();
    match cut {
        Some(error) => Err(error),
        None if worst > 0 => Err(Error::Partial { code: worst }),
        None => Ok(()),
    }
}

fn bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len}, {eta} to go") {
        bar.set_style(style);
    }
    bar
}

struct Printer<'a> {
    screen: &'a Screen,
    lines: Vec<Line>,
    /// Of results and ids.
    widths: (usize, usize),
}

impl Printer<'_> {
    fn header(&self) -> Outcome {
        match self.screen.format {
            Format::Csv => {
                self.screen.csv_rows(std::iter::once(["id", "result", "detail"].map(str::to_owned).to_vec()))
            }
            Format::Table | Format::Json => Ok(()),
        }
    }

    fn print(&mut self, line: Line) -> Outcome {
        match self.screen.format {
            Format::Json => {}
            Format::Csv => {
                let row = vec![line.id.clone(), line.result.clone(), line.detail.clone()];
                self.screen.csv_rows(std::iter::once(row))?;
            }
            Format::Table => {
                let text = self.text(&line);
                self.screen.print(&text)?;
            }
        }
        self.lines.push(line);
        Ok(())
    }

    fn text(&self, line: &Line) -> String {
        let (result, id) = (format!("{:width$}", line.result, width = self.widths.0), printable(&line.id));
        let text = format!("  {id:width$}  {}", printable(&line.detail), width = self.widths.1);
        // The text of a failure is never cut.
        let room = self.screen.size().filter(|_| line.code == 0).map_or(usize::MAX, |(columns, _)| columns.into());
        let text = console::truncate_str(text.trim_end(), room.saturating_sub(result.len()), "…").into_owned();
        format!("{}{text}\n", self.screen.style.toned(&result, line.tone))
    }

    fn summary(&self, kind: Kind, total: usize) -> Outcome {
        if self.screen.format == Format::Json {
            let line = |line: &Line| json!({"id": line.id, "result": line.result, "detail": line.detail});
            self.screen.json(&self.lines.iter().map(line).collect())?;
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for line in &self.lines {
            *counts.entry(&line.result).or_default() += 1;
        }
        let counts: Vec<_> = counts.iter().map(|(result, count)| format!("{count} {result}")).collect();
        let mut text = counts.join(", ");
        if kind == Kind::DryRun {
            text += ". This was a dry run: nothing was changed";
        }
        if self.lines.len() < total {
            let open = total - self.lines.len();
            text += &format!(". {open} of {total} not finished: run the command again to continue");
        }
        // Programs read standard output; people see both.
        match self.screen.format {
            Format::Table => self.screen.print(&format!("{}\n", self.screen.style.bold(&(text + ".")))),
            Format::Json | Format::Csv if self.lines.len() < total => {
                telemetry::say(&format!("{text}.\n"));
                Ok(())
            }
            Format::Json | Format::Csv => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::output::Style;

    use super::*;

    fn screen() -> Screen {
        Screen { format: Format::Table, zone: crate::time::Zone::Local, style: Style::PLAIN, is_terminal: false }
    }

    async fn with_results(codes: &[u8]) -> (Outcome, u32) {
        let started = Cell::new(0);
        let work = |code: u8| {
            started.set(started.get() + 1);
            async move { Line { code, ..Line::done("id", "done", "") } }
        };
        let outcome = run(&screen(), Kind::Command, codes.to_vec(), |_| "id", work).await;
        (outcome, started.get())
    }

    #[tokio::test]
    async fn a_refusal_stops_nothing_but_a_server_that_is_gone_does() {
        assert!(with_results(&[0; 20]).await.0.is_ok());
        let (outcome, started) = with_results(&[&[1][..], &[0; 19]].concat()).await;
        assert_eq!((outcome.expect_err("one was refused").code(), started), (1, 20));
        let (outcome, started) = with_results(&[&[69][..], &[0; 19]].concat()).await;
        assert_eq!(outcome.expect_err("not available").code(), 69);
        assert!(started <= 2 * u32::try_from(AT_A_TIME).expect("small"), "{started} were started");
        assert_eq!(with_results(&[0, 69]).await.0.expect_err("the last one failed").code(), 69);
    }

    #[test]
    fn items_count_once() {
        let items = ["b", "a", "b"].map(str::to_owned).to_vec();
        assert_eq!(distinct(items), ["b", "a"]);
    }
}
