//! The small cases that are both timed (by criterion) and counted in instructions (by `scripts/instructions`).
//!
//! Each function sets a case up and returns what one iteration does.

use crate::loaded_state::archive;
use crate::{LoadedState, Machines, OPERATIONS, Replicas, batch, bundle};
use quorate_consensus::Keyring;
use quorate_journal::{Gate, Record};
use quorate_types::{
    After, ArchivedOperation, Condition, Digest, JournalId, LaneId, LaneNumber, LinkId, Lsn, Operation,
    ReplicaId, Seq, Signature, View, limits,
};
use quorate_wire::batch::BatchHead;
use quorate_wire::bundle::access_operations;
use quorate_wire::message::Prepare;
use quorate_wire::{Assembler, BatchView, BundleView, Frame, Kind, Statement, testing};
use rkyv::rancor::Failure;
use rkyv::vec::ArchivedVec;
use std::hint::black_box;
use std::sync::Arc;

/// The bytes of a value in the batch of the wire cases, as in the table of DESIGN section 3.
const WIRE_VALUE_BYTES: usize = 200;
/// The bundles in the batch that is parsed.
pub const BATCH_BUNDLES: u64 = 16;
/// The payload of the frames of the journal cases.
pub const FRAME_BYTES: usize = 64 * 1024;
/// What the gate holds at once.
const HELD: u64 = 64;

/// What one iteration of a case does.
pub type Iteration = Box<dyn FnMut()>;

/// A case by its name, the part of the project first.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Sets it up.
    pub set_up: fn() -> Iteration,
}

const fn case(name: &'static str, set_up: fn() -> Iteration) -> Case {
    Case { name, set_up }
}

/// All cases.
pub const CASES: [Case; 17] = [
    case("state/execute_1_set", || Box::new(execute_1_set())),
    case("state/execute_100_sets", || Box::new(execute_100_sets())),
    case("state/execute_100_sets_and_root", || Box::new(execute_100_sets_and_root())),
    case("wire/encode_100_sets_of_200_bytes", || Box::new(encode_operations())),
    case("wire/access_100_sets_of_200_bytes", || Box::new(access_archive())),
    case("wire/from_bytes_100_sets_of_200_bytes", || Box::new(deserialize_archive())),
    case("wire/parse_batch_of_16_bundles", || Box::new(parse_batch())),
    case("consensus/one_header_on_4_machines", || Box::new(order_one_header())),
    case("replica/one_lone_set_on_4_replicas", || Box::new(serve_one_set())),
    case("signatures/bundle_sign", || Box::new(sign_bundle())),
    case("signatures/bundle_verify", || Box::new(verify_bundle())),
    case("signatures/prepare_verify_64_slots", || Box::new(verify_prepare(64))),
    case("journal/frame_encode_64_kib", || Box::new(encode_frame())),
    case("journal/frame_copy_64_kib", || Box::new(frame_of_bytes())),
    case("journal/frame_check_64_kib", || Box::new(read_frame())),
    case("journal/record_of_frame", || Box::new(record_of_frame())),
    case("journal/gate_holds_and_releases_64", || Box::new(pass_gate())),
];

/// An upsert: a bundle of one SET into 100,000 keys.
pub fn execute_1_set() -> impl FnMut() {
    let mut loaded = LoadedState::new();
    let archives: Vec<_> = crate::operations(7).into_iter().map(|set| archive(&vec![set])).collect();
    let mut turns = (0..archives.len()).cycle();
    move || {
        if let Some(turn) = turns.next() {
            loaded.execute(&archives[turn]);
        }
    }
}

/// A bundle of 100 SETs into 100,000 keys.
pub fn execute_100_sets() -> impl FnMut() {
    let mut loaded = LoadedState::new();
    move || loaded.next(1)
}

/// The same, and then the root.
pub fn execute_100_sets_and_root() -> impl FnMut() {
    let mut loaded = LoadedState::new();
    black_box(loaded.state.root());
    move || {
        loaded.next(1);
        black_box(loaded.state.root());
    }
}

fn wire_operations() -> Vec<Operation> {
    let set = |index: u64| Operation::Set {
        key: format!("key:{index:012}").into_bytes(),
        value: vec![b'v'; WIRE_VALUE_BYTES],
        condition: Condition::Always,
    };
    (0..OPERATIONS).map(set).collect()
}

/// 100 SETs to bytes.
pub fn encode_operations() -> impl FnMut() {
    let operations = wire_operations();
    move || {
        black_box(archive(black_box(&operations)));
    }
}

/// 100 SETs checked and read in place.
pub fn access_archive() -> impl FnMut() {
    let bytes = archive(&wire_operations());
    move || {
        let operations: &ArchivedVec<ArchivedOperation> =
            access_operations(black_box(&bytes)).expect("a fresh archive");
        black_box(operations.len());
    }
}

/// 100 SETs checked and copied out of their bytes, which no hot path does.
pub fn deserialize_archive() -> impl FnMut() {
    let bytes = archive(&wire_operations());
    move || {
        let operations = rkyv::from_bytes::<Vec<Operation>, Failure>(black_box(&bytes));
        black_box(operations.expect("a fresh archive"));
    }
}

