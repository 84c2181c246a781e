//! The results as text for a terminal.

use crate::format::{duration, grouped, grouped_f64};
use crate::report::{BenchReport, Verdict};
use crate::stages::StageFigures;
use std::fmt::{self, Formatter};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        writeln!(f, "{}\n{}\n", describe(report), loop_sentence(report))?;
        throughput(f, report)?;
        latency(f, report)?;
        costs(f, report)?;
        stages(f, &report.stages)?;
        runs(f, report)?;
        writeln!(f, "\n{}", report.roots)?;
        for warning in &report.warnings {
            writeln!(f, "note: {warning}")?;
        }
        for problem in &report.problems {
            writeln!(f, "FAILED: {problem}")?;
        }
        Ok(())
    }
}

/// The cluster and the workload in one line.
pub(crate) fn describe(report: &BenchReport) -> String {
    let load = &report.flags.load;
    format!(
        "{} replicas (f = {}), {} durability, {}; {} clients with up to {} open bundles of {} operations each; {}; \
         {}-byte values, {} keys, {}; seed {}",
        report.replicas,
        report.faults,
        report.durability,
        report.security,
        load.clients,
        report.flags.depth(),
        load.bundle,
        load.mix,
        load.value_size,
        grouped(load.keys),
        load.distribution.as_str(),
        report.seed,
    )
}

/// How load is generated and what latency means.
pub(crate) fn loop_sentence(report: &BenchReport) -> String {
    match &report.open_loop {
        None => {
            "closed loop: a client submits when a bundle is complete, so latency is service time".to_owned()
        }
        Some(open) => format!(
            "open loop: {} operations/s in bundles on a {} schedule; response time counts from when a bundle should \
             have been sent",
            grouped_f64(open.target_ops_s),
            report.flags.load.arrival.as_str()
        ),
    }
}

fn throughput(f: &mut Formatter<'_>, report: &BenchReport) -> fmt::Result {
    row(f, "throughput", &format!("{} operations/s", grouped_f64(report.throughput_ops_s)))?;
    if let Some(open) = &report.open_loop {
        let share = 100.0 * open.achieved_share;
        row(f, "target", &format!("{} operations/s", grouped_f64(open.target_ops_s)))?;
        row(f, "achieved of what was due", &format!("{share:.2} %"))?;
        row(f, "due but never sent", &grouped(open.unsent_operations))?;
    }
    row(f, "operations", &format!("{} in {:.1} s", grouped(report.operations), report.seconds))?;
    row(f, "errors", &grouped(report.errors))
}

fn latency(f: &mut Formatter<'_>, report: &BenchReport) -> fmt::Result {
    let bundle = report.flags.load.bundle;
    if report.open_loop.is_none() {
        writeln!(f, "\nlatency of a bundle of {bundle}, submission to completion")?;
        for (name, value) in report.service_us.points() {
            row(f, name, &format!("{value:.0} µs"))?;
        }
        return Ok(());
    }
    writeln!(f, "\n{:<28}{:>24}{:>20}", format!("latency of a bundle of {bundle}"), "response", "service")?;
    for ((name, response), (_, service)) in
        report.response_us.points().into_iter().zip(report.service_us.points())
    {
        writeln!(f, "  {name:<26}{:>24}{:>20}", format!("{response:.0} µs"), format!("{service:.0} µs"))?;
    }
    let generator = &report.generator;
    row(f, "left late, p99", &duration(generator.lag_p99_us))?;
    row(f, "found no room", &format!("{:.2} %", 100.0 * generator.blocked_share))
}

fn costs(f: &mut Formatter<'_>, report: &BenchReport) -> fmt::Result {
    let cluster = &report.cluster;
    let reporting = report.per_replica.len();
    if reporting == report.replicas {
        writeln!(f, "\ncost of an operation, all replicas together")?;
    } else {
        writeln!(f, "\ncost of an operation, {reporting} of {} replicas together", report.replicas)?;
    }
    row(f, "CPU", &format!("{:.2} µs", cluster.cpu_us_per_op))?;
    row(f, "context switches", &format!("{:.4}", cluster.context_switches_per_op))?;
    row(f, "system calls", &format!("{:.4}", cluster.syscalls_per_op))?;
    row(f, "ring enters", &format!("{:.4}", cluster.enters_per_op))?;
    row(f, "entries per enter", &format!("{:.2}", cluster.entries_per_enter))?;
    row(f, "allocations", &format!("{:.3}", cluster.allocations_per_op))?;
    row(f, "bytes sent", &format!("{:.0}", cluster.bytes_sent_per_op))?;
    row(f, "log syncs", &format!("{:.5}", cluster.log_syncs_per_op))?;
    row(f, "log bytes", &format!("{:.0}", cluster.log_bytes_per_op))?;
    row(f, "resident at most", &format!("{:.0} MiB", cluster.rss_bytes_max as f64 / 1_048_576.0))?;
    row(f, "CPU of the clients", &format!("{:.2} µs", report.client.cpu_us_per_op))?;
    row(f, "busiest load thread", &format!("{:.0} % of a CPU", 100.0 * report.generator.cpu_share))?;
    row(f, "view changes", &grouped(report.view_changes))
}

fn stages(f: &mut Formatter<'_>, stages: &[StageFigures]) -> fmt::Result {
    if stages.iter().all(|stage| stage.bundles == 0) {
        return Ok(());
    }
    writeln!(f, "\n{:<20}{:>11}{:>11}{:>11}{:>11}", "stages of a bundle", "mean", "p50", "p99", "max")?;
    for stage in stages.iter().filter(|stage| stage.bundles > 0) {
        let [mean, p50, p99, max] = [stage.mean_us, stage.p50_us, stage.p99_us, stage.max_us].map(duration);
        writeln!(f, "  {:<18}{mean:>11}{p50:>11}{p99:>11}{max:>11}", stage.name)?;
    }
    Ok(())
}

