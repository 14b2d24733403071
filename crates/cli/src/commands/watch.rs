//! `watch`: the tickets as they are, then each change; a live table on a terminal, a line for each change otherwise.
//!
//! A stream that breaks is opened again and continues after the last change that was printed.

mod live;

use std::{error::Error as _, pin::pin, time::Duration};

use eticket_base::telemetry;
use eticket_proto::query::{
    TicketView, WatchTicketViewsRequest, WatchTicketViewsResponse, query_service_client::QueryServiceClient,
};
use prost_types::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, Streaming};

use self::live::Live;
use super::Session;
use crate::{
    Outcome,
    args::Watch,
    error::{Error, printable},
    json,
    output::{Format, Resource, Screen},
    resources::{self, holder, ticket_status},
    time,
};

/// Without a connection for so long, the watch ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pauses between attempts: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Changes that come within this time are drawn at once.
const FRAME: Duration = Duration::from_millis(50);

pub(super) async fn run(args: Watch) -> Outcome {
    let session = Session::open(&args.common).await?;
    let mut sink = match (session.screen.format, session.screen.is_terminal) {
        (Format::Table, true) => Sink::Live(Box::new(Live::new(session.screen.clone()))),
        _ => Sink::Lines(session.screen.clone()),
    };
    sink.begin()?;
    let request = WatchTicketViewsRequest { ticket_ids: args.tickets, resume_token: String::new() };
    let left = args.count.unwrap_or(u64::MAX);
    let watching = pin!(follow(&session, request, &mut sink, left));
    tokio::select! {
        biased;
        outcome = watching => outcome,
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
    }
}

/// Follows until `left` changes were printed.
async fn follow(session: &Session, mut request: WatchTicketViewsRequest, sink: &mut Sink, mut left: u64) -> Outcome {
    let (mut pause, mut last) = (PAUSES.0, Instant::now());
    loop {
        let call = |channel, request| async move { QueryServiceClient::new(channel).watch_ticket_views(request).await };
        let status = match session.server.stream(request.clone(), call).await {
            Ok(mut stream) => {
                sink.connected()?;
                let before = left;
                let status = read(&mut stream, &mut request.resume_token, sink, &mut left).await?;
                if left == 0 {
                    return Ok(());
                }
                if left < before {
                    (pause, last) = (PAUSES.0, Instant::now());
                }
                status
            }
            Err(status) => status,
        };
        let may_pass = status.code() == Code::Unavailable || status.source().is_some();
        if !may_pass || last.elapsed() > PATIENCE {
            return Err(session.server.status(status));
        }
        sink.disconnected(status.message())?;
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Prints changes until the stream ends, and returns why it did.
async fn read(
    stream: &mut Streaming<WatchTicketViewsResponse>,
    resume_token: &mut String,
    sink: &mut Sink,
    left: &mut u64,
) -> Result<Status, Error> {
    loop {
        let message = match timeout(FRAME, stream.message()).await {
            Ok(message) => message,
            Err(_) => {
                sink.draw()?;
                stream.message().await
            }
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Status::unavailable("the server ended the stream")),
            Err(status) => return Ok(status),
        };
        if let Some(view) = message.view {
            sink.change(view)?;
            *left = left.saturating_sub(1);
        }
        // Within a snapshot there is none: after a break it would begin again.
        if !message.resume_token.is_empty() {
            *resume_token = message.resume_token;
        }
        if *left == 0 {
            sink.draw()?;
            return Ok(Status::ok(""));
        }
    }
}

/// The output of a watch.
enum Sink {
    Live(Box<Live>),
    Lines(Screen),
}

impl Sink {
    fn begin(&mut self) -> Outcome {
        match self {
            Self::Live(_) => Ok(()),
            Self::Lines(screen) if screen.format == Format::Csv => {
                screen.csv_rows(std::iter::once(TicketView::CSV.iter().map(|name| (*name).to_owned()).collect()))
            }
            Self::Lines(_) => Ok(()),
        }
    }

    fn change(&mut self, view: TicketView) -> Outcome {
        match self {
            Self::Live(live) => {
                live.change(view);
                Ok(())
            }
            Self::Lines(screen) => match screen.format {
                Format::Csv => screen.csv_rows(std::iter::once(view.csv())),
                Format::Json => screen.print(&format!("{}\n", json::value(TicketView::MESSAGE, &view)?)),
                Format::Table => screen.print(&plain_line(&view, screen)),
            },
        }
    }

    fn draw(&mut self) -> Outcome {
        match self {
            Self::Live(live) => live.draw(),
            Self::Lines(_) => Ok(()),
        }
    }

    fn connected(&mut self) -> Outcome {
        match self {
            Self::Live(live) => live.set_trouble(None),
            Self::Lines(_) => Ok(()),
        }
    }

    fn disconnected(&mut self, why: &str) -> Outcome {
        match self {
            Self::Live(live) => live.set_trouble(Some(why)),
            Self::Lines(_) => {
                telemetry::say(&format!("warning: connecting again: {}\n", printable(why)));
                Ok(())
            }
        }
    }
}

/// Fields separated by tabs: when, ticket, status, price, holder, whether it is settled.
fn plain_line(view: &TicketView, screen: &Screen) -> String {
    let fields = [
        shown(view.update_time.as_ref(), screen),
        view.ticket_id.clone(),
        ticket_status(view.ticket_status),
        resources::price(view.discounted_price.as_ref()),
        holder(view),
        if view.settled { "settled" } else { "not settled" }.to_owned(),
    ];
    fields.map(|field| printable(&field)).join("\t") + "\n"
}

fn shown(time: Option<&Timestamp>, screen: &Screen) -> String {
    time::read(time).map(|time| screen.zone.show(time)).unwrap_or_default()
}
