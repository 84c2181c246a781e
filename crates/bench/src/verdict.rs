//! Who limited the throughput: nobody, the cluster, or the generator itself, which makes a run worthless.

use crate::format::{grouped_f64, milliseconds};
use serde::{Deserialize, Serialize};

/// A load thread that used so much of a CPU could not have sent more.
const SATURATED_SHARE: f64 = 0.95;
/// How late bundles may leave although there was room, at the 99th percentile, in microseconds. Later than
/// that, response times tell more of the generator than of the cluster.
const LAG_P99_MAX_US: f64 = 25_000.0;
/// From here on lateness is worth a remark.
const LAG_P99_REMARK_US: f64 = 2_000.0;
/// How much of what was scheduled may be missing in the end.
const MISSING_SHARE_MAX: f64 = 0.01;
/// However short the run, so much time behind the schedule is no sign of being too slow, in seconds.
const BEHIND_MAX_S: f64 = 0.1;
/// When so many bundles found no room, it was the cluster that was slow.
const BLOCKED_SHARE: f64 = 0.01;

/// How the load generator itself fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// The share of one CPU that its busiest load thread used.
    pub cpu_share: f64,
    /// How late bundles left although they were due and there was room: all but one in 100 were earlier.
    pub lag_p99_us: f64,
    /// The latest.
    pub lag_max_us: f64,
    /// The share of bundles for which there was no room when they became due.
    pub blocked_share: f64,
}

/// What an open loop was to do, and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenLoop {
    /// The rate that was asked for, in operations per second.
    pub target_ops_s: f64,
    /// Completed operations in proportion to those that became due in the same time.
    pub achieved_share: f64,
    /// Operations that became due in the measured time.
    pub scheduled_operations: u64,
    /// Operations that were due before the end and were never sent.
    pub unsent_operations: u64,
}

/// What limited the throughput.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    /// In an open loop nothing did; in a closed one its depth.
    None,
    /// The load generator. The figures say nothing about the cluster.
    Generator,
    /// The cluster did not keep up with the rate.
    Cluster,
}

/// What the judgement is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadFigures {
    pub(crate) operations: u64,
    /// The operations of one bundle of each client: how far counts of whole bundles may be off.
    pub(crate) granularity: u64,
    pub(crate) generator: Generator,
    pub(crate) open_loop: Option<OpenLoop>,
}

impl LoadFigures {
    /// Whether as much was completed as became due, but for `share_max` of it.
    pub(crate) fn keeps_up(&self, share_max: f64) -> bool {
        let Some(open) = self.open_loop else { return true };
        let missing = open.scheduled_operations.saturating_sub(self.operations);
        let allowed = (open.scheduled_operations as f64 * share_max).max(open.target_ops_s * BEHIND_MAX_S);
        missing as f64 <= allowed + self.granularity as f64
    }
}

/// What limited the throughput, with one sentence about it unless nothing did.
pub(crate) fn bottleneck(figures: &LoadFigures) -> (Bottleneck, Option<String>) {
    const GENERATOR: &str =
        "the load generator was the bottleneck, and the figures say little about the cluster";
    let generator = &figures.generator;
    if generator.cpu_share >= SATURATED_SHARE {
        let sentence = format!(
            "{GENERATOR}: a load thread used {:.0} % of a CPU; use more --threads or larger bundles",
            100.0 * generator.cpu_share
        );
        return (Bottleneck::Generator, Some(sentence));
    }
    let Some(open) = figures.open_loop else { return (Bottleneck::None, None) };
    if !figures.keeps_up(MISSING_SHARE_MAX) {
        let achieved = format!(
            "{} of {} scheduled operations were completed in time ({:.1} %), and {} were never sent",
            grouped_f64(figures.operations as f64),
            grouped_f64(open.scheduled_operations as f64),
            100.0 * open.achieved_share,
            grouped_f64(open.unsent_operations as f64),
        );
        let unsent = open.unsent_operations as f64 > MISSING_SHARE_MAX * open.scheduled_operations as f64;
        return if unsent && generator.blocked_share < BLOCKED_SHARE {
            let remedy = "although there was room; use more --threads or larger bundles";
            (Bottleneck::Generator, Some(format!("{GENERATOR}: {achieved}, {remedy}")))
        } else {
            (Bottleneck::Cluster, Some(format!("the cluster did not keep up with the rate: {achieved}")))
        };
    }
    if generator.lag_p99_us > LAG_P99_MAX_US {
        let sentence = format!(
            "{GENERATOR}: one bundle in 100 left more than {} late although there was room; give it a CPU of its own \
             or a lower rate",
            milliseconds(generator.lag_p99_us)
        );
        return (Bottleneck::Generator, Some(sentence));
    }
    (Bottleneck::None, None)
}

