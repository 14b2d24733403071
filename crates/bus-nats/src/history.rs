//! Reads the past of subjects backwards, by requests for single messages, which leave no state on the server.
//!
//! The server can find the next message of a subject after a sequence, but not the one before it. So the stream is read
//! in windows that begin before the last one and become larger while they hold few messages; within a window, from its
//! start. Requests go to the leader of the stream, which has every acknowledged message.

use std::sync::Arc;

use eticket_bus::{Delivery, Error, History};
use futures::future::try_join_all;
use serde_json::json;

use super::{
    connection::Failure,
    message::Stored,
    stream::{STREAM, Stream},
};

/// Number of sequences in the first window.
const FIRST_WINDOW: u64 = 1024;
/// By this factor the next window is larger.
const GROWTH: u64 = 8;
/// A window with more messages than this beyond the wanted ones is read again at half its size.
const SURPLUS: usize = 64;

#[derive(serde::Deserialize)]
struct Found {
    message: Numbered,
}

#[derive(serde::Deserialize)]
struct Numbered {
    seq: u64,
    #[serde(flatten)]
    stored: Stored,
}

/// See [`eticket_bus::Bus::history`].
pub(super) async fn read(
    stream: &Stream,
    filters: &[&str],
    before: Option<u64>,
    most: usize,
) -> Result<History, Error> {
    let info = stream.ensure().await?;
    let mut end = before.unwrap_or(u64::MAX).min(info.last_sequence() + 1);
    let (mut width, mut messages) = (FIRST_WINDOW, Vec::new());
    while messages.len() < most && end > info.first_sequence().max(1) {
        let start = end.saturating_sub(width).max(1);
        let limit = most - messages.len() + SURPLUS;
        let parts = try_join_all(filters.iter().map(|filter| window(stream, filter, start, end, limit))).await?;
        let mut found: Vec<Delivery> = parts.iter().flatten().flatten().cloned().collect();
        if (parts.iter().any(Option::is_none) || found.len() > limit) && width > 1 {
            width /= 2;
            continue;
        }
        found.sort_unstable_by_key(|found| std::cmp::Reverse(found.sequence));
        found.dedup_by_key(|found| found.sequence);
        messages.extend(found);
        (end, width) = (start, width.saturating_mul(GROWTH));
    }
    messages.truncate(most);
    stream.check_unchanged(&info).await?;
    Ok(History { epoch: info.state().epoch, messages })
}

/// Returns the messages of a window in the order of sequences; `None` if there are more than `limit`.
async fn window(
    stream: &Stream,
    filter: &str,
    start: u64,
    end: u64,
    limit: usize,
) -> Result<Option<Vec<Delivery>>, Error> {
    let (mut found, mut from) = (Vec::new(), start);
    while from < end {
        let request = json!({ "seq": from, "next_by_subj": filter });
        let next = match stream.api::<Found>(&format!("STREAM.MSG.GET.{STREAM}"), &request).await {
            Ok(Found { message }) => message,
            Err(Failure::Refused(refusal)) if refusal.is_no_message() => break,
            Err(failure) => return Err(stream.explain(failure)),
        };
        if next.seq >= end {
            break;
        }
        if found.len() == limit {
            return Ok(None);
        }
        from = next.seq + 1;
        // A message that this program cannot read is no message of the bus.
        if let Some(message) = next.stored.into_message() {
            found.push(Delivery { sequence: next.seq, attempts: 1, message: Arc::new(message) });
        }
    }
    Ok(Some(found))
}
