//! Asking replicas for their reports, each on a connection of its own.
//!
//! The driver of `quorate_client` needs a quorum before it does anything; whoever asks what is wrong with a
//! cluster must be answered by a single replica too. Asking opens no session and orders nothing.

use crate::channel::Channel;
use quorate_telemetry::ReplicaReport;
use quorate_types::{ClusterConfig, ReplicaId, SigningKey};
use quorate_wire::message::{Message, Report, ReportRequest};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A replica's report, or why there is none.
pub(crate) type Answer = Result<ReplicaReport, NoReport>;

/// Why a replica gives no report, with one line that says more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoReport {
    pub(crate) silence: Silence,
    pub(crate) text: String,
}

impl NoReport {
    pub(crate) fn unreachable(text: impl Into<String>) -> Self {
        Self { silence: Silence::Unreachable, text: text.into() }
    }
}

impl fmt::Display for NoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// In which way a replica gives no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Silence {
    /// It does not answer.
    Unreachable,
    /// It is there, and lets nobody in with this key or configuration, or has no room.
    Refused,
    /// It is there, and its report is of another version.
    Unreadable,
}

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
        let lost = |_| Err(NoReport::unreachable("the thread that asked it failed"));
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
    let mut channel = Channel::open(config, key, replica, deadline).map_err(|error| {
        let silence = if error.refused { Silence::Refused } else { Silence::Unreachable };
        NoReport { silence, text: error.text }
    })?;
    let report: Report = channel.ask(&request.encode(), deadline).map_err(NoReport::unreachable)?;
    serde_json::from_str(&report.json).map_err(|error| NoReport {
        silence: Silence::Unreadable,
        text: format!("its report is of another version of quorate: {error}"),
    })
}