fn runs(f: &mut Formatter<'_>, report: &BenchReport) -> fmt::Result {
    if report.runs.len() < 2 {
        return Ok(());
    }
    writeln!(f, "\n{:<12}{:>16}{:>14}{:>14}{:>14}", "runs", "operations/s", "p50", "p99", "CPU/op")?;
    let line = |f: &mut Formatter<'_>, name: &str, values: [f64; 4]| {
        let [throughput, p50, p99, cpu] = values;
        let (throughput, p50, p99) = (grouped_f64(throughput), duration(p50), duration(p99));
        writeln!(f, "  {name:<10}{throughput:>16}{p50:>14}{p99:>14}{:>14}", format!("{cpu:.2} µs"))
    };
    for run in &report.runs {
        let latency = &run.response_us;
        let values = [run.throughput_ops_s, latency.p50, latency.p99, run.cluster.cpu_us_per_op];
        line(f, &run.run.to_string(), values)?;
    }
    let spread = &report.spread;
    let ranges =
        [spread.throughput_ops_s, spread.response_p50_us, spread.response_p99_us, spread.cpu_us_per_op];
    line(f, "least", ranges.map(|range| range.min))?;
    line(f, "median", ranges.map(|range| range.median))?;
    line(f, "most", ranges.map(|range| range.max))
}

fn row(f: &mut Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:<26}{value:>24}")
}

#[cfg(test)]
mod tests {
    use crate::report::tests::verdict;
    use expect_test::expect;

    #[test]
    fn a_closed_loop_has_figures_units_and_verdict() {
        expect![[r#"
            4 replicas (f = 1), sync durability, plaintext; 4 clients with up to 16 open bundles of 100 operations each; set=100; 100-byte values, 100,000 keys, uniform; seed 1
            closed loop: a client submits when a bundle is complete, so latency is service time

              throughput                    123,457 operations/s
              operations                     1,234,567 in 10.0 s
              errors                                           0

            latency of a bundle of 100, submission to completion
              p50                                      500171 µs
              p90                                      900202 µs
              p99                                      990380 µs
              p99.9                                    999293 µs
              max                                     1000342 µs

            cost of an operation, 1 of 4 replicas together
              CPU                                       12.50 µs
              context switches                            0.0000
              system calls                                0.0000
              ring enters                                 0.0000
              entries per enter                             0.00
              allocations                                  0.000
              bytes sent                                       0
              log syncs                                  0.00000
              log bytes                                        0
              resident at most                           256 MiB
              CPU of the clients                         1.25 µs
              busiest load thread                  25 % of a CPU
              view changes                                     0

            stages of a bundle         mean        p50        p99        max
              admitted               150 µs     120 µs    2.50 ms    80.0 ms
              committed              150 µs     120 µs    2.50 ms    80.0 ms

            all 4 roots are equal at seq 99: abcd
        "#]].assert_eq(&verdict("").to_string());
    }

    #[test]
    fn an_open_loop_tells_response_from_service_and_runs_apart() {
        let mut verdict = verdict("--rate 120000 --arrival poisson --runs 2");
        verdict.report.problems.push("replica 2 ended with code 1".to_owned());
        verdict.report.warnings.push("something to know".to_owned());
        expect![[r#"
            4 replicas (f = 1), sync durability, plaintext; 4 clients with up to 64 open bundles of 100 operations each; set=100; 100-byte values, 100,000 keys, uniform; seed 1
            open loop: 120,000 operations/s in bundles on a poisson schedule; response time counts from when a bundle should have been sent

              throughput                    123,457 operations/s
              target                        120,000 operations/s
              achieved of what was due                   99.90 %
              due but never sent                             100
              operations                     1,234,567 in 10.0 s
              errors                                           0

            latency of a bundle of 100                  response             service
              p50                                      500171 µs           500171 µs
              p90                                      900202 µs           900202 µs
              p99                                      990380 µs           990380 µs
              p99.9                                    999293 µs           999293 µs
              max                                     1000342 µs          1000342 µs
              left late, p99                             80.0 µs
              found no room                               0.00 %

            cost of an operation, 1 of 4 replicas together
              CPU                                       12.50 µs
              context switches                            0.0000
              system calls                                0.0000
              ring enters                                 0.0000
              entries per enter                             0.00
              allocations                                  0.000
              bytes sent                                       0
              log syncs                                  0.00000
              log bytes                                        0
              resident at most                           256 MiB
              CPU of the clients                         1.25 µs
              busiest load thread                  25 % of a CPU
              view changes                                     0

            stages of a bundle         mean        p50        p99        max
              admitted               150 µs     120 µs    2.50 ms    80.0 ms
              committed              150 µs     120 µs    2.50 ms    80.0 ms

            runs            operations/s           p50           p99        CPU/op
              1                  100,001        500 ms        990 ms      12.50 µs
              2                  100,002        500 ms        990 ms      12.50 µs
              least              100,001        500 ms        990 ms      12.50 µs
              median             100,002        500 ms        990 ms      12.50 µs
              most               100,002        500 ms        990 ms      12.50 µs

            all 4 roots are equal at seq 99: abcd
            note: something to know
            FAILED: replica 2 ended with code 1
        "#]].assert_eq(&verdict.to_string());
    }
}
