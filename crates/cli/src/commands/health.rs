//! `health`: the health services that the gateway knows.

use eticket_proto::health::{HealthListRequest, health_check_response::ServingStatus, health_client::HealthClient};
use serde_json::json;

use super::Session;
use crate::{
    Outcome,
    args::Common,
    error::Error,
    output::{Fit, Format, Tone},
};

pub(super) async fn run(common: &Common) -> Outcome {
    let session = Session::open(common).await?;
    let call = |channel, request| async move { HealthClient::new(channel).list(request).await };
    let response = session.server.call(HealthListRequest {}, call).await?;
    let status = |number: i32| ServingStatus::try_from(number).unwrap_or_default();
    let mut services: Vec<_> = response.statuses.iter().map(|(name, entry)| (name, status(entry.status))).collect();
    // The empty name is another name of `readiness`.
    services.retain(|(name, _)| !name.is_empty());
    services.sort();
    let screen = &session.screen;
    match screen.format {
        Format::Json => {
            let entry =
                |(name, status): &(&String, ServingStatus)| json!({"service": name, "status": status.as_str_name()});
            screen.json(&services.iter().map(entry).collect())?;
        }
        Format::Csv => {
            let header = std::iter::once(["service", "status"].map(str::to_owned).to_vec());
            let rows = services.iter().map(|(name, status)| vec![(*name).clone(), status.as_str_name().to_owned()]);
            screen.csv_rows(header.chain(rows))?;
        }
        Format::Table => {
            let row = |(name, status): &(&String, ServingStatus)| {
                let tone = if *status == ServingStatus::Serving { Tone::Good } else { Tone::Bad };
                vec![((*name).clone(), Tone::Plain), (status.as_str_name().to_owned(), tone)]
            };
            let columns = [("SERVICE", Fit::Whole), ("STATUS", Fit::Whole)];
            screen.print(&format!("{}\n", screen.table(&columns, services.iter().map(row))))?;
        }
    }
    let not_serving = services.iter().filter(|(_, status)| *status != ServingStatus::Serving).count();
    match not_serving {
        0 => Ok(()),
        count => Err(Error::refused(format!("{count} of {} not serving", services.len()))
            .with("try", "look at the log of the server, and at `eticket admin parked`")),
    }
}
