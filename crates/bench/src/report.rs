//! The results of a run, with stable keys as JSON.

use crate::cost::ReplicaCosts;
use crate::stages::StageFigures;
use crate::verdict::{Bottleneck, Generator, OpenLoop};
use crate::{BenchArguments, ClusterCosts, Environment};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The results. Keys are added, and never renamed or removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Operations that were completed per second of the measured time.
    pub throughput_ops_s: f64,
    /// Operations that were completed in the measured time.
    pub operations: u64,
    /// Operations of the whole run, warm-up included, that failed or whose outcome is unknown.
    pub errors: u64,
    /// Latency per bundle: response time in an open loop, service time in a closed one.
    pub latency_us: LatencyMicroseconds,
    /// From when a bundle should have been sent to its completion. In a closed loop it should be sent when it is.
    pub response_us: LatencyMicroseconds,
    /// From when a bundle was sent to its completion.
    pub service_us: LatencyMicroseconds,
    /// What an operation costs all replicas together.
    pub cluster: ClusterCosts,
    /// What it costs each replica.
    pub per_replica: Vec<ReplicaCosts>,
    /// What an operation costs the load generator.
    pub client: ClientCosts,
    /// Whether all replicas that report hold the same state.
    pub roots_equal: bool,
    /// One sentence about the roots.
    pub roots: String,
    /// What an acknowledgement promises, as the replicas say.
    pub durability: String,
    /// What protects the links, as the replicas say.
    pub security: String,
    /// The number of replicas.
    pub replicas: usize,
    /// The number of faults that are tolerated.
    pub faults: usize,
    /// The replicas that did not report all the time, and why.
    pub absent: Vec<AbsentReplica>,
    /// How often the view changed in the measured time.
    pub view_changes: u64,
    /// The measured time in seconds, of all runs.
    pub seconds: f64,
    /// How load is generated: `closed loop` or `open loop`.
    pub load: String,
    /// What an open loop was to do, and did.
    pub open_loop: Option<OpenLoop>,
    /// How the load generator fared.
    pub generator: Generator,
    /// What limited the throughput.
    pub bottleneck: Bottleneck,
    /// Each run.
    pub runs: Vec<RunFigures>,
    /// Least, median and most of the runs.
    pub spread: Spread,
    /// Where the time of bundles goes inside the replicas; empty when they do not tell.
    pub stages: Vec<StageFigures>,
    /// What makes the run a failure; empty when it is a success.
    pub problems: Vec<String>,
    /// What should be known when the figures are read.
    pub warnings: Vec<String>,
    /// The program and the machine.
    #[serde(flatten)]
    pub environment: Environment,
    /// The seed of the workload.
    pub seed: u64,
    /// The flags of the run.
    pub flags: BenchArguments,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

    /// Names and values, from the least to the greatest.
    pub(crate) fn points(&self) -> [(&'static str, f64); 5] {
        [("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("p99.9", self.p999), ("max", self.max)]
    }
}

/// What an operation costs the load generator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientCosts {
    /// CPU time of the whole process, in microseconds.
    pub cpu_us_per_op: f64,
}

/// A replica that did not report at the start, at the end or in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbsentReplica {
    /// The replica.
    pub replica: u8,
    /// When, and what it or its connection said.
    pub why: String,
}

/// One of several runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFigures {
    /// The run, from 1.
    pub run: usize,
    /// Operations that were completed per second.
    pub throughput_ops_s: f64,
    /// Operations that were completed.
    pub operations: u64,
    /// Operations that failed.
    pub errors: u64,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// Latency from the intended start.
    pub response_us: LatencyMicroseconds,
    /// Latency from sending.
    pub service_us: LatencyMicroseconds,
    /// The costs of those replicas that reported before and after.
    pub cluster: ClusterCosts,
    /// What an open loop was to do, and did.
    pub open_loop: Option<OpenLoop>,
    /// How the load generator fared.
    pub generator: Generator,
}

/// The runs side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Operations per second.
    pub throughput_ops_s: Range,
    /// The medians of response time, in microseconds.
    pub response_p50_us: Range,
    /// The 99th percentiles of response time, in microseconds.
    pub response_p99_us: Range,
    /// CPU time of all replicas per operation, in microseconds.
    pub cpu_us_per_op: Range,
}

