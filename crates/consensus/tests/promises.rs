//! What trimming leaves behind binds by itself: with the record alone a replica neither accepts nor votes at or below
//! what it has promised.

mod cluster;

use cluster::{Cluster, Growth, JOURNAL, batch_chain};
use quorate_consensus::{Consensus, Fact, Keyring, Outgoing, Recovered, Voting};
use quorate_types::{
    Digest, JournalId, LaneId, LaneNumber, LinkId, Lsn, Nanoseconds, ReplicaId, Seq, Signature, View,
};
use quorate_wire::message::PrePrepare;
use quorate_wire::{Header, LaneTip, Position, header, testing};
use std::sync::Arc;

const LIAR: ReplicaId = ReplicaId(0);
const BACKUP: ReplicaId = ReplicaId(1);
const LANE: LaneId = LaneId { origin: LIAR, link: LinkId(0) };

fn slot(seq: u64) -> Position {
    Position { seq: Seq(seq), digest: Digest([7; 32]) }
}

/// A backup that knows nothing but these facts, in a cluster whose primary has many batches to name.
fn backup(facts: Vec<Fact>) -> Cluster {
    let mut cluster = Cluster::new(4, |_| {});
    let config = Arc::clone(&cluster.config);
    let mut recovered = Recovered::new(header::genesis(config.digest()), Nanoseconds(0), []);
    let mut last = Lsn(0);
    for fact in facts {
        last = last.next();
        recovered.fold(last, fact);
    }
    let key = testing::replica_key(BACKUP.0);
    let recovered = Consensus::recover(config, BACKUP, key, JOURNAL, recovered, last, Voting::Voter);
    cluster.node_mut(BACKUP).consensus = recovered;
    cluster.node_mut(BACKUP).begin_journal_after(last);
    cluster.node_mut(LIAR).crashed = true;
    cluster
}

/// Proposes a chain of so many slots from the first one on; returns the slot up to which the backup has accepted.
fn propose(cluster: &mut Cluster, slots: u64) -> Seq {
    let everybody = cluster.ids();
    let growth = Growth {
        holders: everybody.clone(),
        ackers: everybody,
        bytes: 100,
        journal: JournalId(1),
        fork: None,
    };
    cluster.grow_lane(LANE, slots, &growth);
    let keyring = Keyring::new(Arc::clone(&cluster.config), LIAR, testing::replica_key(LIAR.0));
    let mut parent = header::genesis(cluster.config.digest());
    for number in 1..=slots {
        let header = Header {
            epoch: cluster.config.epoch(),
            seq: Seq(number),
            parent: parent.digest,
            timestamp: Nanoseconds(cluster.now.0 + number),
            cut: vec![LaneTip { lane: LANE, upto: LaneNumber(number), chain: batch_chain(LANE, number, "") }],
        };
        parent = Position { seq: header.seq, digest: header.digest() };
        let message = PrePrepare { view: View(0), header, signature: Signature([0; 64]) };
        let message = keyring.sign_pre_prepare(message).into_message();
        cluster.receive(LIAR, BACKUP, &Outgoing::PrePrepare(Arc::new(message)));
        cluster.tick(BACKUP);
    }
    cluster.node(BACKUP).consensus.positions().accepted.seq
}

#[test]
fn nothing_is_accepted_at_or_below_what_the_record_says() {
    let genesis = slot(0);
    let voted = Fact::Promised { view: View(0), voted: Some(slot(3)), stable: genesis };
    assert_eq!(propose(&mut backup(vec![voted.clone()]), 6), Seq(0), "it has voted up to 3");
    let stable = Fact::Promised { view: View(0), voted: None, stable: slot(2) };
    assert_eq!(propose(&mut backup(vec![stable]), 6), Seq(0), "2 was stable");
    let nothing = Fact::Promised { view: View(0), voted: None, stable: genesis };
    assert_eq!(propose(&mut backup(vec![nothing]), 6), Seq(6), "nothing binds it");
    let mut bound = backup(vec![voted]);
    propose(&mut bound, 6);
    let waiting = bound.node(BACKUP).consensus.waiting();
    assert_eq!(
        waiting,
        "headers 1 to 3, on which this replica has voted or which are certified, and which it lacks"
    );
    assert!(bound.violations.is_empty(), "{:?}", bound.violations);
}

/// A slot that was voted for in a lower view says nothing in a higher one, however high it is.
#[test]
fn promises_are_compared_by_view_first() {
    let head = slot(2);
    let facts = vec![
        Fact::Promised { view: View(0), voted: Some(slot(9)), stable: slot(0) },
        Fact::EnterView { view: View(3), new_view: Digest([1; 32]), head },
        Fact::Promised { view: View(3), voted: Some(slot(4)), stable: slot(0) },
    ];
    let told = |facts: &[Fact]| backup(facts.to_vec()).node(BACKUP).consensus.promises();
    assert!(told(&facts).contains("votes up to 4 are cast"), "{}", told(&facts));
    let reversed = [facts[2].clone(), facts[1].clone(), facts[0].clone()];
    assert!(told(&reversed).contains("votes up to 4 are cast"), "{}", told(&reversed));
    // The last vote of a view that was left binds nobody.
    assert!(told(&facts[..2]).contains("votes up to 1 are cast"), "{}", told(&facts[..2]));
}
