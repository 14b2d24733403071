//! Results on standard output: tables for people, JSON and CSV for programs.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use chrono::Utc;
use clap::ValueEnum;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row, Table, Width, presets,
};
use console::Term;
use serde_json::Value;

use crate::{
    args::Common,
    error::{Error, printable},
    json,
    time::Zone,
};

/// Shown for a missing value.
pub(crate) const NOTHING: &str = "-";

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// The messages of the contract as proto3 JSON, times in UTC
    Json,
    /// A header and a line for each entry, times in UTC
    Csv,
}

/// The meaning of a text, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
    Quiet,
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    colors: bool,
}

impl Style {
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colors: false };

    /// Colours only on a terminal, and never with NO_COLOR or on a dumb terminal.
    fn of(is_terminal: bool) -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colors: is_terminal && !set("NO_COLOR") && !dumb }
    }

    pub(crate) fn of_stderr() -> Self {
        Self::of(io::stderr().is_terminal())
    }

    fn paint(self, text: &str, codes: &str) -> String {
        if self.colors { format!("\u{1b}[{codes}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub(crate) fn error(self, text: &str) -> String {
        self.paint(text, "1;31")
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint(text, "2")
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(text, "1")
    }

    pub(crate) fn toned(self, text: &str, tone: Tone) -> String {
        match tone {
            Tone::Plain => text.to_owned(),
            Tone::Good => self.paint(text, "32"),
            Tone::Busy => self.paint(text, "33"),
            Tone::Bad => self.paint(text, "31"),
            Tone::Quiet => self.paint(text, "2"),
        }
    }
}

/// How a column of a table behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Never shortened: ids, times, statuses.
    Whole,
    /// As `Whole`, on the right: amounts.
    Right,
    /// Shortened if the terminal is too narrow: titles.
    Short,
    /// On a line of its own if the terminal is too narrow: descriptions.
    Below,
}

/// A message of the contract that commands list, as a row of each format.
pub(crate) trait Resource: prost::Message + Sized {
    /// Full name of the message.
    const MESSAGE: &'static str;
    /// One and several of them.
    const NOUN: (&'static str, &'static str);
    /// Names of the CSV columns.
    const CSV: &'static [&'static str];
    /// Columns of the table.
    const TABLE: &'static [(&'static str, Fit)];

    fn csv(&self) -> Vec<String>;
    fn row(&self, zone: Zone) -> Vec<(String, Tone)>;
}

/// Standard output.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    pub(crate) format: Format,
    pub(crate) zone: Zone,
    pub(crate) style: Style,
    pub(crate) is_terminal: bool,
}

impl Screen {
    pub(crate) fn new(common: &Common) -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self { format: common.output, zone: common.zone, style: Style::of(is_terminal), is_terminal }
    }

    /// Columns and rows of the terminal; `None` if it is none. A terminal that does not tell its size counts as one of 80 columns.
    pub(crate) fn size(&self) -> Option<(u16, u16)> {
        let (rows, columns) = Term::stdout().size_checked().unwrap_or((24, 80));
        self.is_terminal.then_some((columns.max(20), rows))
    }

    /// Writes a text as it is.
    pub(crate) fn print(&self, text: &str) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Prints all entries of a list.
    pub(crate) fn list<R: Resource>(&self, entries: &[R]) -> Result<(), Error> {
        match self.format {
            Format::Json => {
                let values: Result<Vec<_>, _> = entries.iter().map(|entry| json::value(R::MESSAGE, entry)).collect();
                self.json(&Value::Array(values?))
            }
            Format::Csv => {
                self.csv_rows(std::iter::once(R::CSV.iter().map(|name| (*name).to_owned()).collect()))?;
                self.csv_rows(entries.iter().map(Resource::csv))
            }
            Format::Table if entries.is_empty() => self.print(&format!("No {}.\n", R::NOUN.1)),
            Format::Table => {
                let rows = entries.iter().map(|entry| entry.row(self.zone));
                let noun = if entries.len() == 1 { R::NOUN.0 } else { R::NOUN.1 };
                let note = format!("{} {noun}, times in {}", entries.len(), self.zone.note(Utc::now()));
                self.print(&format!("{}\n{}\n", self.table(R::TABLE, rows), self.style.dim(&note)))
            }
        }
    }

    /// A value as JSON: indented on a terminal, one line otherwise.
    pub(crate) fn json(&self, value: &Value) -> Result<(), Error> {
        let text = if self.is_terminal { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        self.print(&(text.map_err(Error::internal)? + "\n"))
    }

    pub(crate) fn csv_rows(&self, rows: impl Iterator<Item = Vec<String>>) -> Result<(), Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in rows {
            writer.write_record(row).map_err(Error::internal)?;
        }
        let text = writer.into_inner().map_err(Error::internal)?;
        let mut out = io::stdout().lock();
        out.write_all(&text)?;
        Ok(out.flush()?)
    }

    /// A table without its last line break. On a terminal, no line is longer than the terminal.
    pub(crate) fn table(&self, columns: &[(&str, Fit)], rows: impl Iterator<Item = Vec<(String, Tone)>>) -> String {
        let width = self.size().map(|(columns, _)| columns);
        table(columns, rows, width, self.style)
    }

    /// A title, and labels with texts below it.
    pub(crate) fn card(&self, title: &str, lines: &[(String, String, Tone)]) -> String {
        let mut text = String::new();
        if !title.is_empty() {
            text += &format!("{}\n", self.style.bold(&printable(title)));
        }
        let width = lines.iter().map(|(label, ..)| console::measure_text_width(label)).max().unwrap_or_default();
        for (label, value, tone) in lines {
            let padding = " ".repeat(width - console::measure_text_width(label));
            let value = self.style.toned(&printable(value), *tone);
            text += &format!("  {}{padding}  {value}\n", self.style.dim(label));
        }
        text
    }
}

