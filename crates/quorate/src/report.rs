//! Asking replicas for their reports, each on a connection of its own.
//!
//! The driver of `quorate_client` needs a quorum before it does anything; whoever asks what is wrong with a
//! cluster must be answered by a single replica too. Asking opens no session and orders nothing.

use crate::channel::Channel;
use quorate_telemetry::ReplicaReport;
use quorate_types::{ClusterConfig, ReplicaId, SigningKey};
use quorate_wire::message::{Message, Report, ReportRequest};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A replica's report, or one line that says why there is none.
pub(crate) type Answer = Result<ReplicaReport, String>;

/// Asks for positions and costs alone, which is what costs a replica least.
pub(crate) const POSITIONS: ReportRequest = ReportRequest { root: false, histograms: false };

/// Asks for histograms too.
pub(crate) const WITH_HISTOGRAMS: ReportRequest = ReportRequest { root: false, histograms: true };

/// Asks for the root of the state too.
pub(crate) const WITH_ROOT: ReportRequest = ReportRequest { root: true, histograms: false };

/// Asks all replicas at the same time, each for at most `time`; the answers are in the order of the ids.
pub(crate) fn ask_all(
    config: &Arc<ClusterConfig>,
    key: &SigningKey,
    request: &ReportRequest,
    time: Duration,
) -> Vec<Answer> {
    let deadline = Instant::now() + time;
    std::thread::scope(|scope| {
        let threads: Vec<_> = config
            .replica_ids()
            .map(|replica| scope.spawn(move || ask(config, key, replica, request, deadline)))
            .collect();
        let lost = |_| Err("the thread that asked it failed".to_owned());
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
    })
}

fn ask(
    config: &Arc<ClusterConfig>,
    key: &SigningKey,
    replica: ReplicaId,
    request: &ReportRequest,
    deadline: Instant,
) -> Answer {
    let mut channel = Channel::open(config, key, replica, deadline)?;
    let report: Report = channel.ask(&request.encode(), deadline)?;
    serde_json::from_str(&report.json)
        .map_err(|error| format!("its report is of another version of quorate: {error}"))
}
