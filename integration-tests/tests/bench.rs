//! Runs the benchmark with minimal load, so that it keeps working.

use clap::ValueEnum;
use eticket_integration_tests::{
    Protocol,
    bench::{Experiment, Form, Plan, Report, Scale},
    binary::binary,
};

#[tokio::test]
async fn the_report_contains_every_measurement() {
    let report = Form::AllInOne.run(&Plan::tiny(), None).await;
    check(&report);
    assert!(report.to_string().contains("start to the ready line"), "{report}");
    let html = report.to_html("<abc>");
    assert!(html.contains("eTicket at &lt;abc&gt;"), "{html}");
    for title in ["Latency of ReserveTicket", "CPU time of a reservation by process", "has not applied"] {
        assert!(html.contains(title), "{title} is not in\n{html}");
    }
    assert_eq!(html.matches("<svg ").count(), 3, "{html}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn the_distributed_form_is_compared_with_pgbench() {
    let report = Form::Distributed.run(&Plan::tiny(), None).await;
    check(&report);
    assert!(report.to_string().contains("pgbench"), "{report}");
    let json = report.to_json("abc");
    assert!(json["reservations_to_pgbench"].as_f64().is_some_and(|ratio| ratio > 0.0), "{json:#}");
    for figure in ["statements", "wal_bytes"] {
        assert!(json["a_reservation"][figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {json:#}");
    }
}

#[tokio::test]
async fn two_sets_of_binaries_are_compared() {
    let folder = binary("eticket").parent().expect("a folder").to_owned();
    let json = Form::AllInOne.compare(&Plan::tiny(), &folder, 2).await.to_json();
    let figures = json["figures"].as_array().expect("figures");
    assert_eq!((&json["rounds"], figures.len()), (&2.into(), 19), "{json:#}");
    for figure in figures {
        let name = figure["name"].as_str().expect("a name");
        // So little load may use less than one tick of the clock, and write nothing.
        let is_certain = !name.contains("CPU") && !name.contains("written");
        assert!(!is_certain || figure["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{figure:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn every_experiment_measures_all_its_figures() {
    for experiment in Experiment::value_variants() {
        let outcome = experiment.run(&Scale::tiny()).await;
        let json = outcome.to_json();
        let figures = json["figures"].as_array().expect("figures");
        let expected = match experiment {
            Experiment::Growth => 13,
            Experiment::Gateway => 12,
            Experiment::Sale => 5,
            Experiment::Backlog => 8,
            Experiment::Snapshot => 13,
            Experiment::Traces => 4,
        };
        assert_eq!(figures.len(), expected, "{outcome}");
        for figure in figures {
            // So little load may use less than one tick of the clock, and latencies that are added can be below zero.
            let name = figure["name"].as_str().expect("a name");
            let is_certain = !["CPU", "to its", "to that", "to the", "to without", "spans", "added"]
                .iter()
                .any(|part| name.contains(part));
            assert!(!is_certain || figure["value"].as_f64().is_some_and(|value| value > 0.0), "{outcome}");
        }
    }
}

fn check(report: &Report) {
    let names: Vec<_> = report.measured.rows.iter().map(|row| (row.name, row.protocol)).collect();
    let expected = [
        ("RegisterTicket", Protocol::Gateway),
        ("health Check", Protocol::Gateway),
        ("ReserveTicket", Protocol::Gateway),
        ("GetTicketView", Protocol::Gateway),
        ("ReserveTicket, steady", Protocol::Gateway),
        ("answer to view, applied", Protocol::Gateway),
        ("answer to view, settled", Protocol::Gateway),
        ("health Check", Protocol::Direct),
        ("ReserveTicket", Protocol::Direct),
        ("GetTicketView", Protocol::Direct),
    ];
    assert_eq!(names, expected);
    for row in report.measured.rows.iter().chain(&report.measured.wires) {
        assert!(row.load.errors.is_empty() && row.load.latencies.count() > 0, "{row:?}");
    }
    let curve: Vec<_> =
        report.measured.curve.iter().map(|point| (point.callers, point.row.load.latencies.count())).collect();
    assert_eq!(curve, [(1, 4), (3, 4)]);
    assert!(!report.measured.timeline.is_empty());
    let reservations = report.measured.rows[2].load.latencies.count();
    assert_eq!(reservations, Plan::tiny().reservations, "each reservation has its own ticket");
    let json = report.to_json("abc");
    assert_eq!(json["commit"], "abc");
    assert_eq!(json["calls"][2]["name"], "ReserveTicket");
    assert!(json["calls"][2]["ratio_to_check"]["per_second"].as_f64().is_some_and(|ratio| ratio > 0.0), "{json:#}");
    assert!(json["a_reservation"]["services"][0]["commits"].as_f64().is_some_and(|commits| commits > 0.0), "{json:#}");
    assert_eq!(json["wires"].as_array().map(Vec::len), Some(9), "{json:#}");
    assert!(json["wires"][8]["cpu_to_grpc"].is_number(), "{json:#}");
    let table = report.to_string();
    for part in ["health Check", "answer to view, settled", "without the gateway", "REST, HTTP/1.1"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
}