impl Spread {
    pub(crate) fn of(runs: &[RunFigures]) -> Self {
        let range = |value: fn(&RunFigures) -> f64| Range::of(runs.iter().map(value));
        Self {
            throughput_ops_s: range(|run| run.throughput_ops_s),
            response_p50_us: range(|run| run.response_us.p50),
            response_p99_us: range(|run| run.response_us.p99),
            cpu_us_per_op: range(|run| run.cluster.cpu_us_per_op),
        }
    }
}

/// How far values spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// The least.
    pub min: f64,
    /// Half are at most so large.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Range {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first(), values.last()) else { return Self::default() };
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Self { min: *min, median: f64::midpoint(low, high), max: *max }
    }
}

/// The results with what they mean for the exit code.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The results.
    pub report: BenchReport,
}

impl Verdict {
    /// 0 without errors, with equal roots and with figures that can be trusted; otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let report = &self.report;
        u8::from(!(report.problems.is_empty() && report.errors == 0 && report.roots_equal))
    }

    /// Whether something went wrong about which the logs of replicas may say more.
    #[must_use]
    pub fn is_about_replicas(&self) -> bool {
        let slow = usize::from(self.report.bottleneck != Bottleneck::None);
        self.exit_code() != 0 && self.report.problems.len() > slow
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::arguments::tests::parse;
    use expect_test::expect;

    pub(crate) fn verdict(line: &str) -> Verdict {
        let mut latencies = crate::recorder::histogram();
        (1..=1000u64).for_each(|value| latencies.saturating_record(value * 1_000_000));
        let latency = LatencyMicroseconds::of(&latencies);
        let cluster = ClusterCosts { cpu_us_per_op: 12.5, rss_bytes_max: 1 << 28, ..ClusterCosts::default() };
        let run = |run: usize| RunFigures {
            run,
            throughput_ops_s: 100_000.0 + run as f64,
            operations: 1_000_000,
            errors: 0,
            seconds: 10.0,
            response_us: latency,
            service_us: latency,
            cluster: cluster.clone(),
            open_loop: None,
            generator: Generator::default(),
        };
        let flags = parse(line).unwrap().resolved();
        let runs: Vec<_> = (1..=flags.runs).map(run).collect();
        let open_loop = flags.rate.map(|target_ops_s| OpenLoop {
            target_ops_s,
            achieved_share: 0.999,
            scheduled_operations: 1_235_000,
            unsent_operations: 100,
        });
        let stage = |name: &str| StageFigures {
            name: name.to_owned(),
            bundles: 12_345,
            mean_us: 150.0,
            p50_us: 120.0,
            p90_us: 340.0,
            p99_us: 2_500.0,
            max_us: 80_000.0,
        };
        let report = BenchReport {
            throughput_ops_s: 123_456.7,
            operations: 1_234_567,
            errors: 0,
            latency_us: latency,
            response_us: latency,
            service_us: latency,
            per_replica: vec![ReplicaCosts { replica: 0, costs: cluster.clone(), cpu_share: 0.4 }],
            cluster,
            client: ClientCosts { cpu_us_per_op: 1.25 },
            roots_equal: true,
            roots: "all 4 roots are equal at seq 99: abcd".to_owned(),
            durability: "sync".to_owned(),
            security: "plaintext".to_owned(),
            replicas: 4,
            faults: 1,
            absent: Vec::new(),
            view_changes: 0,
            seconds: 10.0,
            load: if flags.rate.is_some() { "open loop" } else { "closed loop" }.to_owned(),
            open_loop,
            generator: Generator { cpu_share: 0.25, lag_p99_us: 80.0, lag_max_us: 900.0, blocked_share: 0.0 },
            bottleneck: Bottleneck::None,
            spread: Spread::of(&runs),
            runs,
            stages: vec![stage("admitted"), stage("committed")],
            problems: Vec::new(),
            warnings: Vec::new(),
            environment: Environment {
                version: "0.1.0".to_owned(),
                commit: None,
                kernel: "Linux 6.18".to_owned(),
                cpu_model: None,
                cpus: 2,
            },
            seed: 1,
            flags,
        };
        Verdict { report }
    }

    #[test]
    fn json_keys_are_stable() {
        let mut report = verdict("").report;
        report.per_replica.clear();
        report.stages.clear();
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
              "response_us": {
                "p50": 500170.751,
                "p90": 900202.495,
                "p99": 990380.031,
                "p999": 999292.927,
                "max": 1000341.503
              },
              "service_us": {
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
                "log_syncs_per_op": 0.0,
                "log_bytes_per_op": 0.0,
                "rss_bytes_max": 268435456
              },
              "per_replica": [],
              "client": {
                "cpu_us_per_op": 1.25
              },
              "roots_equal": true,
              "roots": "all 4 roots are equal at seq 99: abcd",
              "durability": "sync",
              "security": "plaintext",
              "replicas": 4,
              "faults": 1,
              "absent": [],
              "view_changes": 0,
              "seconds": 10.0,
              "load": "closed loop",
              "open_loop": null,
              "generator": {
                "cpu_share": 0.25,
                "lag_p99_us": 80.0,
                "lag_max_us": 900.0,
                "blocked_share": 0.0
              },
              "bottleneck": "none",
              "runs": [
                {
                  "run": 1,
                  "throughput_ops_s": 100001.0,
                  "operations": 1000000,
                  "errors": 0,
                  "seconds": 10.0,
                  "response_us": {
                    "p50": 500170.751,
                    "p90": 900202.495,
                    "p99": 990380.031,
                    "p999": 999292.927,
                    "max": 1000341.503
                  },
                  "service_us": {
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
                    "log_syncs_per_op": 0.0,
                    "log_bytes_per_op": 0.0,
                    "rss_bytes_max": 268435456
                  },
                  "open_loop": null,
                  "generator": {
                    "cpu_share": 0.0,
                    "lag_p99_us": 0.0,
                    "lag_max_us": 0.0,
                    "blocked_share": 0.0
                  }
                }
              ],
              "spread": {
                "throughput_ops_s": {
                  "min": 100001.0,
                  "median": 100001.0,
                  "max": 100001.0
                },
                "response_p50_us": {
                  "min": 500170.751,
                  "median": 500170.751,
                  "max": 500170.751
                },
                "response_p99_us": {
                  "min": 990380.031,
                  "median": 990380.031,
                  "max": 990380.031
                },
                "cpu_us_per_op": {
                  "min": 12.5,
                  "median": 12.5,
                  "max": 12.5
                }
              },
              "stages": [],
              "problems": [],
              "warnings": [],
              "version": "0.1.0",
              "commit": null,
              "kernel": "Linux 6.18",
              "cpu_model": null,
              "cpus": 2,
              "seed": 1,
              "flags": {
                "clients": 4,
                "depth": 16,
                "bundle": 100,
                "duration": 10.0,
                "warmup": 2.0,
                "interval": 1.0,
                "value_size": "100",
                "keys": 100000,
                "distribution": "uniform",
                "mix": "set=100",
                "arrival": "constant",
                "durability": "sync",
                "seed": 1,
                "replicas": 4,
                "cluster": null,
                "key": [],
                "threads": 1,
                "client_cores": [],
                "allow_down": 0,
                "out": null,
                "rate": null,
                "runs": 1,
                "json": null
              }
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&report).unwrap());
    }

    #[test]
    fn a_report_survives_its_json() {
        let report = verdict("--rate 100000 --runs 3 --mix get=1").report;
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<BenchReport>(&text).unwrap(), report);
    }

    #[test]
    fn only_a_run_without_errors_and_with_equal_roots_is_a_success() {
        assert_eq!(verdict("").exit_code(), 0);
        let mut with_error = verdict("");
        with_error.report.errors = 1;
        assert_eq!(with_error.exit_code(), 1);
        let mut different = verdict("");
        different.report.roots_equal = false;
        assert_eq!(different.exit_code(), 1);
        let mut problem = verdict("");
        problem.report.problems.push("replica 2 ended with code 1".to_owned());
        assert_eq!(problem.exit_code(), 1);
        assert!(problem.is_about_replicas());
        problem.report.bottleneck = Bottleneck::Cluster;
        assert!(!problem.is_about_replicas(), "that it was too slow is no matter of logs");
        let mut warning = verdict("");
        warning.report.warnings.push("replica 2 was down, as allowed".to_owned());
        assert_eq!(warning.exit_code(), 0);
    }

    #[test]
    fn an_empty_histogram_gives_zeroes() {
        assert_eq!(LatencyMicroseconds::of(&crate::recorder::histogram()), LatencyMicroseconds::default());
    }

    #[test]
    fn a_range_has_its_median_for_odd_and_even_numbers() {
        let range = |values: &[f64]| Range::of(values.iter().copied());
        assert_eq!(range(&[3.0, 1.0, 2.0]), Range { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(range(&[4.0, 1.0, 2.0, 3.0]), Range { min: 1.0, median: 2.5, max: 4.0 });
        assert_eq!(range(&[]), Range::default());
    }
}
