//! The results of a run, as text and as JSON with stable keys.

use crate::{BenchArguments, ClusterCosts};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt;

/// The results. Keys are added, and never renamed or removed.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Operations that were completed per second of the measured time.
    pub throughput_ops_s: f64,
    /// Operations that were completed in the measured time.
    pub operations: u64,
    /// Operations of the whole run, warm-up included, that failed or whose outcome is unknown.
    pub errors: u64,
    /// Latency per bundle, from submission to completion.
    pub latency_us: LatencyMicroseconds,
    /// What an operation costs all replicas together.
    pub cluster: ClusterCosts,
    /// What an operation costs the load generator.
    pub client: ClientCosts,
    /// Whether all replicas hold the same state.
    pub roots_equal: bool,
    /// What an acknowledgement promises, as the replicas say.
    pub durability: String,
    /// What protects the links, as the replicas say.
    pub security: String,
    /// The number of replicas.
    pub replicas: usize,
    /// The number of faults that are tolerated.
    pub faults: usize,
    /// How often the view changed in the measured time.
    pub view_changes: u64,
    /// The measured time in seconds.
    pub seconds: f64,
    /// How load is generated: always `closed loop`.
    pub load: &'static str,
    /// The version of quorate.
    pub version: &'static str,
    /// The kernel's name and release.
    pub kernel: String,
    /// The number of CPUs that the generator may use.
    pub cpus: usize,
    /// The seed of the workload.
    pub seed: u64,
    /// The flags of the run.
    pub flags: BenchArguments,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencyMicroseconds {
    /// Half of the bundles were faster.
    pub p50: f64,
    /// Nine in ten were faster.
    pub p90: f64,
    /// All but one in 100 were faster.
    pub p99: f64,
    /// All but one in 1,000 were faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl LatencyMicroseconds {
    /// The percentiles of a histogram in nanoseconds; zeroes when it is empty.
    pub(crate) fn of(nanoseconds: &Histogram<u64>) -> Self {
        let at = |quantile| nanoseconds.value_at_quantile(quantile) as f64 / 1000.0;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}

/// What an operation costs the load generator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClientCosts {
    /// CPU time of the whole process, in microseconds.
    pub cpu_us_per_op: f64,
}

/// The results with everything that makes the run a failure.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The results.
    pub report: BenchReport,
    /// What went wrong, one entry each; empty when the run is a success.
    pub problems: Vec<String>,
    /// One sentence about the roots.
    pub roots: String,
}

