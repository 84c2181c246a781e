//! The report of a replica, put together from its roles and its costs.

use crate::config::NodeConfig;
use crate::shared::Shared;
use crate::space::Shortage;
use quorate_replica::report::{ExecutionReport, Fetching, RoleReport};
use quorate_telemetry::{
    Activity, Costs, Counter, Declines, Measure, PeerReport, ReplicaReport, Role, Takes, encode,
};
use quorate_types::{Quorums, ReplicaId, Seq};
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
    let (takes, declines) = admission(shared, execution);
    let report = ReplicaReport {
        replica: config.replica.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role: if execution.learner { Role::Learner } else { Role::Voter },
        takes,
        declines,
        view: ordering.view.0,
        entered: ordering.entered,
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
        state_bytes: execution.user_bytes,
        state_bytes_max: config.cluster.tuning().state.bytes_max,
        blocks_scrubbed: shared.sum(Counter::BlocksScrubbed),
        blocks_mended: shared.sum(Counter::BlocksMended),
        view_changes: ordering.view.0,
        log_blocks_repaired: shared.sum(Counter::LogBlocksRepaired),
        log_records_lost: shared.sum(Counter::LogRecordsLost),
        log_bytes: shared.log_bytes(),
        log_bytes_max: config.journal_bytes_max,
        disk_free_bytes: shared.disk_free_bytes(),
        disk_free_bytes_min: config.free_bytes_min,
        durability: config.durability.name().to_owned(),
        security: config.security.to_owned(),
        costs: costs(shared),
        rejects: shared.rejects(),
        counters: Counter::ALL.iter().map(|one| (one.name().to_owned(), shared.sum(*one))).collect(),
        stages: histograms(shared, |measure| roles.extras.histograms && measure.is_stage()),
        distributions: histograms(shared, |measure| roles.extras.histograms && !measure.is_stage()),
        activity: activity(Links::of(config, shared, ordering.primary), roles),
        waits_for: ordering.waiting.clone(),
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

/// How a replica is linked, as far as its activity depends on that.
#[derive(Clone, Copy, Debug)]
struct Links {
    /// The replicas that it is linked with, itself included.
    linked: usize,
    quorums: Quorums,
    /// Whether that is so of the primary of its view, which it may be itself.
    with_primary: bool,
    /// Whether its log stands still for want of room on the disk.
    lacks_room: bool,
}

impl Links {
    fn of(config: &NodeConfig, shared: &Shared, primary: ReplicaId) -> Self {
        let is_linked = |replica: ReplicaId| replica == config.replica || shared.peer(replica).0;
        Self {
            linked: config.cluster.replica_ids().filter(|replica| is_linked(*replica)).count(),
            quorums: config.cluster.quorums(),
            with_primary: is_linked(primary),
            lacks_room: shared.log_lacks_room(),
        }
    }
}

/// What the replica is about: what holds up the rest comes first.
fn activity(links: Links, roles: &RoleReport) -> Activity {
    let (ordering, execution) = (&roles.ordering, &roles.execution);
    let (executed, committed) = (execution.executed.seq, ordering.committed.seq);
    // Whoever cannot vote says so first, whoever it is linked with.
    if links.lacks_room {
        return Activity::AwaitingRoom;
    }
    if let Some(Fetching { seq, pages, reused }) = execution.fetching {
        return Activity::FetchingState { seq: seq.0, pages, reused };
    }
    if execution.lacks_state {
        return Activity::AwaitingState;
    }
    if links.linked < links.quorums.quorum {
        return Activity::CutOff { linked: links.linked as u64, quorum: links.quorums.quorum as u64 };
    }
    if let Some(upto) = ordering.fetching_upto {
        return Activity::FetchingHeaders { upto: upto.0 };
    }
    if let Some(next) = execution.next.filter(|_| execution.waits_for_batches) {
        return Activity::FetchingBatches { header: next.0 };
    }
    if !ordering.entered {
        return Activity::ChangingView { view: ordering.view.0 };
    }
    if !links.with_primary {
        return Activity::AwaitingPrimary { primary: ordering.primary.0 };
    }
    if !ordering.waiting.is_empty() {
        return Activity::Ordering;
    }
    // The roles are asked one after the other: what is committed meanwhile only execution knows of.
    if execution.next.is_some() || executed < committed {
        let committed = committed.max(execution.next.unwrap_or_default());
        return Activity::Executing { executed: executed.0, committed: committed.0 };
    }
    match believed(links.quorums, &ordering.peers_committed) {
        upto if upto > committed => Activity::FetchingHeaders { upto: upto.0 },
        _ => Activity::Idle,
    }
}

/// The highest seq that f+1 others say they have committed.
fn believed(quorums: Quorums, claims: &[(ReplicaId, Seq)]) -> Seq {
    let mut claims: Vec<Seq> = claims.iter().map(|(_, seq)| *seq).collect();
    claims.sort_unstable_by(|left, right| right.cmp(left));
    claims.get(quorums.faults).copied().unwrap_or_default()
}

/// What is taken of clients, and why not everything.
fn admission(shared: &Shared, execution: &ExecutionReport) -> (Takes, Option<Declines>) {
    if execution.learner || execution.lacks_state || execution.fetching.is_some() {
        return (Takes::Nothing, Some(Declines::Following));
    }
    let shortage = shared.shortage();
    let takes = shortage.map_or(Takes::Writes, Shortage::takes);
    (takes, shortage.map(|shortage| shortage.why.declines()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::ReadOnly;
    use quorate_replica::Intake;
    use quorate_types::View;
    use quorate_wire::{Position, testing};

    const QUORUMS: Quorums = Quorums { replicas: 4, faults: 1, quorum: 3, weak: 2 };
    const LINKED: Links = Links { linked: 4, quorums: QUORUMS, with_primary: true, lacks_room: false };

    fn at(seq: u64) -> Position {
        Position { seq: Seq(seq), ..Position::default() }
    }

    /// A replica that has executed all that is committed.
    fn settled() -> RoleReport {
        let mut roles = RoleReport::default();
        roles.ordering.entered = true;
        (roles.ordering.committed, roles.execution.executed) = (at(9), at(9));
        roles.ordering.peers_committed = (1..4).map(|peer| (ReplicaId(peer), Seq(9))).collect();
        roles
    }

    fn with(change: impl FnOnce(&mut RoleReport)) -> Activity {
        let mut roles = settled();
        change(&mut roles);
        activity(LINKED, &roles)
    }

    #[test]
    fn idle_is_who_has_nothing_to_execute_to_fetch_or_to_order() {
        assert_eq!(activity(LINKED, &settled()), Activity::Idle);
        let executing = |executed, committed| Activity::Executing { executed, committed };
        assert_eq!(with(|roles| roles.ordering.committed = at(12)), executing(9, 12));
        // Committed since ordering was asked.
        assert_eq!(with(|roles| roles.execution.next = Some(Seq(10))), executing(9, 10));
        // Its state is damaged, and nobody has certified another one yet.
        assert_eq!(with(|roles| roles.execution.lacks_state = true), Activity::AwaitingState);
        // f+1 others are further, and nothing is asked for yet; one who says so may lie.
        let claims = |count: usize| {
            with(|roles| {
                roles.ordering.peers_committed.iter_mut().take(count).for_each(|(_, seq)| *seq = Seq(20));
            })
        };
        assert_eq!(claims(1), Activity::Idle);
        assert_eq!(claims(2), Activity::FetchingHeaders { upto: 20 });
        assert_eq!(with(|roles| roles.ordering.waiting = "a vote".to_owned()), Activity::Ordering);
    }

    #[test]
    fn what_holds_up_the_rest_comes_first() {
        let mut roles = settled();
        let mut links = LINKED;
        let mut expect = |links: Links, change: &dyn Fn(&mut RoleReport), expected: Activity| {
            change(&mut roles);
            assert_eq!(activity(links, &roles), expected);
        };
        let all = |_: &mut RoleReport| {};
        expect(LINKED, &|roles| roles.ordering.waiting = "a view".to_owned(), Activity::Ordering);
        links.with_primary = false;
        expect(links, &all, Activity::AwaitingPrimary { primary: 0 });
        let leave = |roles: &mut RoleReport| {
            (roles.ordering.entered, roles.ordering.view) = (false, View(3));
        };
        expect(links, &leave, Activity::ChangingView { view: 3 });
        let lack = |roles: &mut RoleReport| {
            (roles.execution.next, roles.execution.waits_for_batches) = (Some(Seq(10)), true);
        };
        expect(links, &lack, Activity::FetchingBatches { header: 10 });
        let fetch = |roles: &mut RoleReport| roles.ordering.fetching_upto = Some(Seq(30));
        expect(links, &fetch, Activity::FetchingHeaders { upto: 30 });
        links.linked = 2;
        expect(links, &all, Activity::CutOff { linked: 2, quorum: 3 });
        expect(links, &|roles| roles.execution.lacks_state = true, Activity::AwaitingState);
        let take_over = |roles: &mut RoleReport| {
            roles.execution.fetching = Some(Fetching { seq: Seq(40), pages: 5, reused: 6 });
        };
        expect(links, &take_over, Activity::FetchingState { seq: 40, pages: 5, reused: 6 });
        links.lacks_room = true;
        expect(links, &all, Activity::AwaitingRoom);
    }

    #[test]
    fn who_follows_takes_nothing_and_who_lacks_room_what_there_is_room_for() {
        let shared = Shared::new(&testing::config(4), 1);
        let mut execution = ExecutionReport::default();
        assert_eq!(admission(&shared, &execution), (Takes::Writes, None));
        shared.set_shortage(Some(Shortage { why: ReadOnly::Disk, intake: Intake::Reads }));
        assert_eq!(admission(&shared, &execution), (Takes::Reads, Some(Declines::Disk)));
        execution.lacks_state = true;
        assert_eq!(admission(&shared, &execution), (Takes::Nothing, Some(Declines::Following)));
    }
}
