//! What a replica says about itself, as JSON in a Report frame.
//!
//! Numbers that only grow are totals since the process started, so that a reader takes differences.
//! A reader ignores fields that it does not know, and a field that is missing is an error: client and
//! replica are one binary.

use crate::standing::{Activity, Declines, Role, Takes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The report of one replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The replica that reports.
    pub replica: u8,
    /// The version of quorate that it runs.
    pub version: String,
    /// What it counts for.
    pub role: Role,
    /// What it takes of clients.
    pub takes: Takes,
    /// Why it does not take everything.
    pub declines: Option<Declines>,
    /// Its view.
    pub view: u64,
    /// Whether it works in that view; else it has left an earlier one and waits for this one to begin.
    pub entered: bool,
    /// The primary of that view.
    pub primary: u8,
    /// The highest accepted seq.
    pub accepted: u64,
    /// The highest prepared seq.
    pub prepared: u64,
    /// The highest committed seq.
    pub committed: u64,
    /// The highest executed seq.
    pub executed: u64,
    /// The highest seq with a checkpoint certificate.
    pub stable: u64,
    /// The chain digest of the header at `executed`, in hexadecimal.
    pub executed_digest: String,
    /// The root of the state after `root_seq`, in hexadecimal, when the request asked for it.
    pub root: Option<String>,
    /// The seq after which the state has that root.
    pub root_seq: Option<u64>,
    /// The timestamp of the last executed header, in nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// The other replicas as this one sees them.
    pub peers: Vec<PeerReport>,
    /// The number of connected clients.
    pub clients: u64,
    /// The number of sessions in the state.
    pub sessions: u64,
    /// The bytes of results that the state keeps of all sessions, so that a retry gets its answer.
    pub reply_bytes: u64,
    /// The number of keys that users have stored.
    pub user_keys: u64,
    /// The bytes of all keys and values in the state, with what it keeps of sessions.
    pub stored_bytes: u64,
    /// What users' keys and values come to, each entry with 32 bytes more.
    pub state_bytes: u64,
    /// What they may come to, `state_max`: what would make them more has no effect.
    pub state_bytes_max: u64,
    /// Blocks of the newest checkpoint that were read back and compared with the state in memory.
    pub blocks_scrubbed: u64,
    /// Those that had gone bad, with copies of manifests: they were written anew.
    pub blocks_mended: u64,
    /// The views that have ended since the cluster began, or were passed over.
    pub view_changes: u64,
    /// What of its logs is needed, in bytes.
    pub log_bytes: u64,
    /// What its logs may take, `max_journal_bytes`.
    pub log_bytes_max: u64,
    /// What is free on the disk of its data directory, in bytes, once it was looked at.
    pub disk_free_bytes: Option<u64>,
    /// What is to be left free there, `min_free_bytes`.
    pub disk_free_bytes_min: u64,
    /// The blocks of its log that went bad while it ran and were written again from their second copies.
    pub log_blocks_repaired: u64,
    /// The records of its log that went bad while it ran and cannot be read from any copy.
    pub log_records_lost: u64,
    /// What an acknowledgement promises: `memory`, `async` or `sync`.
    pub durability: String,
    /// What protects the links: `plaintext` or `tls`.
    pub security: String,
    /// What the work has cost so far.
    pub costs: Costs,
    /// How many messages were rejected, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Every [`crate::Counter`] by its name.
    pub counters: BTreeMap<String, u64>,
    /// Where the time of bundles goes, in nanoseconds: the histogram of each stage, merged over all cores, as
    /// [`encode`](crate::encode) writes it. Empty unless the request asked for histograms.
    pub stages: BTreeMap<String, String>,
    /// The other histograms, in the units that their names say. Empty unless the request asked for histograms.
    pub distributions: BTreeMap<String, String>,
    /// What it is about.
    pub activity: Activity,
    /// What ordering waits for, in words for people; empty when nothing is open.
    pub waits_for: String,
}

