//! The CSV file of `register`: every row is checked, and all errors are reported at once.

use std::{
    collections::HashMap,
    io::{self, Read},
    path::Path,
};

use chrono::{DateTime, Utc};
use csv::{ReaderBuilder, StringRecord, Trim};
use eticket_base::config::regular_file;
use eticket_proto::ids::TicketId;

use crate::{error::Error, time::Zone};

const HEADER: [&str; 4] = ["ticket_id", "title", "start_time", "end_time"];
const LONGEST_TITLE: usize = 200;
/// Wrong rows beyond these are only counted.
const MOST_SHOWN: usize = 20;

/// A ticket to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewTicket {
    pub(super) ticket_id: String,
    pub(super) title: String,
    pub(super) start: DateTime<Utc>,
    pub(super) end: DateTime<Utc>,
}

/// Reads and checks the whole file, or standard input for `-`.
///
/// # Errors
/// 2 with every row that is wrong.
pub(super) fn read(path: &Path, zone: Zone) -> Result<Vec<NewTicket>, Error> {
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => io::stdin().read_to_end(&mut bytes).map(drop),
        _ => regular_file::read_once(path).map(|content| bytes = content),
    };
    let name = path.display();
    read.map_err(|error| Error::usage(format!("{name} cannot be read: {error}")))?;
    parse(&bytes, zone).map_err(|wrong| {
        let count = wrong.len();
        let what = if count == 1 { "1 row is wrong".to_owned() } else { format!("{count} rows are wrong") };
        let mut error = Error::usage(format!("{name}: {what}, nothing was sent"));
        for (line, text) in wrong.into_iter().take(MOST_SHOWN) {
            error = error.with(&format!("line {line}"), text);
        }
        if count > MOST_SHOWN { error.with("and", format!("{} more", count - MOST_SHOWN)) } else { error }
    })
}

/// The errors, with the number of their line.
type Wrong = Vec<(u64, String)>;

fn parse(bytes: &[u8], zone: Zone) -> Result<Vec<NewTicket>, Wrong> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut reader = ReaderBuilder::new().flexible(true).trim(Trim::All).from_reader(bytes);
    let expected = || vec![(1, format!("expected the header {}", HEADER.join(",")))];
    let header = reader.headers().map_err(|_| expected())?.clone();
    let places = HEADER.map(|name| header.iter().position(|column| column == name));
    let [Some(id), Some(title), Some(start), Some(end)] = places else { return Err(expected()) };
    if header.len() != HEADER.len() {
        return Err(expected());
    }
    let (mut rows, mut wrong, mut lines) = (Vec::new(), Wrong::new(), HashMap::new());
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                wrong.push((line, "it is not UTF-8".to_owned()));
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        match row(&record, [id, title, start, end], zone) {
            Ok(row) => match lines.insert(row.ticket_id.clone(), line) {
                Some(first) => wrong.push((line, format!("ticket_id: {} is also in line {first}", row.ticket_id))),
                None => rows.push(row),
            },
            Err(text) => wrong.push((line, text)),
        }
    }
    if rows.is_empty() && wrong.is_empty() {
        wrong.push((1, "there is no row below the header".to_owned()));
    }
    if wrong.is_empty() { Ok(rows) } else { Err(wrong) }
}

fn row(record: &StringRecord, places: [usize; 4], zone: Zone) -> Result<NewTicket, String> {
    if record.len() != HEADER.len() {
        let hint = "quote a text that contains a comma";
        return Err(format!("expected {} fields, got {}: {hint}", HEADER.len(), record.len()));
    }
    let [id, title, start, end] = places.map(|place| record.get(place).unwrap_or_default());
    let mut wrong = Vec::new();
    // An id that the server makes would be another one in each run.
    if let Err(error) = id.parse::<TicketId>() {
        wrong.push(format!("ticket_id: {error}"));
    }
    if !(1..=LONGEST_TITLE).contains(&title.chars().count()) || title.chars().any(char::is_control) {
        wrong.push(format!("title: expected 1 to {LONGEST_TITLE} characters without control characters"));
    }
    let mut time = |field: &str, text: &str| {
        zone.parse(text).map_err(|error| wrong.push(format!("{field}: {error}"))).unwrap_or_default()
    };
    let (start, end) = (time("start_time", start), time("end_time", end));
    if wrong.is_empty() && end <= start {
        wrong.push("end_time: expected a time later than start_time".to_owned());
    }
    match wrong.is_empty() {
        true => Ok(NewTicket { ticket_id: id.to_owned(), title: title.to_owned(), start, end }),
        false => Err(wrong.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Vec<NewTicket>, Wrong> {
        parse(text.as_bytes(), "Asia/Seoul".parse().expect("a zone"))
    }

    #[test]
    fn rows_are_read_with_quotes_and_in_the_zone() {
        let text = "\u{feff}ticket_id,title,start_time,end_time\r\n\
                    1,\"Choir, \"\"the\"\" evening\",2099-01-07 19:00,2099-01-07T12:00:00Z\r\n\
                    \r\n\
                    2 , 합창 ,2099-01-07 19:00,2099-01-07 21:00\r\n";
        let rows = parse_text(text).expect("valid");
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].title, "Choir, \"the\" evening");
        assert_eq!(rows[0].start.to_rfc3339(), "2099-01-07T10:00:00+00:00");
        assert_eq!((rows[1].ticket_id.as_str(), rows[1].title.as_str()), ("2", "합창"));
        let other_order = "title,end_time,start_time,ticket_id\nChoir,2099-01-08,2099-01-07,1\n";
        assert_eq!(parse_text(other_order).expect("valid")[0].ticket_id, "1");
    }

    #[test]
    fn all_wrong_rows_are_named_by_their_lines() {
        let text = "ticket_id,title,start_time,end_time\n\
                    1,Choir,2099-01-07 19:00,2099-01-07 21:00\n\
                    a b,,soon,2099-01-07 21:00\n\
                    2,Choir,2099-01-07 21:00,2099-01-07 21:00\n\
                    1,Choir,2099-01-07 19:00,2099-01-07 21:00\n\
                    3,Choir, a comma,2099-01-07 19:00,2099-01-07 21:00\n\
                    ,Choir,2099-01-07 19:00,2099-01-07 21:00\n";
        let wrong = parse_text(text).expect_err("most rows are wrong");
        let lines: Vec<_> = wrong.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3, 4, 5, 6, 7], "{wrong:?}");
        for (index, word) in
            [(0, "title"), (0, "start_time"), (1, "later"), (2, "line 2"), (3, "comma"), (4, "ticket_id")]
        {
            assert!(wrong[index].1.contains(word), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        for text in [
            "",
            "\n",
            "ticket_id;title;start_time;end_time\n1;a;2099-01-07;2099-01-08\n",
            "id,title,start_time,end_time\n",
            "ticket_id,title,start_time,end_time,venue\n1,a,2099-01-07,2099-01-08,x\n",
        ] {
            assert!(parse_text(text).expect_err(text)[0].1.contains("ticket_id,title,start_time,end_time"), "{text}");
        }
        assert!(parse_text("ticket_id,title,start_time,end_time\n").expect_err("empty")[0].1.contains("no row"));
        let wrong = parse(b"ticket_id,title,start_time,end_time\n1,\xff,2099-01-07,2099-01-08\n", Zone::Local);
        assert!(wrong.expect_err("not UTF-8")[0].1.contains("UTF-8"));
    }
}
