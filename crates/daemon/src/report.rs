//! The report of a replica, put together from its roles and its costs.

use crate::config::NodeConfig;
use crate::shared::Shared;
use quorate_replica::report::{Fetching, RoleReport};
use quorate_telemetry::{Costs, Counter, Measure, PeerReport, ReplicaReport, encode};
use std::collections::BTreeMap;

/// The report as JSON.
pub(crate) fn json(config: &NodeConfig, shared: &Shared, roles: &RoleReport) -> String {
    let (ordering, execution) = (&roles.ordering, &roles.execution);
    let peers = ordering.peers_committed.iter().map(|(peer, committed)| {
        let (connected, lagging, queued_bytes) = shared.peer(*peer);
        let (bans, banned) = shared.bans(*peer);
        PeerReport {
            replica: peer.0,
            connected,
            lagging,
            bans,
            banned_ms: banned.0.div_ceil(1_000_000),
            queued_bytes,
            committed: committed.0,
        }
    });
    let report = ReplicaReport {
        replica: config.replica.0,
        learner: execution.learner,
        view: ordering.view.0,
        primary: ordering.primary.0,
        accepted: ordering.accepted.seq.0,
        prepared: ordering.prepared.seq.0,
        committed: ordering.committed.seq.0,
        executed: execution.executed.seq.0,
        stable: ordering.stable.seq.0,
        executed_digest: execution.executed.digest.to_hex(),
        root: execution.root.map(|root| root.to_hex()),
        root_seq: execution.root.map(|_| execution.executed.seq.0),
        timestamp_ns: execution.timestamp.0,
        peers: peers.collect(),
        clients: shared.clients(),
        sessions: execution.sessions,
        reply_bytes: execution.reply_bytes,
        user_keys: execution.user_keys,
        stored_bytes: execution.stored_bytes,
        blocks_scrubbed: shared.sum(Counter::BlocksScrubbed),
        blocks_mended: shared.sum(Counter::BlocksMended),
        view_changes: ordering.view.0,
        log_blocks_repaired: shared.sum(Counter::LogBlocksRepaired),
        log_records_lost: shared.sum(Counter::LogRecordsLost),
        durability: config.durability.name().to_owned(),
        security: config.security.to_owned(),
        costs: costs(shared),
        rejects: shared.rejects(),
        stages: histograms(shared, |measure| roles.histograms && measure.is_stage()),
        distributions: histograms(shared, |measure| roles.histograms && !measure.is_stage()),
        state: state(config, shared, roles),
    };
    serde_json::to_string(&report).expect("invariant: a report has only maps with string keys")
}

fn histograms(shared: &Shared, wanted: impl Fn(Measure) -> bool) -> BTreeMap<String, String> {
    let measures = Measure::ALL.iter().copied().filter(|measure| wanted(*measure));
    measures.map(|measure| (measure.name().to_owned(), encode(&shared.histogram(measure)))).collect()
}

fn costs(shared: &Shared) -> Costs {
    let usage = quorate_reactor::usage();
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let enters = shared.sum(Counter::Enters);
    Costs {
        cpu_us: micros(usage.user + usage.system),
        cpu_user_us: micros(usage.user),
        cpu_system_us: micros(usage.system),
        context_switches_voluntary: usage.voluntary_switches,
        context_switches_involuntary: usage.involuntary_switches,
        enters,
        entries: shared.sum(Counter::Entries),
        syscalls: enters + shared.sum(Counter::OtherSyscalls),
        allocations: quorate_reactor::allocations(),
        bytes_sent: shared.sum(Counter::BytesSent),
        bytes_received: shared.sum(Counter::BytesReceived),
        sends: shared.sum(Counter::Sends),
        receives: shared.sum(Counter::Receives),
        log_syncs: shared.sum(Counter::LogSyncs),
        log_bytes: shared.sum(Counter::LogBytes),
        rss_bytes: quorate_reactor::resident_bytes().unwrap_or(0),
        rss_bytes_max: usage.resident_bytes_max,
        operations_executed: shared.sum(Counter::OperationsExecuted),
        bundles_executed: shared.sum(Counter::BundlesExecuted),
        uptime_ms: u64::try_from(shared.clock.uptime().as_millis()).unwrap_or(u64::MAX),
        started_ns: shared.clock.started().0,
    }
}

/// One sentence that says why the replica is or is not making progress.
fn state(config: &NodeConfig, shared: &Shared, roles: &RoleReport) -> String {
    if let Some(shortage) = shared.shortage() {
        return format!("Takes no writes: {shortage}.");
    }
    let quorums = config.cluster.quorums();
    let peers = config.cluster.replica_ids().filter(|peer| *peer != config.replica);
    let connected = 1 + peers.filter(|peer| shared.peer(*peer).0).count();
    if connected < quorums.quorum {
        return format!(
            "Cannot progress: {connected} of {} replicas are connected, a quorum is {}.",
            quorums.replicas, quorums.quorum
        );
    }
    let primary = roles.ordering.primary;
    if primary != config.replica && !shared.peer(primary).0 {
        return format!("Waiting for primary {primary}: it is not connected.");
    }
    if let Some(Fetching { seq, pages, reused }) = roles.execution.fetching {
        return format!(
            "Catching up: taking over the state certified after header {seq}, {pages} pages fetched, {reused} parts were \
             here already."
        );
    }
    if roles.execution.waits_for_batches {
        return "Catching up: fetching batches of committed headers.".to_owned();
    }
    if roles.execution.learner {
        return "Learner: follows and serves, and casts no votes, as its own may be lost; it counts as one of the \
                faulty ones."
            .to_owned();
    }
    let (executed, committed) = (roles.execution.executed.seq, roles.ordering.committed.seq);
    match roles.ordering.waiting.as_str() {
        "" if executed < committed => {
            format!("Working: {executed} of {committed} committed headers are executed.")
        }
        "" => "Idle: nothing is open.".to_owned(),
        waiting => format!("Working: {waiting}."),
    }
}
