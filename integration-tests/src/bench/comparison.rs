//! Two sets of binaries, measured in turn. Both are measured in every round, so what changes on the machine between
//! rounds changes both.

use std::fmt::{self, Display, Formatter};

use serde_json::{Value, json};

use super::{
    Report,
    report::{figure, milliseconds},
};

/// The values of one figure, one for each round.
#[derive(Debug, Clone)]
struct Compared {
    name: &'static str,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Compared {
    /// Returns the ratio of each round, in ascending order.
    fn ratios(&self) -> Vec<f64> {
        sorted(self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours / theirs))
    }
}

/// The figures of two sets of binaries.
#[derive(Debug, Clone)]
pub struct Comparison {
    rounds: usize,
    figures: Vec<Compared>,
}

impl Comparison {
    /// Compares reports of ours and theirs, one pair for each round. A figure that a report does not have is left out.
    #[must_use]
    pub fn new(rounds: &[(Report, Report)]) -> Self {
        Self::of_figures(&rounds.iter().map(|(ours, theirs)| (figures(ours), figures(theirs))).collect::<Vec<_>>())
    }

    fn of_figures(rounds: &[(Figures, Figures)]) -> Self {
        let names = rounds.first().map(|(ours, _)| ours.map(|(name, _)| name)).unwrap_or_default();
        let compared = names.iter().enumerate().filter_map(|(at, name)| {
            let ours: Option<Vec<f64>> = rounds.iter().map(|(ours, _)| ours[at].1).collect();
            let theirs: Option<Vec<f64>> = rounds.iter().map(|(_, theirs)| theirs[at].1).collect();
            Some(Compared { name, ours: ours?, theirs: theirs? })
        });
        Self { rounds: rounds.len(), figures: compared.collect() }
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        let figures = self.figures.iter().map(
            |one| json!({ "name": one.name, "ours": one.ours, "theirs": one.theirs, "ratio": median(&one.ratios()) }),
        );
        json!({ "rounds": self.rounds, "figures": figures.collect::<Vec<_>>() })
    }
}

/// The table for people.
impl Display for Comparison {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "medians of {} rounds; ratios are ours to theirs, with the least and the most", self.rounds)?;
        writeln!(out, "  {:44}{:>10}{:>10}{:>9}{:>9}{:>9}", "", "ours", "theirs", "ratio", "least", "most")?;
        for one in &self.figures {
            let ratios = one.ratios();
            let value = |values: &[f64]| figure(median(&sorted(values.iter().copied())), 2);
            let ratio = |ratio: Option<f64>| figure(ratio, 3);
            let (ours, theirs) = (value(&one.ours), value(&one.theirs));
            let (middle, least, most) = (median(&ratios), ratios.first().copied(), ratios.last().copied());
            let (middle, least, most) = (ratio(middle), ratio(least), ratio(most));
            writeln!(out, "  {:44}{ours:>10}{theirs:>10}{middle:>9}{least:>9}{most:>9}", one.name)?;
        }
        Ok(())
    }
}

type Figures = [(&'static str, Option<f64>); 28];

fn figures(report: &Report) -> Figures {
    let work = &report.measured.work;
    let row = |name| report.row(name);
    let check = report.reference().cpu_us();
    // Until the last view has settled, not until the last response.
    let sustained = row("ReserveTicket")
        .map(|row| row.load.latencies.count() as f64 / (row.load.elapsed + work.settled_after).as_secs_f64());
    let view = row("GetTicketView").and_then(|row| row.cpu_us());
    let rate = |name| row(name).and_then(|row| row.rate());
    let latency = |name, share| row(name).and_then(|row| row.latency_ms(share));
    let cpu_of = |process| row("ReserveTicket").and_then(|row| row.cpu_us_of(process));
    [
        ("health Check: calls a second", rate("health Check")),
        ("health Check: CPU µs", check),
        ("RegisterTicket: calls a second", rate("RegisterTicket")),
        ("RegisterTicket: CPU µs", row("RegisterTicket").and_then(|row| row.whole_cpu_us())),
        ("ReserveTicket: calls a second", rate("ReserveTicket")),
        ("ReserveTicket: sustained, views settled", sustained),
        ("ReserveTicket: p50 ms", latency("ReserveTicket", 500)),
        ("ReserveTicket: p99 ms", latency("ReserveTicket", 990)),
        ("ReserveTicket: CPU µs", row("ReserveTicket").and_then(|row| row.cpu_us())),
        ("ReserveTicket: CPU µs with stores and bus", row("ReserveTicket").and_then(|row| row.whole_cpu_us())),
        ("ReserveTicket: CPU µs of the gateway", cpu_of("gateway")),
        ("ReserveTicket: CPU µs of reservation", cpu_of("reservation")),
        ("ReserveTicket: CPU µs of ticket", cpu_of("ticket")),
        ("ReserveTicket: CPU µs of pricing", cpu_of("pricing")),
        ("ReserveTicket: CPU µs of query", cpu_of("query")),
        ("ReserveTicket: CPU µs of PostgreSQL", cpu_of("postgres")),
        ("ReserveTicket: CPU µs of NATS", cpu_of("nats")),
        ("ReserveTicket: written KiB", Some(work.written_bytes / 1024.0)),
        ("ReserveTicket: statements", work.database.map(|work| work.statements)),
        ("ReserveTicket: KiB of write-ahead log", work.database.map(|work| work.log_bytes / 1024.0)),
        ("load to last settled view: ms", Some(milliseconds(work.settled_after))),
        ("GetTicketView: calls a second", rate("GetTicketView")),
        ("GetTicketView: CPU µs", view),
        ("GetTicketView: CPU as health Checks", view.zip(check).map(|(view, check)| view / check)),
        ("steady ReserveTicket: p50 ms", latency("ReserveTicket, steady", 500)),
        ("steady response to settled view: p50 ms", latency("answer to view, settled", 500)),
        ("steady response to settled view: p99 ms", latency("answer to view, settled", 990)),
        ("memory after the load: MiB", Some(report.after_load.resident as f64 / 1024.0)),
    ]
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// Returns the middle one of sorted values; of an even number, the lower of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_each_round() {
        let round = |ours, theirs| {
            let figures = |value| {
                let mut figures: Figures = [("none", None); 28];
                figures[0] = ("a figure", Some(value));
                figures
            };
            (figures(ours), figures(theirs))
        };
        let comparison = Comparison::of_figures(&[round(10.0, 2.0), round(30.0, 10.0), round(8.0, 2.0)]);
        let json = comparison.to_json();
        assert_eq!((&json["rounds"], json["figures"].as_array().map(Vec::len)), (&json!(3), Some(1)), "{json:#}");
        assert_eq!(json["figures"][0]["ratio"], 4.0, "not the ratio of the medians, 5");
        let table = comparison.to_string();
        let line: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(line, ["a", "figure", "10.00", "2.00", "4.000", "3.000", "5.000"]);
    }
}
