//! The report as one HTML file, with plots.

use std::{fmt::Display, ops::Range};

use plotters::{
    chart::ChartContext,
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
};

use super::{Report, report::milliseconds};

const SIZE: (u32, u32) = (900, 420);
const FONT: (&str, u32) = ("sans-serif", 16);
const STYLE: &str =
    "body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
    svg { max-width: 100%; height: auto } pre { overflow-x: auto; font-size: 13px; line-height: 1.35 }";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plot<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
/// A name and its points.
type Series = (String, Vec<(f64, f64)>);

impl Report {
    /// Returns the report as an HTML file without further files.
    ///
    /// # Panics
    /// Never: plots are drawn into memory.
    #[must_use]
    pub fn to_html(&self, commit: &str) -> String {
        let curve = &self.measured.curve;
        let latency = |share: usize| {
            let point = |row: &super::Row| Some((row.load.per_second(), row.latency_ms(share)?));
            curve.iter().filter_map(|point_of| point(&point_of.row)).collect::<Vec<_>>()
        };
        let latencies = vec![("p50".to_owned(), latency(500)), ("p99".to_owned(), latency(990))];
        let callers: Vec<String> = curve.iter().map(|point| point.callers.to_string()).collect();
        let mut processes: Vec<&str> = curve
            .iter()
            .filter_map(|point| point.row.cost.as_ref())
            .flat_map(|cost| cost.cpu.keys().copied())
            .collect();
        processes.sort_unstable();
        processes.dedup();
        let cpu = processes.iter().map(|process| {
            let of = |point: &super::Point| point.row.cpu_us_of(process).unwrap_or(0.0);
            ((*process).to_owned(), curve.iter().map(of).collect())
        });
        let behind = self.measured.timeline.iter().map(|sample| (sample.at.as_secs_f64(), sample.behind)).collect();
        let settled = milliseconds(self.measured.work.settled_after);
        let body = [
            lines("Latency of ReserveTicket", ["reservations a second", "ms"], &latencies),
            stacked("CPU time of a reservation by process", ["callers", "µs"], &callers, &cpu.collect::<Vec<_>>()),
            lines(
                "Events that the slowest replica of query has not applied",
                ["seconds of load", "events"],
                &[("events".to_owned(), behind)],
            ),
        ];
        let plots: Vec<String> = body.iter().map(|plot| format!("<p>{plot}</p>")).collect();
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>eTicket benchmark</title>\
             <style>{STYLE}</style></head><body>\n<h1>eTicket at {}</h1>\n<p>{} cores, shared with the load. A point of the \
             first plot is a closed loop with {} callers. The third plot shows the load of the table with {} callers; all \
             views had settled {settled:.0} ms after its last response.</p>\n{}\n<pre>{}</pre>\n</body></html>\n",
            escaped(commit),
            self.cores,
            callers.join(", "),
            self.plan.callers,
            plots.join("\n"),
            escaped(self),
        )
    }
}

fn escaped(text: &(impl Display + ?Sized)) -> String {
    text.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn drawn(draw: impl FnOnce(&Area<'_>)) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).expect("text has room");
        draw(&area);
        area.present().expect("text has room");
    }
    svg
}

fn plot<'a>(
    area: &Area<'a>,
    title: &str,
    [x, y]: [&str; 2],
    (across, up): (Range<f64>, f64),
    x_label: &dyn Fn(&f64) -> String,
) -> Plot<'a> {
    let mut builder = ChartBuilder::on(area);
    builder.caption(title, ("sans-serif", 20)).margin(12).x_label_area_size(44).y_label_area_size(64);
    let mut plot = builder.build_cartesian_2d(across, 0.0..up).expect("text has room");
    let mut mesh = plot.configure_mesh();
    mesh.x_desc(x).y_desc(y).label_style(FONT).light_line_style(TRANSPARENT);
    mesh.x_label_formatter(&x_label).y_label_formatter(&|value| format!("{value:.0}"));
    mesh.draw().expect("text has room");
    plot
}

fn legend(plot: &mut Plot<'_>, position: SeriesLabelPosition) {
    let mut labels = plot.configure_series_labels();
    labels.position(position).background_style(WHITE.mix(0.9)).border_style(BLACK.mix(0.3));
    labels.label_font(FONT).draw().expect("text has room");
}

fn lines(title: &str, axes: [&str; 2], series: &[Series]) -> String {
    let points = || series.iter().flat_map(|(_, points)| points);
    let right = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let up = points().map(|(_, y)| *y).fold(1.0, f64::max) * 1.1;
    drawn(|area| {
        let mut plot = plot(area, title, axes, (0.0..right * 1.05, up), &|x| format!("{x:.0}"));
        for (number, (name, points)) in series.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
            let drawn = plot.draw_series(line).expect("text has room").label(name.clone());
            drawn.legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2)));
            let dots = points.iter().map(|point| Circle::new(*point, 3, color.filled()));
            plot.draw_series(dots).expect("text has room");
        }
        legend(&mut plot, SeriesLabelPosition::UpperLeft);
    })
}

/// Draws one bar for each label; a series has one value for each of them.
fn stacked(title: &str, axes: [&str; 2], labels: &[String], series: &[(String, Vec<f64>)]) -> String {
    let sums: Vec<f64> = (0..labels.len()).map(|bar| series.iter().map(|(_, values)| values[bar]).sum()).collect();
    let up = sums.iter().copied().fold(1.0, f64::max) * 1.1;
    // The middle of a bar is a whole number, from 1.
    let label = |x: &f64| {
        let bar = (1..).zip(labels).find(|(bar, _)| (f64::from(*bar) - x).abs() < 0.01);
        bar.map(|(_, label)| label.clone()).unwrap_or_default()
    };
    drawn(|area| {
        // Room for the legend at the right.
        let right = labels.len() as f64 + 2.0;
        let mut plot = plot(area, title, axes, (0.0..right, up), &label);
        let mut bottoms = vec![0.0; labels.len()];
        for (number, (name, values)) in series.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            let bars = values.iter().zip(&mut bottoms).enumerate().map(|(bar, (value, bottom))| {
                let (middle, low) = (bar as f64 + 1.0, *bottom);
                *bottom += value;
                Rectangle::new([(middle - 0.35, low), (middle + 0.35, *bottom)], color.filled())
            });
            let drawn = plot.draw_series(bars.collect::<Vec<_>>()).expect("text has room").label(name.clone());
            drawn.legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
        }
        legend(&mut plot, SeriesLabelPosition::UpperRight);
    })
}
