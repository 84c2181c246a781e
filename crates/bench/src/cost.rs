//! What an operation costs the whole cluster: differences of the replicas' totals over the measured time.

use crate::control::Answer;
use quorate_telemetry::{Costs, ReplicaReport};
use serde::{Deserialize, Serialize};

/// Costs per operation, summed over all replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterCosts {
    /// CPU time, user and system, in microseconds.
    pub cpu_us_per_op: f64,
    /// Voluntary and involuntary context switches.
    pub context_switches_per_op: f64,
    /// Ring enters and every other call that the reactors make themselves.
    pub syscalls_per_op: f64,
    /// Ring enters.
    pub enters_per_op: f64,
    /// Entries handed to the kernel per ring enter.
    pub entries_per_enter: f64,
    /// Allocations of memory.
    pub allocations_per_op: f64,
    /// Bytes sent to peers and clients.
    pub bytes_sent_per_op: f64,
    /// Groups of the logs that were synced to the disks.
    #[serde(default)]
    pub log_syncs_per_op: f64,
    /// Bytes written to the logs.
    #[serde(default)]
    pub log_bytes_per_op: f64,
    /// The sum of each replica's most resident memory since its start, in bytes.
    pub rss_bytes_max: u64,
}

impl ClusterCosts {
    /// The costs between two series of reports, in which `operations` were completed. A replica counts when
    /// it is in both; one that was restarted in between counts from zero.
    pub(crate) fn between(start: &[Answer], end: &[Answer], operations: u64) -> Self {
        let mut sum = Costs::default();
        for (before, after) in pairs(start, end) {
            add(&mut sum, &before.costs, &after.costs);
        }
        Self::of(&sum, operations)
    }

    fn of(sum: &Costs, operations: u64) -> Self {
        let per = |total: u64, count: u64| if count == 0 { 0.0 } else { total as f64 / count as f64 };
        let switches = sum.context_switches_voluntary + sum.context_switches_involuntary;
        Self {
            cpu_us_per_op: per(sum.cpu_us, operations),
            context_switches_per_op: per(switches, operations),
            syscalls_per_op: per(sum.syscalls, operations),
            enters_per_op: per(sum.enters, operations),
            entries_per_enter: per(sum.entries, sum.enters),
            allocations_per_op: per(sum.allocations, operations),
            bytes_sent_per_op: per(sum.bytes_sent, operations),
            log_syncs_per_op: per(sum.log_syncs, operations),
            log_bytes_per_op: per(sum.log_bytes, operations),
            rss_bytes_max: sum.rss_bytes_max,
        }
    }
}

/// What one replica spent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaCosts {
    /// The replica.
    pub replica: u8,
    /// Its costs per operation of the cluster.
    #[serde(flatten)]
    pub costs: ClusterCosts,
    /// The share of one CPU that it used.
    pub cpu_share: f64,
}

/// The costs of each replica that is in both series of reports, `seconds` apart.
pub(crate) fn per_replica(
    start: &[Answer],
    end: &[Answer],
    operations: u64,
    seconds: f64,
) -> Vec<ReplicaCosts> {
    let costs = pairs(start, end).map(|(before, after)| {
        let mut sum = Costs::default();
        add(&mut sum, &before.costs, &after.costs);
        let cpu_share = sum.cpu_us as f64 / 1e6 / seconds;
        ReplicaCosts { replica: after.replica, costs: ClusterCosts::of(&sum, operations), cpu_share }
    });
    costs.collect()
}

/// The reports of the replicas that are in both series.
pub(crate) fn pairs<'a>(
    start: &'a [Answer],
    end: &'a [Answer],
) -> impl Iterator<Item = (&'a ReplicaReport, &'a ReplicaReport)> {
    end.iter().flatten().filter_map(|after| {
        let before = start.iter().flatten().find(|before| before.replica == after.replica)?;
        Some((before, after))
    })
}

