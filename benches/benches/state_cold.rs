//! Executing bundles whose keys are in no cache, as a replica does that shares its processor with others.
//!
//! Several states take turns, one bundle each, so that all of them together and not one must fit the caches;
//! keys are uniformly random. Each line says the nanoseconds per operation over rounds (minimum, median,
//! maximum), what the root then takes per key, and the allocations per bundle, counted by the allocator that the daemon uses.
//!
//! `cargo bench -p quorate-benches --bench state_cold` runs all cases; words after `--` choose cases by name.
//! Figures of two builds are compared by running both in turn.

use quorate_benches::{OPERATIONS, VALUE_BYTES, session};
use quorate_reactor::{CountingAllocator, allocations};
use quorate_state::{BundleInput, Context, Outcome, State};
use quorate_types::{
    ArchivedOperation, BundleNumber, Condition, Digest, Nanoseconds, Nonce, Operation, Seq, SessionId,
};
use quorate_wire::testing;
use rkyv::rancor::Error;
use rkyv::vec::ArchivedVec;
use std::hint::black_box;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const ROUNDS: usize = 7;
const BUNDLES_PER_ROUND: usize = 1500;

/// Name, states, keys in each, and the operation.
const CASES: [(&str, usize, u64, Make); 8] = [
    ("set_warm", 1, 2_000, set),
    ("set_1_state_100k", 1, 100_000, set),
    ("set_4_states_100k", 4, 100_000, set),
    ("set_8_states_100k", 8, 100_000, set),
    ("set_4_states_1m", 4, 1_000_000, set),
    ("get_warm", 1, 2_000, get),
    ("get_8_states_100k", 8, 100_000, get),
    ("get_4_states_1m", 4, 1_000_000, get),
];

type Make = fn(Vec<u8>) -> Operation;

fn set(key: Vec<u8>) -> Operation {
    Operation::Set { key, value: vec![b'v'; VALUE_BYTES], condition: Condition::Always }
}

fn get(key: Vec<u8>) -> Operation {
    Operation::Get { key }
}

fn key(number: u64) -> Vec<u8> {
    format!("key-{number:012x}").into_bytes()
}

/// The numbers of splitmix64: the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// A state with one session.
struct Member {
    state: State,
    client: [u8; 32],
    number: u64,
}

impl Member {
    fn new(keys: u64, random: &mut Random) -> Self {
        let client = *testing::client_key().public().as_bytes();
        let mut member = Self { state: State::new([client]), client, number: 0 };
        member.register();
        // In random order, so that the memory of neighbours is as far apart as in a state that has lived.
        let mut order: Vec<u64> = (0..keys).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, usize::try_from(random.below(at as u64 + 1)).expect("an index"));
        }
        for numbers in order.chunks(100) {
            member.execute(&numbers.iter().map(|number| set(key(*number))).collect());
        }
        assert_eq!(member.state.user_keys(), keys);
        member
    }

    fn register(&mut self) {
        let operation = Operation::Register { nonce: Nonce([1; 16]), recent: 0 };
        let (outcome, ..) = self.outcome(session().seq, SessionId::NONE, &vec![operation]);
        assert!(matches!(outcome, Outcome::Registration { session: Some(id), .. } if id == session()));
        self.number = 1;
    }

    /// Executes a bundle; returns its time and how often memory was allocated.
    fn execute(&mut self, operations: &Vec<Operation>) -> (Duration, u64) {
        let (outcome, time, allocated) = self.outcome(Seq(self.number + 1), session(), operations);
        assert!(matches!(outcome, Outcome::Executed(_)));
        self.number += 1;
        (time, allocated)
    }

    fn outcome(
        &mut self,
        seq: Seq,
        session: SessionId,
        operations: &Vec<Operation>,
    ) -> (Outcome, Duration, u64) {
        let archive = rkyv::to_bytes::<Error>(operations).expect("operations can be archived");
        let operations =
            rkyv::access::<ArchivedVec<ArchivedOperation>, Error>(&archive).expect("a fresh archive");
        let context = Context { seq, timestamp: Nanoseconds(0) };
        // The digest of the request was made when the signature was checked.
        let (client, number, request) = (&self.client, BundleNumber(self.number), Digest::ZERO);
        let input = BundleInput { client, session, number, request, operations };
        let (before, started) = (allocations(), Instant::now());
        let outcome = black_box(self.state.execute(context, input));
        (outcome, started.elapsed(), allocations() - before)
    }
}

fn round(members: &mut [Member], keys: u64, make: Make, random: &mut Random) -> (f64, u64) {
    let (mut total, mut allocated) = (Duration::ZERO, 0);
    for bundle in 0..BUNDLES_PER_ROUND {
        let operations = (0..OPERATIONS).map(|_| make(key(random.below(keys)))).collect();
        let at = bundle % members.len();
        let (time, allocations) = members[at].execute(&operations);
        total += time;
        allocated += allocations;
    }
    (nanoseconds_per(total, BUNDLES_PER_ROUND as u64 * OPERATIONS), allocated)
}

fn nanoseconds_per(total: Duration, count: u64) -> f64 {
    total.as_secs_f64() * 1e9 / count as f64
}

fn case(name: &str, states: usize, keys: u64, make: Make) {
    let mut random = Random(keys);
    let mut members: Vec<Member> = (0..states).map(|_| Member::new(keys, &mut random)).collect();
    round(&mut members, keys, make, &mut random);
    let (mut times, mut allocated) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let (time, allocations) = round(&mut members, keys, make, &mut random);
        times.push(time);
        allocated += allocations;
    }
    times.sort_unstable_by(f64::total_cmp);
    let started = Instant::now();
    black_box(members[0].state.root());
    let root = nanoseconds_per(started.elapsed(), keys);
    println!(
        "{name:<20} {:>7.0} {:>7.0} {:>7.0} ns/operation  {:>6.2} allocations/bundle  root {root:>5.0} ns/key",
        times[0],
        times[ROUNDS / 2],
        times[ROUNDS - 1],
        allocated as f64 / (ROUNDS * BUNDLES_PER_ROUND) as f64,
    );
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    for (name, states, keys, make) in CASES {
        if chosen.is_empty() || chosen.iter().any(|word| name.contains(word.as_str())) {
            case(name, states, keys, make);
        }
    }
}