/// A column that may be shortened keeps this many columns of the terminal, if it has so much text.
const SHORTEST: usize = 14;

/// On a terminal that has no room for the columns that may be shortened, these go to a line of their own below each row.
fn table(
    columns: &[(&str, Fit)],
    rows: impl Iterator<Item = Vec<(String, Tone)>>,
    width: Option<u16>,
    style: Style,
) -> String {
    let clean = |(text, tone): (String, Tone)| (printable(&text), tone);
    let rows: Vec<Vec<_>> = rows.map(|row| row.into_iter().map(clean).collect()).collect();
    let fits = |moved: Moved| width.is_none_or(|width| needed(columns, &rows, moved) <= usize::from(width));
    // As little as possible.
    let moved = match () {
        () if fits(Moved::Nothing) => return grid(columns, &rows, width, style).join("\n"),
        () if fits(Moved::Below) => Moved::Below,
        () if fits(Moved::Short) => Moved::Short,
        () => Moved::AllButFirst,
    };
    let places = columns.iter().enumerate();
    let whole: Vec<_> =
        places.filter(|(place, (_, fit))| !moved.has(*place, *fit)).map(|(_, column)| *column).collect();
    let split = |row: &Vec<(String, Tone)>| -> (Vec<_>, Vec<_>) {
        let (mut whole, mut below) = (Vec::new(), Vec::new());
        for (place, ((text, tone), (title, fit))) in row.iter().cloned().zip(columns).enumerate() {
            match *title {
                _ if !moved.has(place, *fit) => whole.push((text, tone)),
                _ if text.is_empty() || text == NOTHING => {}
                // These speak for themselves.
                "TITLE" | "DESCRIPTION" => below.push(text),
                title => below.push(format!("{} {text}", title.to_lowercase())),
            }
        }
        (whole, below)
    };
    let (whole_rows, below): (Vec<_>, Vec<_>) = rows.iter().map(split).unzip();
    let mut lines = grid(&whole, &whole_rows, width, style).into_iter();
    let mut all: Vec<_> = lines.next().into_iter().collect();
    let width = usize::from(width.unwrap_or(u16::MAX));
    for (line, texts) in lines.zip(below) {
        let below = format!("  {}", texts.join(", "));
        all.extend([line, style.dim(&console::truncate_str(&below, width, "…"))]);
    }
    all.join("\n")
}

/// The columns that go to a line below the row; each variant has those of the one before too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moved {
    Nothing,
    Below,
    Short,
    AllButFirst,
}

impl Moved {
    fn has(self, place: usize, fit: Fit) -> bool {
        match fit {
            Fit::Below => self >= Self::Below,
            Fit::Short => self >= Self::Short,
            Fit::Whole | Fit::Right => self == Self::AllButFirst && place > 0,
        }
    }
}

/// Columns of the terminal that the table needs at least, without the columns that are `moved`.
fn needed(columns: &[(&str, Fit)], rows: &[Vec<(String, Tone)>], moved: Moved) -> usize {
    let of_column = |(index, (title, fit)): (usize, &(&str, Fit))| {
        let texts = rows.iter().filter_map(|row| row.get(index)).map(|(text, _)| console::measure_text_width(text));
        let content = texts.max().unwrap_or_default();
        let content = if *fit == Fit::Short { content.min(SHORTEST) } else { content };
        content.max(title.len()) + PADDING
    };
    let kept = columns.iter().enumerate().filter(|(place, (_, fit))| !moved.has(*place, *fit));
    kept.map(of_column).sum::<usize>().saturating_sub(PADDING)
}

