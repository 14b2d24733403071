//! The live table of `watch`: drawn again over itself at each change.

use std::collections::{BTreeMap, HashSet};

use chrono::Utc;
use eticket_proto::query::TicketView;

use crate::{
    Outcome,
    error::printable,
    output::{Fit, Resource, Screen, Tone},
};

/// Lines of a frame around the rows: title, header, and the line where the cursor stays.
const FRAME_LINES: usize = 3;

pub(super) struct Live {
    screen: Screen,
    views: BTreeMap<String, TicketView>,
    /// Changed since the last frame.
    changed: HashSet<String>,
    trouble: Option<String>,
    /// Lines of the last frame.
    drawn: usize,
}

impl Live {
    pub(super) fn new(screen: Screen) -> Self {
        Self { screen, views: BTreeMap::new(), changed: HashSet::new(), trouble: None, drawn: 0 }
    }

    pub(super) fn change(&mut self, view: TicketView) {
        self.changed.insert(view.ticket_id.clone());
        self.views.insert(view.ticket_id.clone(), view);
    }

    /// Shows why there is no connection, or that there is one.
    pub(super) fn set_trouble(&mut self, trouble: Option<&str>) -> Outcome {
        self.trouble = trouble.map(printable);
        self.draw()
    }

    pub(super) fn draw(&mut self) -> Outcome {
        let (columns, rows) = self.screen.size().unwrap_or((80, 24));
        let lines = self.frame(usize::from(columns), usize::from(rows));
        // Up to the first line of the last frame, and everything from there on is cleared.
        let back = if self.drawn > 0 { format!("\u{1b}[{}A", self.drawn) } else { String::new() };
        let text = format!("{back}\r\u{1b}[J{}\n", lines.join("\n"));
        self.drawn = lines.len();
        self.changed.clear();
        self.screen.print(&text)
    }

    /// The lines of a frame, fewer than the terminal has, so that it does not scroll.
    fn frame(&self, columns: usize, rows: usize) -> Vec<String> {
        let room = rows.saturating_sub(FRAME_LINES).max(1);
        let lines = self.lines(columns, room);
        // On a narrow terminal, a row has two lines.
        let mut lines = if lines.len() < rows { lines } else { self.lines(columns, (room / 2).max(1)) };
        lines.truncate(rows.saturating_sub(1).max(1));
        lines
    }

    /// The title and a table of at most `room` tickets.
    fn lines(&self, columns: usize, room: usize) -> Vec<String> {
        let mut views: Vec<_> = self.views.values().collect();
        let all = views.len();
        let stamp = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
        if all > room {
            // The newest changes matter most to the reader of a watch.
            views.sort_by_key(|view| std::cmp::Reverse(stamp(view.update_time)));
            views.truncate(room);
        } else {
            views.sort_by_key(|view| stamp(view.start_time));
        }
        let shown = if all > room { format!("the {room} newest changes of {all} tickets") } else { noun(all) };
        let zone = self.screen.zone.note(Utc::now());
        let title = match &self.trouble {
            Some(trouble) => format!("Connecting again: {trouble}"),
            None if all == 0 => "Waiting for the first ticket. Ctrl-C ends.".to_owned(),
            None => format!("Watching {shown}, times in {zone}. Ctrl-C ends."),
        };
        let title = console::truncate_str(&title, columns.saturating_sub(1), "…").into_owned();
        let style = self.screen.style;
        let mut lines = vec![if self.trouble.is_some() { style.error(&title) } else { style.dim(&title) }];
        if !views.is_empty() {
            let mut titles = vec![("", Fit::Whole)];
            titles.extend(TicketView::TABLE);
            // In the first frame everything is new.
            let marked = |id: &String| self.changed.len() < all && self.changed.contains(id);
            let row = |view: &TicketView| {
                let mark = if marked(&view.ticket_id) { "●" } else { " " };
                let mut cells = vec![(mark.to_owned(), Tone::Busy)];
                cells.extend(view.row(self.screen.zone));
                cells
            };
            lines.extend(self.screen.table(&titles, views.into_iter().map(row)).lines().map(str::to_owned));
        }
        lines
    }
}

fn noun(count: usize) -> String {
    match count {
        1 => "1 ticket".to_owned(),
        count => format!("{count} tickets"),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use crate::output::{Format, Style};

    use super::*;

    fn live(count: i64) -> Live {
        let screen = Screen {
            format: Format::Table,
            zone: "UTC".parse().expect("a zone"),
            style: Style::PLAIN,
            is_terminal: false,
        };
        let mut live = Live::new(screen);
        for number in 0..count {
            live.change(TicketView {
                ticket_id: format!("t-{number:03}"),
                title: "합창".to_owned(),
                start_time: Some(Timestamp { seconds: -number, nanos: 0 }),
                update_time: Some(Timestamp { seconds: number, nanos: 0 }),
                ..Default::default()
            });
        }
        live
    }

    #[test]
    fn tickets_are_ordered_by_their_start_while_they_fit() {
        let lines = live(3).frame(80, 24);
        assert!(lines[0].starts_with("Watching 3 tickets, times in UTC"), "{lines:?}");
        let ids: Vec<_> = lines[2..].iter().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(ids, ["t-002", "t-001", "t-000"]);
    }

    #[test]
    fn a_small_terminal_shows_what_changed_last() {
        let lines = live(100).frame(80, 10);
        assert!(lines.len() < 10, "the frame must not scroll: {lines:?}");
        assert!(lines[0].contains("7 newest changes of 100"), "{lines:?}");
        assert!(lines[2].contains("t-099"), "{lines:?}");
    }

    #[test]
    fn trouble_is_shown_until_it_is_over() {
        let mut live = live(1);
        live.trouble = Some("the server is gone".to_owned());
        assert!(live.frame(80, 24)[0].contains("Connecting again: the server is gone"));
        live.trouble = None;
        assert!(live.frame(80, 24)[0].starts_with("Watching 1 ticket"));
    }
}
