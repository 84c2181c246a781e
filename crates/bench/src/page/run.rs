//! The page about one run.

use super::chart::{Chart, Line};
use super::scale::{Axis, Scale};
use super::{document, escape, facts, greatest, mean, row, table, thinned, tiles, verdict};
use crate::ClusterCosts;
use crate::findings::Findings;
use crate::format::{duration, grouped_f64, round_duration, short, trimmed};
use crate::report::BenchReport;
use crate::series::Row;
use crate::text::{describe, loop_sentence};
use hdrhistogram::Histogram;
use quorate_telemetry::Measure;

/// From this share of an interval's operations on, what waits to be sent is shown.
const BACKLOG_SHARE: f64 = 0.01;

/// The page.
pub(crate) fn of_run(findings: &Findings) -> String {
    let report = &findings.verdict.report;
    let mut body = format!(
        "<h1>quorate bench</h1>\n<p>{}.</p>\n<p class=\"soft\">{}.</p>\n",
        escape(&describe(report)),
        escape(&loop_sentence(report))
    );
    body += &headline(report);
    body += &figures(report);
    body += "<h2>Latency</h2>\n";
    body += &percentiles(report, &findings.response, &findings.service);
    body += "<h2>Over time</h2>\n";
    body += &throughput(report, &findings.rows);
    body += &backlog(&findings.rows);
    body += &latency(report, &findings.rows);
    body += &cpu(&findings.rows);
    body += "<h2>Cost of an operation</h2>\n";
    body += &costs(report);
    body += "<h2>Where the time of a bundle goes</h2>\n";
    body += &stages(report);
    if report.runs.len() > 1 {
        body += "<h2>Runs</h2>\n";
        body += &runs(report);
    }
    body += "<h2>Parameters</h2>\n";
    body += &parameters(report);
    document("quorate bench", &body)
}

fn headline(report: &BenchReport) -> String {
    let failed = !report.problems.is_empty();
    let headline =
        if failed { "FAILED" } else { "Good: no errors, equal states, figures that can be trusted." };
    let mut notes = vec![report.roots.clone()];
    notes.extend(report.warnings.iter().cloned());
    verdict(headline, &report.problems, &notes)
}

fn figures(report: &BenchReport) -> String {
    let latency = &report.response_us;
    let mut list = vec![
        (grouped_f64(report.throughput_ops_s), "operations/s"),
        (duration(latency.p50), "p50 of a bundle"),
        (duration(latency.p99), "p99 of a bundle"),
        (format!("{} µs", short(report.cluster.cpu_us_per_op)), "CPU per operation, all replicas"),
        (short(report.cluster.context_switches_per_op), "context switches per operation"),
        (grouped_f64(report.errors as f64), "failed operations"),
    ];
    if let Some(open) = &report.open_loop {
        list.insert(1, (format!("{:.1} %", 100.0 * open.achieved_share), "of what was due"));
    }
    tiles(&list)
}

fn percentiles(report: &BenchReport, response: &Histogram<u64>, service: &Histogram<u64>) -> String {
    let line = |name: &str, histogram: &Histogram<u64>| {
        let last = 1.0 - 1.0 / histogram.len().max(1) as f64;
        let steps = histogram.iter_quantiles(10);
        let points = steps
            .map(|step| (step.quantile_iterated_to().min(last), step.value_iterated_to() as f64 / 1000.0))
            .collect();
        Line::new(name, points)
    };
    let lines = match report.open_loop {
        Some(_) => vec![
            line("response time, from the intended start", response),
            line("service time, from sending", service),
        ],
        None => vec![line("service time", service)],
    };
    let x = Axis::around(
        Scale::Quantile,
        lines.iter().flat_map(|line| &line.points).map(|(quantile, _)| *quantile),
    );
    let chart = Chart {
        title: "Latency by percentile",
        x,
        x_label: "percentile of bundles, scaled by what is above",
        x_format: percent,
        y_scale: Scale::Logarithmic,
        y_label: "latency",
        y_format: round_duration,
        dots: false,
        lines,
    };
    chart.render()
}

