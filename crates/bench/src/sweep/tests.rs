//! Ladders and knees.

use super::*;
use crate::report::tests::verdict;
use crate::verdict::OpenLoop;
use clap::{CommandFactory, Parser};
use expect_test::expect;
use quorate_types::Quorums;

#[derive(Parser, Debug)]
struct Command {
    #[command(flatten)]
    arguments: SweepArguments,
}

fn parse(line: &str) -> SweepArguments {
    Command::parse_from(std::iter::once("sweep").chain(line.split_whitespace())).arguments
}

pub(crate) fn empty(line: &str) -> SweepReport {
    SweepReport::start(Quorums::of(4), verdict("").report.environment, parse(line))
}

/// Ten seconds at a rate, with a share completed and a p99 in milliseconds.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the tests use small positive numbers"
)]
fn step(rate: f64, share: f64, p99_ms: f64) -> BenchReport {
    let mut report = verdict("--rate 1").report;
    let due = rate * 10.0;
    report.open_loop = Some(OpenLoop {
        target_ops_s: rate,
        achieved_share: share,
        scheduled_operations: due as u64,
        unsent_operations: (due * (1.0 - share)) as u64,
    });
    report.operations = (due * share) as u64;
    report.throughput_ops_s = rate * share;
    report.generator.blocked_share = 1.0 - share;
    report.response_us = LatencyMicroseconds {
        p50: 300.0 * p99_ms,
        p99: 1000.0 * p99_ms,
        p999: 1100.0 * p99_ms,
        max: 1500.0 * p99_ms,
        ..LatencyMicroseconds::default()
    };
    report.problems.extend(bottleneck(&load_figures(&report)).1);
    report
}

pub(crate) fn climbed(steps: &[(f64, f64, f64)]) -> SweepReport {
    let mut sweep = empty("");
    for (rate, share, p99_ms) in steps {
        if !sweep.take(&step(*rate, *share, *p99_ms), 100.0) {
            break;
        }
    }
    sweep
}

#[test]
fn flags_have_their_own_defaults_and_are_documented() {
    Command::command().debug_assert();
    let arguments = parse("");
    arguments.check().unwrap();
    assert_eq!((arguments.load.duration, arguments.load.warmup), (5.0, 1.0));
    for argument in Command::command().get_arguments() {
        assert!(argument.get_help().is_some(), "{argument}");
    }
    let complaint = |line: &str| parse(line).check().unwrap_err().to_string();
    assert!(complaint("--step 1").contains("--step 1: use 1.01 to 10"));
    assert!(complaint("--from 0").contains("--from 0: use"));
    assert!(complaint("--from 10 --to 5").contains("--from 10 is above --to 5"));
    assert!(complaint("--p99-max=-1").contains("--p99-max -1"));
    assert!(complaint("--clients 0").contains("--clients 0"));
}

#[test]
fn rates_climb_by_the_factor_to_the_last() {
    assert_eq!(ladder(&parse("--from 100 --to 400 --step 2"), None), [100.0, 200.0, 400.0]);
    assert_eq!(ladder(&parse("--from 100 --step 4"), None), [100.0, 400.0, 1600.0, 6400.0]);
    let estimated = ladder(&parse("--step 2"), Some(123_456.0));
    assert_eq!(estimated, [25_000.0, 50_000.0, 100_000.0, 200_000.0]);
    assert_eq!(ladder(&parse("--to 10"), Some(1e6)), [10.0]);
}

#[test]
fn the_knee_is_the_last_rate_that_is_kept_up_with() {
    let sweep = climbed(&[(1e4, 1.0, 5.0), (2e4, 0.999, 9.0), (4e4, 0.9, 800.0), (8e4, 0.5, 900.0)]);
    assert_eq!((sweep.steps.len(), sweep.knee_ops_s, sweep.exit_code()), (3, Some(2e4), 0));
    expect![[r#"
        4 replicas (f = 1), sync durability, plaintext; open loop, constant arrivals; latency of bundles of 100 from the intended start

            target/s  achieved/s    of due        p50        p99      p99.9        max  left late    CPU/op
              10,000      10,000   100.0 %    1.50 ms    5.00 ms    5.50 ms    7.50 ms    80.0 µs  12.50 µs
              20,000      19,980    99.9 %    2.70 ms    9.00 ms    9.90 ms    13.5 ms    80.0 µs  12.50 µs
              40,000      36,000    90.0 %     240 ms     800 ms     880 ms     1.20 s    80.0 µs  12.50 µs  too high

        the knee is at 20,000 operations/s: 40,000 operations/s are too many: only 90.0 % of what was due was completed
    "#]].assert_eq(&sweep.to_string());
}

#[test]
fn the_knee_may_be_a_matter_of_time() {
    let sweep = climbed(&[(1e4, 1.0, 5.0), (2e4, 1.0, 150.0)]);
    assert_eq!((sweep.knee_ops_s, sweep.exit_code()), (Some(1e4), 0));
    assert!(sweep.ended.contains("p99 is 150 ms, above 100 ms"), "{}", sweep.ended);
}

#[test]
fn a_first_rate_that_is_too_high_and_a_slow_generator_are_failures() {
    let sweep = climbed(&[(1e4, 0.5, 5.0)]);
    assert_eq!((sweep.knee_ops_s, sweep.exit_code()), (None, 1));
    assert!(sweep.problems[0].contains("use a lower --from"));
    let mut sweep = climbed(&[(1e4, 1.0, 5.0)]);
    let mut slow = step(2e4, 1.0, 5.0);
    slow.generator.cpu_share = 0.99;
    slow.problems.extend(bottleneck(&load_figures(&slow)).1);
    assert!(!sweep.take(&slow, 100.0));
    assert_eq!(sweep.exit_code(), 1);
    assert!(sweep.problems[0].contains("at 20,000 operations/s: the load generator was the bottleneck"));
}

#[test]
fn a_report_survives_its_json() {
    let sweep = climbed(&[(1e4, 1.0, 5.0), (2e4, 0.5, 9.0)]);
    let text = serde_json::to_string(&sweep).unwrap();
    assert_eq!(serde_json::from_str::<SweepReport>(&text).unwrap(), sweep);
}