/// A batch of 16 bundles of 100 SETs as it travels.
#[must_use]
pub fn batch_bytes() -> Vec<u8> {
    let lane = LaneId { origin: ReplicaId(0), link: LinkId(0) };
    let head = BatchHead { lane, number: LaneNumber(1), previous: Digest::ZERO };
    batch(&testing::config(4), &head, BATCH_BUNDLES)
}

/// That batch checked, and its place in the chain computed.
pub fn parse_batch() -> impl FnMut() {
    let bytes = batch_bytes();
    move || {
        black_box(BatchView::parse(black_box(&bytes)).expect("a valid batch").chain());
    }
}

/// One header proposed, accepted, prepared and committed on four machines.
pub fn order_one_header() -> impl FnMut() {
    let mut machines = Machines::new();
    move || {
        black_box(machines.order_one());
    }
}

/// One SET of a lone client signed, disseminated, ordered, executed and answered by four whole replicas, each message in a
/// tick of its own.
pub fn serve_one_set() -> impl FnMut() {
    let mut replicas = Replicas::new();
    let mut operations = (0..).flat_map(crate::operations);
    move || {
        black_box(replicas.submit(&operations.by_ref().take(1).collect()));
    }
}

/// The signature of a bundle whose operations are hashed already.
pub fn sign_bundle() -> impl FnMut() {
    let config = testing::config(4);
    let bytes = bundle(&config, 1);
    let head = BundleView::parse(&bytes).expect("a valid bundle").head;
    let key = testing::client_key();
    move || {
        let head = black_box(&head);
        black_box(Statement::bundle(&config, &head.client, head.session, head.number, &head.body).sign(&key));
    }
}

/// Its check.
pub fn verify_bundle() -> impl FnMut() {
    let config = testing::config(4);
    let public = testing::client_key().public();
    let bytes = bundle(&config, 1);
    let head = BundleView::parse(&bytes).expect("a valid bundle").head;
    move || assert!(black_box(&head).is_signed_by(&config, &public))
}

/// The check of a PREPARE for so many slots.
pub fn verify_prepare(slots: u8) -> impl FnMut() {
    let config = Arc::new(testing::config(4));
    let keyring = |id: u8| Keyring::new(Arc::clone(&config), ReplicaId(id), testing::replica_key(id));
    let (signer, verifier) = (keyring(1), keyring(0));
    let digests = (0..slots).map(|slot| Digest([slot; 32])).collect();
    let vote = Prepare { view: View(0), lo: Seq(1), digests, signature: Signature([0; 64]) };
    let vote = signer.sign_prepare(vote).into_message();
    move || {
        black_box(verifier.prepare(ReplicaId(1), vote.clone()).expect("a valid signature"));
    }
}

fn frame() -> Frame {
    Frame::encode(Kind::Batch, |out| out.resize(out.len() + FRAME_BYTES, b'b'))
}

/// A frame around 64 KiB: what is written to a journal and to every peer. The payload is copied and its checksum
/// computed.
pub fn encode_frame() -> impl FnMut() {
    let payload = vec![b'b'; FRAME_BYTES];
    move || {
        black_box(Frame::encode(Kind::Batch, |out| out.extend_from_slice(black_box(&payload))));
    }
}

/// A frame of 64 KiB that came from elsewhere, taken over with its checksum.
pub fn frame_of_bytes() -> impl FnMut() {
    let frame = frame();
    move || {
        black_box(Frame::keep(black_box(&frame).as_frame_ref()));
    }
}

/// A frame of 64 KiB read out of a stream: both checksums compared.
pub fn read_frame() -> impl FnMut() {
    let frame = frame();
    let mut assembler = Assembler::new(limits::FRAME_BYTES_MAX);
    move || {
        let mut input = black_box(frame.bytes());
        assert!(assembler.next(&mut input).expect("a valid frame").is_some());
    }
}

/// The record of a batch: shares the frame's bytes.
pub fn record_of_frame() -> impl FnMut() {
    let frame = frame();
    move || {
        black_box(Record::Batch(black_box(&frame).clone(), quorate_types::Why::OwnLink));
    }
}

/// 64 effects that wait for a position each, released by one report of durability.
pub fn pass_gate() -> impl FnMut() {
    let mut gate = Gate::new(2);
    let mut durable = 0;
    move || {
        for lsn in durable + 1..=durable + HELD {
            let held = gate.admit(After::position(JournalId(1), Lsn(lsn)), lsn).is_none();
            assert!(held, "nothing passes before it is durable");
        }
        durable += HELD;
        gate.on_durable(JournalId(1), Lsn(durable), |lsn| {
            black_box(lsn);
        });
        assert_eq!(gate.held(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs() {
        for case in CASES {
            let mut iteration = (case.set_up)();
            (0..3).for_each(|_| iteration());
            assert!(case.name.contains('/'), "{}: the part, then the case", case.name);
        }
    }
}
