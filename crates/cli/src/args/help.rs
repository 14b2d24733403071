//! Longer texts of `--help`.

/// After the help of `register`.
pub(super) const REGISTER: &str = "The file is CSV in UTF-8 with this header:
  ticket_id,title,start_time,end_time
Every row is checked before anything is sent. A file can be registered again:
tickets that exist with the same fields stay as they are.

Examples:
  eticket register --id seat-12 --title 'Choir' \\
    --start '2099-01-07 19:00' --end '2099-01-07 22:00'
  eticket register --file tickets.csv --zone Asia/Seoul --dry-run";