/// Between two columns.
const PADDING: usize = 2;

/// The lines of a table, one for the header and one for each row.
fn grid(columns: &[(&str, Fit)], rows: &[Vec<(String, Tone)>], width: Option<u16>, style: Style) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_truncation_indicator("…");
    if style.colors {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    let header = columns.iter().map(|(title, _)| Cell::new(title).add_attribute(Attribute::Bold));
    table.set_header(header.collect::<Vec<_>>());
    for row in rows {
        let cells = row.iter().map(|(text, tone)| cell(text, *tone));
        let mut row = Row::from(cells.collect::<Vec<_>>());
        row.max_height(1);
        table.add_row(row);
    }
    for (index, (column, (title, fit))) in table.column_iter_mut().zip(columns).enumerate() {
        let last = index + 1 == columns.len();
        let padding = if last { 0 } else { PADDING };
        column.set_padding((0, u16::try_from(padding).unwrap_or_default()));
        column.set_constraint(match fit {
            // A boundary includes the padding.
            Fit::Short | Fit::Below => {
                ColumnConstraint::LowerBoundary(Width::Fixed(u16::try_from(title.len() + padding).unwrap_or(u16::MAX)))
            }
            Fit::Whole | Fit::Right => ColumnConstraint::ContentWidth,
        });
        if *fit == Fit::Right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn cell(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Busy => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Quiet => cell.add_attribute(Attribute::Dim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[(&str, Fit)] = &[("ID", Fit::Whole), ("TITLE", Fit::Short), ("PRICE", Fit::Right)];

    fn rows(rows: &[[&str; 3]]) -> Vec<Vec<(String, Tone)>> {
        rows.iter().map(|row| row.iter().map(|text| ((*text).to_owned(), Tone::Plain)).collect()).collect()
    }

    #[test]
    fn columns_align_also_with_wide_characters() {
        let rows = rows(&[["1", "합창 on a Wednesday", "8,000 KRW"], ["22", "Jazz", "10,000 KRW"]]);
        let text = table(COLUMNS, rows.into_iter(), Some(80), Style::PLAIN);
        let expected = "ID  TITLE                     PRICE\n\
                        1   합창 on a Wednesday   8,000 KRW\n\
                        22  Jazz                 10,000 KRW";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_narrow_terminal_shortens_titles_and_nothing_else() {
        let title = "합창 ".repeat(40);
        let id = "0199a0e0-0000-7000-8000-000000000001";
        // With too little room for a title of some use, titles have lines of their own.
        for (width, lines) in [(40, 3), (50, 3), (60, 3), (65, 2), (80, 2), (100, 2)] {
            let text = table(COLUMNS, rows(&[[id, &title, "8,000 KRW"]]).into_iter(), Some(width), Style::PLAIN);
            assert_eq!(text.lines().count(), lines, "{width}: {text}");
            assert!(text.contains(id) && text.contains('…'), "{text}");
            assert!(text.contains("8,000 KRW") || width == 40, "only then the price is below too: {text}");
            for line in text.lines() {
                assert!(console::measure_text_width(line) <= usize::from(width), "{width}: {line}");
            }
        }
        let text = table(COLUMNS, rows(&[[id, &title, "8,000 KRW"]]).into_iter(), None, Style::PLAIN);
        assert!(text.contains(title.trim_end()), "a pipe gets everything: {text}");
    }

    #[test]
    fn colours_are_for_terminals() {
        let rows = || vec![vec![("AVAILABLE".to_owned(), Tone::Good)]].into_iter();
        let columns: &[(&str, Fit)] = &[("STATUS", Fit::Whole)];
        assert!(!table(columns, rows(), None, Style::PLAIN).contains('\u{1b}'));
        assert!(table(columns, rows(), Some(80), Style { colors: true }).contains('\u{1b}'));
        assert!(!Style::of(false).colors);
    }

    #[test]
    fn a_title_cannot_steer_the_terminal() {
        let rows = rows(&[["1", "\u{1b}[2Jgone", "1 KRW"]]);
        assert!(!table(COLUMNS, rows.into_iter(), Some(80), Style::PLAIN).contains('\u{1b}'));
    }
}