impl ReplicaReport {
    /// What it is about, in words for people.
    #[must_use]
    pub fn doing(&self) -> String {
        let (activity, waits_for) = (&self.activity, &self.waits_for);
        match activity {
            _ if waits_for.is_empty() => activity.to_string(),
            Activity::Ordering => format!("{activity}: {waits_for}"),
            Activity::ChangingView { .. } => format!("changing the view: {waits_for}"),
            _ => format!("{activity}; {waits_for}"),
        }
    }
}

/// Another replica as the reporting one sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The other replica.
    pub replica: u8,
    /// Whether all links to it stand.
    pub connected: bool,
    /// Whether its queue overflowed and it catches up from state.
    pub lagging: bool,
    /// How often it was kept out for what it had sent, and for how long it still is on some link, in milliseconds.
    pub bans: u64,
    /// See `bans`; 0 when it is not kept out.
    pub banned_ms: u64,
    /// The bytes that wait to be sent to it.
    pub queued_bytes: u64,
    /// The highest seq that it says it has committed.
    pub committed: u64,
}

/// What a replica has used since its process started. All but the resident sizes are totals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// CPU time, user and system, in microseconds.
    pub cpu_us: u64,
    /// CPU time in the process itself, in microseconds.
    pub cpu_user_us: u64,
    /// CPU time in the kernel on its behalf, in microseconds.
    pub cpu_system_us: u64,
    /// Times that a thread gave up its CPU to wait.
    pub context_switches_voluntary: u64,
    /// Times that a thread was taken off its CPU.
    pub context_switches_involuntary: u64,
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Entries that those calls handed to the kernel.
    pub entries: u64,
    /// System calls: enters and every other call that the reactors make themselves.
    pub syscalls: u64,
    /// Allocations of memory.
    pub allocations: u64,
    /// Bytes sent to peers and clients.
    pub bytes_sent: u64,
    /// Bytes received from peers and clients.
    pub bytes_received: u64,
    /// Send operations.
    pub sends: u64,
    /// Receive operations.
    pub receives: u64,
    /// Groups of the log that were synced to the disk.
    pub log_syncs: u64,
    /// Bytes written to the log.
    pub log_bytes: u64,
    /// Memory that is resident now, in bytes.
    pub rss_bytes: u64,
    /// The most memory that was ever resident, in bytes.
    pub rss_bytes_max: u64,
    /// Operations executed.
    pub operations_executed: u64,
    /// Bundles executed.
    pub bundles_executed: u64,
    /// How long the process has run, in milliseconds.
    pub uptime_ms: u64,
    /// When the process started, in nanoseconds since the Unix epoch as its clock then was. Another one is another process,
    /// whose totals have begun anew, however long it has run.
    pub started_ns: u64,
}

impl Costs {
    /// Whether the replica was restarted between an earlier report and this one: its totals have begun anew then, and may
    /// all the same have grown beyond those of the earlier one.
    #[must_use]
    pub fn restarted_since(&self, earlier: &Self) -> bool {
        self.started_ns != earlier.started_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ReplicaReport {
        ReplicaReport {
            replica: 2,
            root: Some("ab".repeat(32)),
            root_seq: Some(7),
            peers: vec![PeerReport { replica: 1, connected: true, ..PeerReport::default() }],
            rejects: BTreeMap::from([("stale view".to_owned(), 3)]),
            activity: Activity::FetchingState { seq: 9, pages: 2, reused: 0 },
            declines: Some(Declines::Disk),
            ..ReplicaReport::default()
        }
    }

    #[test]
    fn a_report_survives_its_json() {
        let text = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<ReplicaReport>(&text).unwrap(), report());
    }

    #[test]
    fn a_field_more_is_ignored_and_a_field_less_is_an_error() {
        let mut value = serde_json::to_value(report()).unwrap();
        value["new_field"] = 1.into();
        assert!(serde_json::from_value::<ReplicaReport>(value.clone()).is_ok());
        value.as_object_mut().unwrap().remove("costs");
        assert!(serde_json::from_value::<ReplicaReport>(value).unwrap_err().to_string().contains("costs"));
    }
}