impl Verdict {
    /// 0 without errors and with equal roots, otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!(self.problems.is_empty() && self.report.errors == 0 && self.report.roots_equal))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        let flags = &report.flags;
        writeln!(
            f,
            "{} replicas (f = {}), {} durability, {}; {} clients with {} open bundles of {} operations each; \
             {}-byte values, {} keys, {:.0} % GETs, seed {}",
            report.replicas,
            report.faults,
            report.durability,
            report.security,
            flags.clients,
            flags.depth,
            flags.bundle,
            flags.value_size,
            grouped(flags.keys),
            flags.read_ratio * 100.0,
            report.seed,
        )?;
        writeln!(f, "closed loop: a client submits when a bundle is complete, so latency is service time\n")?;
        row(f, "throughput", &format!("{} operations/s", grouped_f64(report.throughput_ops_s)))?;
        row(f, "operations", &format!("{} in {:.1} s", grouped(report.operations), report.seconds))?;
        row(f, "errors", &grouped(report.errors))?;
        let latency = &report.latency_us;
        writeln!(f, "\nlatency of a bundle of {}, submission to completion", flags.bundle)?;
        let points =
            [("p50", latency.p50), ("p90", latency.p90), ("p99", latency.p99), ("p99.9", latency.p999)];
        for (name, value) in points.into_iter().chain([("max", latency.max)]) {
            row(f, name, &format!("{value:.0} µs"))?;
        }
        let cluster = &report.cluster;
        writeln!(f, "\ncost of an operation, all replicas together")?;
        row(f, "CPU", &format!("{:.2} µs", cluster.cpu_us_per_op))?;
        row(f, "context switches", &format!("{:.4}", cluster.context_switches_per_op))?;
        row(f, "system calls", &format!("{:.4}", cluster.syscalls_per_op))?;
        row(f, "ring enters", &format!("{:.4}", cluster.enters_per_op))?;
        row(f, "entries per enter", &format!("{:.2}", cluster.entries_per_enter))?;
        row(f, "allocations", &format!("{:.3}", cluster.allocations_per_op))?;
        row(f, "bytes sent", &format!("{:.0}", cluster.bytes_sent_per_op))?;
        row(f, "resident at most", &format!("{:.0} MiB", cluster.rss_bytes_max as f64 / 1_048_576.0))?;
        row(f, "CPU of the clients", &format!("{:.2} µs", report.client.cpu_us_per_op))?;
        row(f, "view changes", &grouped(report.view_changes))?;
        writeln!(f, "\n{}", self.roots)?;
        for problem in &self.problems {
            writeln!(f, "FAILED: {problem}")?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:<20}{value:>24}")
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive and far below 2^64; the cast saturates"
)]
fn grouped_f64(number: f64) -> String {
    grouped(number.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::tests::parse;
    use expect_test::expect;

    fn verdict() -> Verdict {
        let mut latencies = crate::load::histogram();
        (1..=1000u64).for_each(|value| latencies.saturating_record(value * 1_000_000));
        let report = BenchReport {
            throughput_ops_s: 123_456.7,
            operations: 1_234_567,
            errors: 0,
            latency_us: LatencyMicroseconds::of(&latencies),
            cluster: ClusterCosts { cpu_us_per_op: 12.5, rss_bytes_max: 1 << 28, ..ClusterCosts::default() },
            client: ClientCosts { cpu_us_per_op: 1.25 },
            roots_equal: true,
            durability: "memory".to_owned(),
            security: "plaintext".to_owned(),
            replicas: 4,
            faults: 1,
            view_changes: 0,
            seconds: 10.0,
            load: "closed loop",
            version: "0.1.0",
            kernel: "Linux 6.18".to_owned(),
            cpus: 2,
            seed: 1,
            flags: parse("").unwrap(),
        };
        Verdict { report, problems: Vec::new(), roots: "all 4 roots are equal at seq 99: abcd".to_owned() }
    }

    #[test]
    fn json_keys_are_stable() {
        expect![[r#"
            {
              "throughput_ops_s": 123456.7,
              "operations": 1234567,
              "errors": 0,
              "latency_us": {
                "p50": 500170.751,
                "p90": 900202.495,
                "p99": 990380.031,
                "p999": 999292.927,
                "max": 1000341.503
              },
              "cluster": {
                "cpu_us_per_op": 12.5,
                "context_switches_per_op": 0.0,
                "syscalls_per_op": 0.0,
                "enters_per_op": 0.0,
                "entries_per_enter": 0.0,
                "allocations_per_op": 0.0,
                "bytes_sent_per_op": 0.0,
                "rss_bytes_max": 268435456
              },
              "client": {
                "cpu_us_per_op": 1.25
              },
              "roots_equal": true,
              "durability": "memory",
              "security": "plaintext",
              "replicas": 4,
              "faults": 1,
              "view_changes": 0,
              "seconds": 10.0,
              "load": "closed loop",
              "version": "0.1.0",
              "kernel": "Linux 6.18",
              "cpus": 2,
              "seed": 1,
              "flags": {
                "clients": 4,
                "depth": 16,
                "bundle": 100,
                "duration": 10.0,
                "warmup": 2.0,
                "value_size": 100,
                "keys": 100000,
                "read_ratio": 0.0,
                "durability": "memory",
                "seed": 1,
                "json": null,
                "replicas": 4,
                "cluster": null,
                "key": [],
                "threads": 1
              }
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&verdict().report).unwrap());
    }

    #[test]
    fn the_text_has_figures_units_and_verdict() {
        expect![[r#"
            4 replicas (f = 1), memory durability, plaintext; 4 clients with 16 open bundles of 100 operations each; 100-byte values, 100,000 keys, 0 % GETs, seed 1
            closed loop: a client submits when a bundle is complete, so latency is service time

              throughput              123,457 operations/s
              operations               1,234,567 in 10.0 s
              errors                                     0

            latency of a bundle of 100, submission to completion
              p50                                500171 µs
              p90                                900202 µs
              p99                                990380 µs
              p99.9                              999293 µs
              max                               1000342 µs

            cost of an operation, all replicas together
              CPU                                 12.50 µs
              context switches                      0.0000
              system calls                          0.0000
              ring enters                           0.0000
              entries per enter                       0.00
              allocations                            0.000
              bytes sent                                 0
              resident at most                     256 MiB
              CPU of the clients                   1.25 µs
              view changes                               0

            all 4 roots are equal at seq 99: abcd
        "#]].assert_eq(&verdict().to_string());
    }

    #[test]
    fn only_a_run_without_errors_and_with_equal_roots_is_a_success() {
        assert_eq!(verdict().exit_code(), 0);
        let mut with_error = verdict();
        with_error.report.errors = 1;
        assert_eq!(with_error.exit_code(), 1);
        let mut different = verdict();
        different.report.roots_equal = false;
        assert_eq!(different.exit_code(), 1);
        let mut problem = verdict();
        problem.problems.push("replica 2 ended with code 1".to_owned());
        assert_eq!(problem.exit_code(), 1);
        assert!(problem.to_string().ends_with("FAILED: replica 2 ended with code 1\n"));
    }

    #[test]
    fn an_empty_histogram_gives_zeroes() {
        assert_eq!(LatencyMicroseconds::of(&crate::load::histogram()), LatencyMicroseconds::default());
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
