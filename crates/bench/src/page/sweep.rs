//! The page about a sweep.

use super::chart::{Chart, Line};
use super::scale::{Axis, Scale};
use super::{document, escape, facts, row, table, tiles, verdict};
use crate::format::{duration, grouped_f64, round_duration, short, trimmed};
use crate::sweep::{SweepReport, SweepStep};

/// One figure of a step.
type Figure = fn(&SweepStep) -> f64;

/// The page.
pub(crate) fn of_sweep(report: &SweepReport) -> String {
    let mut body = format!(
        "<h1>quorate bench sweep</h1>\n<p>{} replicas (f = {}), {} durability, {}; open loop with {} arrivals, bundles \
         of {}.</p>\n<p class=\"soft\">Latency counts from when a bundle should have been sent.</p>\n",
        report.replicas,
        report.faults,
        escape(&report.durability),
        escape(&report.security),
        report.flags.load.arrival.as_str(),
        report.flags.load.bundle,
    );
    body += &verdict(&report.conclusion(), &report.problems, &report.warnings);
    body += &figures(report);
    body += "<h2>Latency under load</h2>\n";
    body += &latency(report);
    body += "<h2>Cost under load</h2>\n";
    body += &cost(report);
    body += "<h2>Steps</h2>\n";
    body += &steps(report);
    body += "<h2>Parameters</h2>\n";
    body += &facts(&serde_json::to_value(&report.environment).unwrap_or_default());
    body += &facts(&serde_json::to_value(&report.flags).unwrap_or_default());
    document("quorate bench sweep", &body)
}

fn figures(report: &SweepReport) -> String {
    let knee = report.steps.iter().rfind(|step| step.too_high.is_none());
    let Some(knee) = knee else { return String::new() };
    let mut list = vec![
        (grouped_f64(knee.target_ops_s), "operations/s at the knee"),
        (duration(knee.response_us.p50), "p50 there"),
        (duration(knee.response_us.p99), "p99 there"),
        (format!("{} µs", short(knee.cpu_us_per_op)), "CPU per operation there"),
    ];
    if let Some(closed) = report.closed_loop_ops_s {
        list.push((grouped_f64(closed), "operations/s of a closed loop"));
    }
    tiles(&list)
}

/// A chart over what was achieved.
fn over_throughput(
    report: &SweepReport,
    title: &str,
    y_scale: Scale,
    y: (&str, fn(f64) -> String),
    lines: &[(&str, Figure)],
) -> String {
    let line = |(name, value): &(&str, Figure)| {
        Line::new(name, report.steps.iter().map(|step| (step.throughput_ops_s, value(step))).collect())
    };
    let chart = Chart {
        title,
        x: Axis::around(Scale::Linear, report.steps.iter().map(|step| step.throughput_ops_s)),
        x_label: "operations/s achieved",
        x_format: grouped_f64,
        y_scale,
        y_label: y.0,
        y_format: y.1,
        dots: true,
        lines: lines.iter().map(line).collect(),
    };
    chart.render()
}

fn latency(report: &SweepReport) -> String {
    let lines: [(&str, Figure); 4] = [
        ("p50", |step| step.response_us.p50),
        ("p99", |step| step.response_us.p99),
        ("p99.9", |step| step.response_us.p999),
        ("p99 of service time", |step| step.service_us.p99),
    ];
    over_throughput(
        report,
        "Response time by throughput",
        Scale::Logarithmic,
        ("latency", round_duration),
        &lines,
    )
}

fn cost(report: &SweepReport) -> String {
    let lines: [(&str, Figure); 1] = [("CPU", |step| step.cpu_us_per_op)];
    let title = "CPU time of all replicas per operation";
    over_throughput(report, title, Scale::Linear, ("µs of CPU", trimmed), &lines)
}

fn steps(report: &SweepReport) -> String {
    let mut rows = String::new();
    for step in &report.steps {
        let latency = &step.response_us;
        let class = if step.too_high.is_some() { "bad" } else { "" };
        rows += &row(
            class,
            &[
                grouped_f64(step.target_ops_s),
                grouped_f64(step.throughput_ops_s),
                format!("{:.1} %", 100.0 * step.achieved_share),
                duration(latency.p50),
                duration(latency.p99),
                duration(latency.p999),
                duration(latency.max),
                duration(step.service_us.p99),
                duration(step.lag_p99_us),
                short(step.cpu_us_per_op),
                format!("{:.0} %", 100.0 * step.generator_cpu_share),
            ],
        );
    }
    let heads = [
        "target/s",
        "achieved/s",
        "of due",
        "p50",
        "p99",
        "p99.9",
        "max",
        "p99 service",
        "late p99",
        "CPU µs/op",
        "thread",
    ];
    table(&heads, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::tests::{climbed, empty};

    #[test]
    fn the_page_shows_every_step_and_the_knee() {
        let page = of_sweep(&climbed(&[(1e4, 1.0, 5.0), (2e4, 0.999, 9.0), (4e4, 0.8, 800.0)]));
        assert_eq!(page.matches("<svg").count(), 2);
        assert_eq!(page.matches("<tr class=\"bad\">").count(), 1);
        assert!(page.contains("the knee is at 20,000 operations/s"), "{page}");
        assert!(!page.contains("<script") && !page.contains("src="));
    }

    #[test]
    fn a_sweep_without_steps_has_a_page_too() {
        let page = of_sweep(&empty(""));
        assert!(page.contains("Nothing was recorded") && !page.contains("NaN"));
    }
}