/// A remark about lateness that does not spoil the run but is part of its response times.
pub(crate) fn remark(figures: &LoadFigures) -> Option<String> {
    let lag = figures.generator.lag_p99_us;
    let late = figures.open_loop.is_some() && (LAG_P99_REMARK_US..=LAG_P99_MAX_US).contains(&lag);
    late.then(|| {
        format!(
            "one bundle in 100 left more than {} late because the generator did not get a CPU in time; response times \
             contain that",
            milliseconds(lag)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(cpu_share: f64) -> LoadFigures {
        let generator = Generator { cpu_share, ..Generator::default() };
        LoadFigures { operations: 1_000_000, granularity: 400, generator, open_loop: None }
    }

    /// Ten seconds at 100,000 operations/s, of which `operations` were completed and `unsent` never sent.
    fn open(operations: u64, unsent: u64, generator: Generator) -> LoadFigures {
        let open_loop = OpenLoop {
            target_ops_s: 100_000.0,
            achieved_share: operations as f64 / 1e6,
            scheduled_operations: 1_000_000,
            unsent_operations: unsent,
        };
        LoadFigures { operations, granularity: 400, generator, open_loop: Some(open_loop) }
    }

    #[test]
    fn a_closed_loop_fails_only_when_a_thread_used_a_whole_cpu() {
        assert_eq!(bottleneck(&closed(0.94)), (Bottleneck::None, None));
        let (verdict, sentence) = bottleneck(&closed(0.97));
        assert_eq!(verdict, Bottleneck::Generator);
        assert!(sentence.unwrap().contains("used 97 % of a CPU; use more --threads"));
    }

    #[test]
    fn who_keeps_up_within_a_hundredth_is_fine() {
        assert_eq!(bottleneck(&open(1_000_000, 0, Generator::default())).0, Bottleneck::None);
        assert_eq!(bottleneck(&open(990_000, 0, Generator::default())).0, Bottleneck::None);
        assert_eq!(bottleneck(&open(989_500, 0, Generator::default())).0, Bottleneck::Cluster);
    }

    #[test]
    fn a_cluster_without_room_is_at_fault_and_a_generator_with_room_is() {
        let blocked = Generator { blocked_share: 0.4, ..Generator::default() };
        let (verdict, sentence) = bottleneck(&open(800_000, 150_000, blocked));
        assert_eq!(verdict, Bottleneck::Cluster);
        let sentence = sentence.unwrap();
        assert!(sentence.contains("did not keep up") && sentence.contains("80.0 %"), "{sentence}");
        let (verdict, sentence) = bottleneck(&open(800_000, 150_000, Generator::default()));
        assert_eq!(verdict, Bottleneck::Generator);
        assert!(sentence.unwrap().contains("although there was room"));
        let saturated = Generator { cpu_share: 1.0, ..blocked };
        assert_eq!(bottleneck(&open(800_000, 150_000, saturated)).0, Bottleneck::Generator);
    }

    #[test]
    fn open_bundles_at_the_end_of_a_short_or_slow_run_are_no_shortfall() {
        let open_loop = OpenLoop {
            target_ops_s: 1000.0,
            achieved_share: 0.8,
            scheduled_operations: 500,
            unsent_operations: 0,
        };
        let figures = LoadFigures {
            operations: 300,
            granularity: 100,
            generator: Generator::default(),
            open_loop: Some(open_loop),
        };
        assert_eq!(bottleneck(&figures).0, Bottleneck::None);
        assert_eq!(bottleneck(&LoadFigures { operations: 299, ..figures }).0, Bottleneck::Cluster);
    }

    #[test]
    fn lateness_is_remarked_and_then_refused() {
        let late = |lag_p99_us| {
            let figures = open(1_000_000, 0, Generator { lag_p99_us, ..Generator::default() });
            (bottleneck(&figures).0, remark(&figures).is_some())
        };
        assert_eq!(late(100.0), (Bottleneck::None, false));
        assert_eq!(late(5_000.0), (Bottleneck::None, true));
        assert_eq!(late(30_000.0), (Bottleneck::Generator, false));
        assert!(remark(&closed(0.5)).is_none());
    }
}
