//! The durability oracle fails on histories in which something left too early.

use super::*;
use quorate_types::{BundleNumber, Epoch, LinkId, Nanoseconds, Operation, Signature};
use quorate_wire::testing::{SESSION, client_key, config};
use quorate_wire::{BatchHead, Frame, Header, Kind, batch, bundle};
use std::sync::Arc;

const ME: ReplicaId = ReplicaId(2);
const LANE: LaneId = LaneId { origin: ReplicaId(1), link: LinkId(0) };
const JOURNAL: JournalId = JournalId(1);
const CONSENSUS: JournalId = JournalId(0);

fn batch_record(number: u64, previous: Digest, why: Why) -> Record {
    let frame = Frame::encode(Kind::Batch, |out| {
        batch::write_head(out, &BatchHead { lane: LANE, number: LaneNumber(number), previous }, 1);
        let mut bytes = Vec::new();
        let session = SESSION;
        let operations = vec![Operation::Exists { key: b"k".to_vec() }];
        bundle::write(&mut bytes, &config(4), &client_key(), session, BundleNumber(number), &operations);
        batch::write_bundle(out, &bytes);
    });
    Record::Batch(frame, why)
}

/// Two batches and a header that names both, appended by `ME` and not durable yet.
struct Scene {
    ledger: Ledger,
    durability: Durability,
    tip: LaneTip,
    header: Position,
}

impl Scene {
    fn new() -> Self {
        Self::held(Why::OwnLink)
    }

    fn held(why: Why) -> Self {
        let (mut ledger, mut durability) = (Ledger::default(), Durability::new(4, ReplicaSet::EMPTY));
        let mut chain = Digest::ZERO;
        for number in 1..=2 {
            let fact = Fact::of(&batch_record(number, chain, why), &mut ledger).unwrap();
            let Fact::Batch(next, _) = fact else { panic!("a batch gives a batch") };
            chain = next;
            durability.on_append(ME, JOURNAL, Lsn(number), fact).unwrap();
        }
        let tip = LaneTip { lane: LANE, upto: LaneNumber(2), chain };
        let header = Arc::new(Header {
            epoch: Epoch(0),
            seq: Seq(1),
            parent: Digest::ZERO,
            timestamp: Nanoseconds(1),
            cut: vec![tip],
        });
        let header_position = Position { seq: Seq(1), digest: header.digest() };
        let accept = Fact::of(&Record::Accept { view: View(0), header, voted: true }, &mut ledger).unwrap();
        durability.on_append(ME, CONSENSUS, Lsn(1), accept).unwrap();
        durability.on_append(ME, CONSENSUS, Lsn(2), Fact::Prepared(View(0), header_position)).unwrap();
        Self { ledger, durability, tip, header: header_position }
    }

    fn prepare(&mut self) -> Result<(), Violation> {
        let (lo, digests) = (self.header.seq, vec![self.header.digest]);
        let message = Prepare { view: View(0), lo, digests, signature: Signature([0; 64]) };
        self.durability.before_prepare(&self.ledger, ME, &message)
    }
}

#[test]
fn a_prepare_waits_for_accept_and_every_batch() {
    let mut scene = Scene::new();
    scene.durability.on_durable(ME, JOURNAL, Lsn(2));
    assert!(scene.prepare().unwrap_err().message.contains("Accept"));
    scene.durability.on_durable(ME, CONSENSUS, Lsn(1));
    scene.prepare().unwrap();

    let mut scene = Scene::new();
    scene.durability.on_durable(ME, CONSENSUS, Lsn(1));
    scene.durability.on_durable(ME, JOURNAL, Lsn(1));
    assert!(scene.prepare().unwrap_err().message.contains("batch k2"));
    // What is durable elsewhere does not help.
    scene.durability.on_durable(ReplicaId(0), JOURNAL, Lsn(2));
    assert!(scene.prepare().is_err());
    scene.durability.on_durable(ME, JOURNAL, Lsn(2));
    scene.prepare().unwrap();
}

#[test]
fn a_commit_waits_for_its_certificate() {
    let mut scene = Scene::new();
    let commit = Commit { view: View(0), position: scene.header };
    scene.durability.on_durable(ME, CONSENSUS, Lsn(1));
    assert!(scene.durability.before_commit(ME, &commit).is_err());
    assert_eq!(scene.durability.replicas_with_certificate(&scene.ledger, scene.header), 0);
    scene.durability.on_durable(ME, CONSENSUS, Lsn(2));
    scene.durability.before_commit(ME, &commit).unwrap();
    assert_eq!(scene.durability.replicas_with_certificate(&scene.ledger, scene.header), 1);
}

#[test]
fn an_acknowledgement_waits_for_the_whole_chain() {
    let mut scene = Scene::new();
    let check = |scene: &mut Scene| scene.durability.before_acknowledgement(&scene.ledger, ME, &scene.tip);
    scene.durability.on_durable(ME, JOURNAL, Lsn(1));
    assert!(check(&mut scene).unwrap_err().message.contains("k2"));
    scene.durability.on_durable(ME, JOURNAL, Lsn(2));
    check(&mut scene).unwrap();
}

