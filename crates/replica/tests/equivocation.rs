//! An origin that sends different batches to different replicas hurts its own lane only.

mod cluster;
mod forks;

use cluster::*;
use forks::*;
use quorate_replica::mail::{ExecutionMail, Mail};
use quorate_replica::{Core, Input, ReplicaSetup};
use quorate_types::{ClusterConfig, CoreId, Epoch, Nanoseconds, Seq, View};
use quorate_wire::message::{Message, PrePrepare};
use quorate_wire::{Header, Kind, Position, header, testing};
use std::sync::Arc;

/// r3 gives A to some and the longer B to others, shows its acknowledgements as it likes, and votes for nothing. The
/// primary has proposed A, so who holds B fetches A: all must execute A, the lane must be whole, and the three honest
/// replicas must go on without r3.
fn a_committed_chain_comes_back(cores: usize, links: u8) {
    let mut cluster = Cluster::new(4, links, cores);
    cluster.machine(R3).crashed = true;
    let config = Arc::clone(&cluster.config);
    let a = fork(&config, start(), 1, 1);
    let b = fork(&config, start(), 2, 2);
    for honest in [R0, R1] {
        cluster.inject(R3, honest, a[0].frame());
    }
    b.iter().for_each(|batch| cluster.inject(R3, R2, batch.frame()));
    cluster.inject(R3, R0, &ack(a[0].tip(), false));
    cluster.run();
    let proposed = cluster.sent_by(R0, Kind::PrePrepare);
    let proposal = PrePrepare::decode(proposed[0].payload()).expect("an own proposal");
    assert_eq!(proposal.header.cut, [a[0].tip()], "r0 names A at three acknowledgements");
    assert_eq!(cluster.sent_by(R1, Kind::Prepare).len(), 3, "r1 has prepared A");

    cluster.inject(R3, R1, &ack(b[1].tip(), false));
    let position = Position { seq: Seq(1), digest: proposal.header.digest() };
    cluster.wait(20);
    for honest in [R0, R1, R2] {
        let executed = cluster.machines[honest.index()].cores[cores - 1].audit().executed;
        assert_eq!(executed, Some(position), "r{honest} with {cores} cores");
    }
    let client = Client::open(&mut cluster, 0, CoreId(0), R1);
    cluster.wait(4);
    for honest in [R0, R1, R2] {
        assert_eq!(client.replies(&cluster, honest).len(), 1, "r{honest} goes on");
    }
    // The lane itself is whole too: what r3 sends next on A is taken by all.
    let more = fork(&config, a[0].tip(), 1, 3);
    cluster.rejects.clear();
    for honest in [R0, R1, R2] {
        cluster.inject(R3, honest, more[0].frame());
    }
    assert!(cluster.rejects.is_empty(), "{:?}", cluster.rejects);
    cluster.wait(4);
    cluster.assert_equal_states();
}

#[test]
fn a_committed_chain_comes_back_on_one_core() {
    a_committed_chain_comes_back(1, 1);
}

#[test]
fn a_committed_chain_comes_back_on_several_cores() {
    a_committed_chain_comes_back(2, 1);
    a_committed_chain_comes_back(3, 2);
}

fn execution_core(config: &Arc<ClusterConfig>) -> Core {
    let setup = ReplicaSetup { config: Arc::clone(config), me: R0, key: testing::replica_key(0), cores: 2 };
    Core::new(&setup, CoreId(1))
}

/// Batches of dead forks leave execution's pool (lanes-9).
#[test]
fn forks_do_not_stay_in_the_pool() {
    let config = Arc::new(testing::config(4));
    let mut core = execution_core(&config);
    let mut effects = Vec::new();
    let mut take = |core: &mut Core, mail: ExecutionMail| {
        core.step(Nanoseconds(1), Input::Mail(Mail::Execution(mail)), &mut effects);
        core.step(Nanoseconds(1), Input::TickEnd, &mut effects);
    };
    let mut parent = header::genesis(config.digest());
    let mut tip = start();
    for round in 1..=20 {
        let alive = fork(&config, tip, 1, 2 * round);
        for batch in fork(&config, tip, 30, 2 * round + 1).into_iter().chain(alive.clone()) {
            take(&mut core, ExecutionMail::Held(batch));
        }
        assert_eq!(core.audit().kept_items, 31, "round {round}");
        tip = alive[0].tip();
        let header = Header {
            epoch: Epoch(0),
            seq: Seq(round),
            parent: parent.digest,
            timestamp: Nanoseconds(round),
            cut: vec![tip],
        };
        parent = Position { seq: header.seq, digest: header.digest() };
        let header = Arc::new(header);
        take(
            &mut core,
            ExecutionMail::Committed { header, position: parent, view: View(0), committed: Nanoseconds(1) },
        );
        assert_eq!(core.audit().executed, Some(parent));
        assert_eq!(core.audit().kept_items, 0, "the fork is dead");
    }
    // What comes late of a dead fork is not taken at all.
    for batch in fork(&config, start(), 30, 3) {
        take(&mut core, ExecutionMail::Held(batch));
    }
    assert_eq!(core.audit().kept_items, 0);
}

/// A header waits for its batches, from whatever core and in whatever order they come.
#[test]
fn execution_waits_for_the_batches_of_a_header() {
    let config = Arc::new(testing::config(4));
    let mut core = execution_core(&config);
    let mut effects = Vec::new();
    let batches = fork(&config, start(), 3, 1);
    let genesis = header::genesis(config.digest());
    let cut = vec![batches[2].tip()];
    let header =
        Header { epoch: Epoch(0), seq: Seq(1), parent: genesis.digest, timestamp: Nanoseconds(1), cut };
    let position = Position { seq: Seq(1), digest: header.digest() };
    let mail = ExecutionMail::Committed {
        header: Arc::new(header),
        position,
        view: View(0),
        committed: Nanoseconds(1),
    };
    core.step(Nanoseconds(1), Input::Mail(Mail::Execution(mail)), &mut effects);
    for batch in &batches {
        core.step(Nanoseconds(1), Input::TickEnd, &mut effects);
        assert_eq!(core.audit().executed, Some(genesis));
        assert_ne!(core.deadline(), Some(Nanoseconds(0)), "nothing to do yet");
        let mail = Mail::Execution(ExecutionMail::Held(Arc::clone(batch)));
        core.step(Nanoseconds(1), Input::Mail(mail), &mut effects);
    }
    assert_eq!(core.deadline(), Some(Nanoseconds(0)), "due at once");
    core.step(Nanoseconds(1), Input::TickEnd, &mut effects);
    assert_eq!(core.audit().executed, Some(position));
}
