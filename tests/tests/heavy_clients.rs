//! What the heavy work of one client key leaves of somebody else's (DESIGN section 7, "after somebody is known").

use quorate_tests::attacker::Attacker;
use quorate_tests::cluster::Cluster;
use quorate_tests::victim::{ATTACKER, Alone, Crowd, VICTIM, assert_withstood};
use quorate_types::{
    BundleNumber, ClusterConfig, Condition, KeyValue, Nonce, Operation, SessionId, SigningKey, limits,
};
use quorate_wire::message::{Busy, Message};
use quorate_wire::{Frame, Kind, ReplyView, bundle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the victim is at home.
const HOME: u8 = 1;
/// The bundles of each session that are open.
const OPEN: u64 = 8;

#[test]
fn bundles_of_many_operations_at_one_home_leave_others_their_part() {
    withstand("48 bundles of 10,000 INCRBY at one home", &[HOME], 6, &increments());
}

#[test]
fn bundles_of_many_operations_at_all_homes_leave_others_their_part() {
    withstand("48 bundles of 10,000 INCRBY at each home", &[0, 1, 2, 3], 6, &increments());
}

#[test]
fn bundles_of_many_bytes_leave_others_their_part() {
    let value = vec![b'v'; limits::VALUE_BYTES_MAX];
    let entry = |number: u8| KeyValue { key: vec![b'l', number], value: value.clone() };
    let large = vec![Operation::MultiSet { entries: (0..3).map(entry).collect() }];
    withstand("two sessions of bundles of 768 KiB", &[HOME], 2, &large);
}

#[test]
fn many_small_bundles_leave_others_their_part() {
    let set = Operation::Set { key: b"small".to_vec(), value: vec![b'v'], condition: Condition::Always };
    withstand("64 sessions of lone SETs at one home", &[HOME], 64, &vec![set]);
}

/// A key may have many people behind it.
#[test]
fn a_session_leaves_others_of_its_key_their_part() {
    let name = "8 bundles of 10,000 INCRBY of another session of the same key";
    withstand_key(VICTIM, name, &[HOME], 1, &increments());
}

fn increments() -> Vec<Operation> {
    let add = |number: u64| Operation::IncrementBy { key: vec![b'i', number.to_le_bytes()[0] % 64], by: 1 };
    (0..limits::BUNDLE_OPERATIONS_MAX as u64).map(add).collect()
}

/// Has so many sessions of one key at each of `homes` keep [`OPEN`] bundles of `operations` open.
fn withstand(name: &str, homes: &[u8], sessions: u8, operations: &Vec<Operation>) {
    withstand_key(ATTACKER, name, homes, sessions, operations);
}

fn withstand_key(key: usize, name: &str, homes: &[u8], sessions: u8, operations: &Vec<Operation>) {
    let _alone = Alone::wait();
    let cluster = Cluster::start(4);
    let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(key));
    let body: Arc<[u8]> = bundle::encode_operations(operations).into();
    let mut rounds = 0;
    let figures = assert_withstood(&cluster, name, || {
        rounds += 1;
        let session = |(home, number): (u8, u8)| {
            let mut connection = Attacker::client(&cluster, &key, usize::from(home));
            let nonce = Nonce(std::array::from_fn(|at| [rounds, home, number, 0][at % 4]));
            let session = connection.register(&config, &key, nonce);
            let (config, key, body) = (Arc::clone(&config), key.clone(), Arc::clone(&body));
            Greedy { config, key, session, connection, body }
        };
        let all = homes.iter().flat_map(|home| (0..sessions).map(|number| (*home, number)));
        let all: Vec<Greedy> = all.map(session).collect();
        Crowd::start(all, Greedy::run)
    });
    println!("{figures}");
}

/// A session that has as much open as it may, always.
struct Greedy {
    config: Arc<ClusterConfig>,
    key: SigningKey,
    session: SessionId,
    connection: Attacker,
    body: Arc<[u8]>,
}

impl Greedy {
    fn send(&mut self, number: u64) {
        let Self { config, key, session, connection, body } = self;
        let frame = Frame::encode(Kind::Bundle, |out| {
            bundle::write_encoded(out, config, key, *session, BundleNumber(number), body);
        });
        connection.send(frame.bytes());
    }

    fn run(mut self, stop: &AtomicBool) {
        let (mut sent, mut answered) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            while sent < answered + OPEN {
                sent += 1;
                self.send(sent);
            }
            let Some(frame) = self.connection.receive() else { return };
            match frame.kind() {
                Kind::Reply => {
                    let reply = ReplyView::parse(frame.payload()).expect("a reply");
                    answered = answered.max(reply.number.0);
                }
                Kind::Busy => {
                    // What follows in the session must follow there, too.
                    let busy = Busy::decode(frame.payload()).expect("a refusal");
                    sent = sent.min(busy.number.0 - 1).max(answered);
                    self.connection.back_off();
                }
                other => panic!("{other:?} for a client"),
            }
        }
    }
}