fn add(sum: &mut Costs, before: &Costs, after: &Costs) {
    let restarted = after.restarted_since(before);
    let grown = |before: u64, after: u64| if restarted { after } else { after.saturating_sub(before) };
    sum.cpu_us += grown(before.cpu_us, after.cpu_us);
    sum.context_switches_voluntary +=
        grown(before.context_switches_voluntary, after.context_switches_voluntary);
    sum.context_switches_involuntary +=
        grown(before.context_switches_involuntary, after.context_switches_involuntary);
    sum.syscalls += grown(before.syscalls, after.syscalls);
    sum.enters += grown(before.enters, after.enters);
    sum.entries += grown(before.entries, after.entries);
    sum.allocations += grown(before.allocations, after.allocations);
    sum.bytes_sent += grown(before.bytes_sent, after.bytes_sent);
    sum.log_syncs += grown(before.log_syncs, after.log_syncs);
    sum.log_bytes += grown(before.log_bytes, after.log_bytes);
    sum.rss_bytes_max += after.rss_bytes_max;
}

/// How often the view changed between two series of reports, as the replica that saw most of it tells.
pub(crate) fn view_changes(start: &[Answer], end: &[Answer]) -> u64 {
    let grown =
        pairs(start, end).map(|(before, after)| after.view_changes.saturating_sub(before.view_changes));
    grown.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::NoAnswer;

    fn report(replica: u8, scale: u64) -> Answer {
        let costs = Costs {
            cpu_us: 10 * scale,
            context_switches_voluntary: scale,
            context_switches_involuntary: 2 * scale,
            enters: 4 * scale,
            entries: 40 * scale,
            syscalls: 5 * scale,
            allocations: 6 * scale,
            bytes_sent: 700 * scale,
            log_syncs: 3 * scale,
            log_bytes: 800 * scale,
            rss_bytes_max: 1000 + scale,
            uptime_ms: scale,
            ..Costs::default()
        };
        Ok(ReplicaReport { replica, view_changes: scale / 10, costs, ..ReplicaReport::default() })
    }

    #[test]
    fn costs_are_summed_over_replicas_and_divided_by_operations() {
        let start = [report(0, 10), report(1, 20)];
        let end = [report(1, 40), report(0, 20)];
        let costs = ClusterCosts::between(&start, &end, 15);
        let expected = ClusterCosts {
            cpu_us_per_op: 20.0,
            context_switches_per_op: 6.0,
            syscalls_per_op: 10.0,
            enters_per_op: 8.0,
            entries_per_enter: 10.0,
            allocations_per_op: 12.0,
            bytes_sent_per_op: 1400.0,
            log_syncs_per_op: 6.0,
            log_bytes_per_op: 1600.0,
            rss_bytes_max: 2060,
        };
        assert_eq!(costs, expected);
        assert_eq!(view_changes(&start, &end), 2);
        let each = per_replica(&start, &end, 15, 0.001);
        assert_eq!(each.iter().map(|one| one.replica).collect::<Vec<_>>(), [1, 0]);
        let sum: f64 = each.iter().map(|one| one.costs.cpu_us_per_op).sum();
        assert!((sum - 20.0).abs() < 1e-9);
        assert!((each[0].cpu_share - 0.2).abs() < 1e-9, "{each:?}");
    }

    #[test]
    fn a_replica_that_is_missing_or_restarted_and_no_operations_do_no_harm() {
        for scale in [10, 70] {
            let mut anew = report(0, scale).unwrap();
            anew.costs.started_ns = 1;
            let costs = ClusterCosts::between(
                &[report(0, 50)],
                &[Ok(anew), report(1, 90), Err(NoAnswer::Failed(String::new()))],
                10,
            );
            assert_eq!((costs.cpu_us_per_op, costs.rss_bytes_max), (scale as f64, 1000 + scale));
        }
        let nothing = ClusterCosts::between(&[], &[], 0);
        assert_eq!(nothing, ClusterCosts::default());
        assert_eq!(view_changes(&[], &[]), 0);
    }
}