#[test]
fn nothing_is_written_down_to_be_voted_for_at_or_below_what_is_stable() {
    let mut scene = Scene::new();
    scene.durability.on_append(ME, CONSENSUS, Lsn(3), Fact::Checkpoint(Seq(4))).unwrap();
    let accept =
        |seq, voted| Fact::Accept(View(0), Position { seq: Seq(seq), digest: Digest([5; 32]) }, voted);
    scene.durability.on_append(ME, CONSENSUS, Lsn(4), accept(4, true)).unwrap();
    scene.durability.on_durable(ME, CONSENSUS, Lsn(4));
    assert!(scene.durability.on_append(ME, CONSENSUS, Lsn(5), accept(4, true)).is_err());
    scene.durability.on_append(ME, CONSENSUS, Lsn(5), accept(4, false)).unwrap();
    scene.durability.on_append(ME, CONSENSUS, Lsn(6), accept(5, true)).unwrap();
}

#[test]
fn a_vote_is_trimmed_only_if_a_promise_covers_it() {
    let vote = Fact::Accept(View(0), Position { seq: Seq(7), digest: Digest([5; 32]) }, true);
    let promised = |view, voted, stable| Fact::Promised(View(view), Seq(voted), Seq(stable));
    assert_eq!(lost_votes(&[vote], &[]), Some(vote), "however new the state is");
    assert_eq!(lost_votes(&[vote], &[vote]), None);
    assert_eq!(lost_votes(&[vote], &[promised(0, 7, 0)]), None);
    assert_eq!(lost_votes(&[vote], &[promised(0, 0, 7)]), None);
    assert_eq!(lost_votes(&[vote, promised(0, 6, 6)], &[promised(0, 6, 6)]), Some(vote));
    assert_eq!(lost_votes(&[promised(2, 7, 0)], &[promised(1, 9, 0)]), Some(promised(2, 7, 0)));
}

#[test]
fn a_batch_that_is_held_for_its_name_alone_may_go_when_a_commit_leaves_it_out() {
    let mut scene = Scene::held(Why::Named);
    scene.durability.on_durable(ME, JOURNAL, Lsn(2));
    scene.durability.on_durable(ME, CONSENSUS, Lsn(1));
    let mut agreement = Agreement::new(4, Position { seq: Seq(0), digest: Digest::ZERO });
    let trim = |scene: &mut Scene, agreement: &Agreement| {
        scene.durability.on_trim(&scene.ledger, agreement, ME, JOURNAL, Lsn(2))
    };
    trim(&mut scene, &agreement).unwrap_err();

    let other = Arc::new(Header {
        epoch: Epoch(0),
        seq: Seq(1),
        parent: Digest::ZERO,
        timestamp: Nanoseconds(2),
        cut: Vec::new(),
    });
    let committed = Position { seq: Seq(1), digest: scene.ledger.note_header(&other) };
    agreement.on_committed(&scene.ledger, ReplicaId(0), committed).unwrap();
    let (ledger, tip) = (&scene.ledger, scene.tip);
    let mut acknowledged = Scene::held(Why::Named);
    acknowledged.durability.on_durable(ME, JOURNAL, Lsn(2));
    acknowledged.durability.before_acknowledgement(ledger, ME, &tip).unwrap();
    trim(&mut acknowledged, &agreement).unwrap_err();
    trim(&mut scene, &agreement).unwrap();
}

/// Whoever has bad pages and batches has all the rest: the batch that is bad alone may be missing.
#[test]
fn what_is_intact_beside_a_bad_batch_is_missed_when_it_is_gone() {
    let restart = |gone: &[(JournalId, Lsn)], rotten: &[(JournalId, Lsn)]| {
        let mut scene = Scene::new();
        let mut facts = Vec::new();
        for (journal, upto) in [(JOURNAL, Lsn(2)), (CONSENSUS, Lsn(2))] {
            let durable = scene.durability.on_durable(ME, journal, upto);
            facts.extend((1..).map(Lsn).zip(durable).map(|(lsn, fact)| (journal, lsn, fact)));
        }
        facts.retain(|(journal, lsn, _)| !gone.contains(&(*journal, *lsn)));
        let ends = BTreeMap::from([(JOURNAL, Lsn(2)), (CONSENSUS, Lsn(2))]);
        let rotten = rotten.iter().copied().collect();
        let restart = Restart { facts, ends, damaged: true, keeps_votes: true, rotten, ..Restart::default() };
        scene.durability.on_restart(&scene.ledger, ME, restart).map(drop)
    };
    let (batch, certificate) = ((JOURNAL, Lsn(1)), (CONSENSUS, Lsn(2)));
    restart(&[batch], &[batch]).unwrap();
    assert_eq!(restart(&[batch], &[]).unwrap_err().oracle, KEPT);
    assert_eq!(restart(&[certificate], &[batch]).unwrap_err().oracle, KEPT);
}