/// A quantile as a percentage, without digits that say nothing.
fn percent(quantile: f64) -> String {
    let text = format!("{:.8}", 100.0 * quantile);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A chart over the time of the measuring.
fn over_time(
    title: &str,
    rows: &[Row],
    y_scale: Scale,
    y: (&str, fn(f64) -> String),
    lines: Vec<Line>,
) -> String {
    let chart = Chart {
        title,
        x: Axis::exact(rows.iter().map(|row| row.start_s + row.seconds)),
        x_label: "seconds since the measuring began",
        x_format: short_seconds,
        y_scale,
        y_label: y.0,
        y_format: y.1,
        dots: rows.len() <= 60,
        lines,
    };
    chart.render()
}

fn short_seconds(seconds: f64) -> String {
    let text = format!("{seconds:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Each row's value in the middle of its interval.
fn line(name: &str, rows: &[Row], value: fn(&Row) -> f64, join: fn(&[(f64, f64)]) -> f64) -> Line {
    let points: Vec<_> = rows.iter().map(|row| (row.start_s + row.seconds / 2.0, value(row))).collect();
    Line::new(name, thinned(&points, join))
}

fn throughput(report: &BenchReport, rows: &[Row]) -> String {
    let mut lines = vec![line("completed", rows, Row::throughput, mean)];
    if report.open_loop.is_some() {
        lines.push(line("due", rows, |row| row.scheduled as f64 / row.seconds, mean));
    }
    over_time("Throughput", rows, Scale::Linear, ("operations/s", thousands), lines)
}

/// What waits to be sent, when that is more than the turn of a moment.
fn backlog(rows: &[Row]) -> String {
    if rows.iter().all(|row| row.backlog as f64 <= BACKLOG_SHARE * row.scheduled as f64) {
        return String::new();
    }
    let lines = vec![line("operations", rows, |row| row.backlog as f64, greatest)];
    over_time("Due and not sent yet", rows, Scale::Linear, ("operations", thousands), lines)
}

fn thousands(number: f64) -> String {
    match number {
        large if large >= 1e6 => format!("{} M", trimmed(large / 1e6)),
        large if large >= 1e4 => format!("{} k", trimmed(large / 1e3)),
        small => trimmed(small),
    }
}

fn latency(report: &BenchReport, rows: &[Row]) -> String {
    // Without any bundle there is no latency, rather than one of zero.
    let rows: Vec<Row> = rows.iter().filter(|row| row.response_us.max > 0.0).cloned().collect();
    let mut lines = vec![
        line("p50", &rows, |row| row.response_us.p50, greatest),
        line("p99", &rows, |row| row.response_us.p99, greatest),
        line("p99.9", &rows, |row| row.response_us.p999, greatest),
        line("max", &rows, |row| row.response_us.max, greatest),
    ];
    let title = if report.open_loop.is_some() {
        lines.push(line("p99 of service time", &rows, |row| row.service_us.p99, greatest));
        "Response time of bundles"
    } else {
        "Service time of bundles"
    };
    over_time(title, &rows, Scale::Logarithmic, ("latency", round_duration), lines)
}

fn cpu(rows: &[Row]) -> String {
    let lines = vec![line("all replicas together", rows, |row| row.cluster.cpu_us_per_op, mean)];
    over_time("CPU time per operation", rows, Scale::Linear, ("µs of CPU", trimmed), lines)
}

fn costs(report: &BenchReport) -> String {
    let cells = |name: String, share: String, costs: &ClusterCosts| {
        vec![
            name,
            short(costs.cpu_us_per_op),
            share,
            short(costs.context_switches_per_op),
            short(costs.syscalls_per_op),
            short(costs.enters_per_op),
            short(costs.entries_per_enter),
            short(costs.allocations_per_op),
            short(costs.bytes_sent_per_op),
            short(costs.rss_bytes_max as f64 / 1_048_576.0),
        ]
    };
    let mut rows = String::new();
    for one in &report.per_replica {
        let share = format!("{:.0} %", 100.0 * one.cpu_share);
        rows += &row("", &cells(format!("replica {}", one.replica), share, &one.costs));
    }
    let share: f64 = report.per_replica.iter().map(|one| one.cpu_share).sum();
    rows += &row("sum", &cells("together".to_owned(), format!("{:.0} %", 100.0 * share), &report.cluster));
    let mut client = vec!["load generator".to_owned(), short(report.client.cpu_us_per_op)];
    client.push(format!("{:.0} %", 100.0 * report.client.cpu_us_per_op * report.throughput_ops_s / 1e6));
    client.resize(10, "–".to_owned());
    rows += &row("", &client);
    table(
        &[
            "",
            "CPU µs",
            "of a CPU",
            "switches",
            "system calls",
            "enters",
            "entries/enter",
            "allocations",
            "bytes sent",
            "MiB",
        ],
        &rows,
    )
}

fn stages(report: &BenchReport) -> String {
    let seen: Vec<_> = report.stages.iter().filter(|stage| stage.bundles > 0).collect();
    if seen.is_empty() {
        return "<p class=\"soft\">The replicas reported no stages.</p>\n".to_owned();
    }
    let total: f64 = seen.iter().map(|stage| stage.mean_us).sum();
    let mut rows = String::new();
    for stage in &seen {
        let share = if total > 0.0 { 100.0 * stage.mean_us / total } else { 0.0 };
        let help = Measure::named(&stage.name).map_or("", Measure::help);
        let cells: String = [stage.mean_us, stage.p50_us, stage.p90_us, stage.p99_us, stage.max_us]
            .map(|time| format!("<td>{}</td>", escape(&duration(time))))
            .concat();
        rows += &format!(
            "<tr><td>{}</td><td class=\"bar\"><i style=\"width:{share:.1}%\"></i></td>{cells}\
             <td class=\"text\">{}</td></tr>\n",
            escape(&stage.name),
            escape(help)
        );
    }
    let sum = format!(
        "<p class=\"soft\">A bundle spends {} on average at its home replica, from arrival to reply. Each bar is the \
         share of a stage in that.</p>\n",
        duration(total)
    );
    let heads = ["stage", "share", "mean", "p50", "p90", "p99", "max", "from when to when"];
    sum + &table(&heads, &rows).replace("<th>from", "<th class=\"text\">from")
}

fn runs(report: &BenchReport) -> String {
    let mut rows = String::new();
    let cells = |name: String, values: [f64; 4]| {
        let [throughput, p50, p99, cpu] = values;
        [name, grouped_f64(throughput), duration(p50), duration(p99), short(cpu)]
    };
    for run in &report.runs {
        let latency = &run.response_us;
        let values = [run.throughput_ops_s, latency.p50, latency.p99, run.cluster.cpu_us_per_op];
        rows += &row("", &cells(run.run.to_string(), values));
    }
    let spread = &report.spread;
    let ranges =
        [spread.throughput_ops_s, spread.response_p50_us, spread.response_p99_us, spread.cpu_us_per_op];
    rows += &row("", &cells("least".to_owned(), ranges.map(|range| range.min)));
    rows += &row("sum", &cells("median".to_owned(), ranges.map(|range| range.median)));
    rows += &row("", &cells("most".to_owned(), ranges.map(|range| range.max)));
    table(&["run", "operations/s", "p50", "p99", "CPU µs per operation"], &rows)
}

fn parameters(report: &BenchReport) -> String {
    let value = |value: serde_json::Result<serde_json::Value>| value.unwrap_or_default();
    let flags = facts(&value(serde_json::to_value(&report.flags)));
    facts(&value(serde_json::to_value(&report.environment))) + &flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::histogram;
    use crate::report::LatencyMicroseconds;
    use crate::report::tests::verdict;

    fn findings(line: &str) -> Findings {
        let mut response = histogram();
        (1..=1000u64).for_each(|value| response.saturating_record(value * 1_000_000));
        let latency = LatencyMicroseconds::of(&response);
        let row = |run: usize| Row {
            run,
            start_s: run as f64,
            seconds: 1.0,
            operations: 1000,
            response_us: latency,
            service_us: latency,
            ..Row::default()
        };
        let rows = (1..=3).map(row).collect();
        Findings { verdict: verdict(line), rows, service: response.clone(), response }
    }

    #[test]
    fn the_page_is_whole_and_needs_nothing_from_elsewhere() {
        for line in ["", "--rate 100000 --runs 2"] {
            let page = of_run(&findings(line));
            assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
            assert_eq!(page.matches("<svg").count(), 4);
            for foreign in ["<script", "src=", "href=", "@import", "url("] {
                assert!(!page.contains(foreign), "{foreign}");
            }
            for text in
                ["Latency by percentile", "Throughput", "replica 0", "committed", "all 4 roots are equal"]
            {
                assert!(page.contains(text), "{text}");
            }
            assert_eq!(page.matches("<figure>").count(), page.matches("</figure>").count());
        }
    }

    #[test]
    fn problems_are_shown_and_escaped() {
        let mut found = findings("");
        found.verdict.report.problems.push("replica <2> ended".to_owned());
        let page = of_run(&found);
        assert!(page.contains("verdict bad") && page.contains("replica &lt;2&gt; ended"), "{page}");
    }

    #[test]
    fn a_run_without_any_bundle_has_a_page_too() {
        let mut found = findings("");
        found.rows.clear();
        (found.response, found.service) = (histogram(), histogram());
        found.verdict.report.stages.clear();
        let page = of_run(&found);
        assert!(page.contains("Nothing was recorded") && page.contains("reported no stages"));
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn quantiles_have_the_digits_they_need() {
        assert_eq!([0.5, 0.99, 0.999, 0.99999].map(percent), ["50 %", "99 %", "99.9 %", "99.999 %"]);
    }
}
