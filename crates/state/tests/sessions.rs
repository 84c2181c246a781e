//! Sessions: exactly once, in order, with repeated replies, bounded and evicted alike everywhere.

mod common;

use std::collections::BTreeSet;

use common::{Client, executed, opened, results};
use proptest::prelude::*;
use quorate_state::{Outcome, SkipReason, State};
use quorate_types::{BundleNumber, Condition, Operation, OperationError, OperationResult, Seq, limits};

fn increment() -> Operation {
    Operation::IncrementBy { key: b"n".to_vec(), by: 1 }
}

fn counter(state: &State) -> Option<String> {
    state.get(b"n").map(|entry| String::from_utf8_lossy(entry.value).into_owned())
}

fn skipped(reason: SkipReason) -> Outcome {
    Outcome::Skipped(reason)
}

#[test]
fn bundles_execute_once_and_in_order_and_retries_get_the_original_reply() {
    let (mut state, client) = opened();
    assert_eq!(client.send(&mut state, 2, 2, &[increment()]), skipped(SkipReason::NumberAboveNext));
    let first = executed(client.send(&mut state, 3, 1, &[increment()]));
    assert_eq!(first.seq, Seq(3));
    let second = executed(client.send(&mut state, 4, 2, &[increment()]));
    let root = state.root();
    assert_eq!(client.send(&mut state, 5, 1, &[increment()]), Outcome::Repeated(first));
    assert_eq!(client.send(&mut state, 6, 2, &[]), Outcome::Repeated(second), "the content does not matter");
    assert_eq!(client.send(&mut state, 7, 4, &[increment()]), skipped(SkipReason::NumberAboveNext));
    assert_eq!(client.send(&mut state, 7, u64::MAX, &[]), skipped(SkipReason::NumberAboveNext));
    assert_eq!(state.root(), root, "retries change nothing");
    assert_eq!(counter(&state).as_deref(), Some("2"));
    state.check_invariants();
}

#[test]
fn a_retried_registration_gets_its_kept_reply() {
    let client = Client::new(1, 5);
    let mut state = State::new([client.key]);
    let register = [Operation::Register { counter: 5 }];
    let reply = executed(client.send(&mut state, 9, 0, &register));
    assert_eq!(results(&reply), [OperationResult::Registered]);
    assert_eq!(client.send(&mut state, 10, 0, &register), Outcome::Repeated(reply));
    assert_eq!(state.sessions(), 1);
}

#[test]
fn counters_must_rise_and_a_refusal_changes_nothing() {
    let mut client = Client::new(1, 5);
    let mut state = State::new([client.key]);
    client.register(&mut state, 1);
    let root = state.root();
    for (low, seq) in [(4, 2), (0, 3)] {
        let old = Client::new(1, low);
        let Outcome::Refused(reply) = old.send(&mut state, seq, 0, &[Operation::Register { counter: low }])
        else {
            panic!("a low counter is refused");
        };
        assert_eq!(reply.seq, Seq(seq));
        let error = OperationError::CounterTooLow { counter: low, highest: 5 };
        assert_eq!(results(&reply), [OperationResult::Error(error)]);
        assert_eq!(old.send(&mut state, seq, 1, &[]), skipped(SkipReason::SessionUnknown));
    }
    assert_eq!(state.root(), root);
    let mut newer = Client::new(1, u64::MAX);
    newer.register(&mut state, 4);
    assert_eq!(state.sessions(), 2, "a client may have several sessions");
    assert_eq!(client.run(&mut state, 5, &[increment()]).len(), 1, "the older one goes on");
    state.check_invariants();
}

#[test]
fn the_first_counter_may_be_zero() {
    let mut client = Client::new(1, 0);
    let mut state = State::new([client.key]);
    client.register(&mut state, 1);
    assert_eq!(state.sessions(), 1);
}

#[test]
fn bundle_zero_must_be_one_registration_and_nothing_else() {
    let client = Client::new(1, 1);
    let mut state = State::new([client.key]);
    let root = state.root();
    let register = Operation::Register { counter: 1 };
    for operations in
        [vec![], vec![increment()], vec![register.clone(), increment()], vec![register.clone(), register]]
    {
        let Outcome::Refused(reply) = client.send(&mut state, 2, 0, &operations) else {
            panic!("refused");
        };
        let error = OperationResult::Error(OperationError::MisplacedRegistration);
        assert_eq!(results(&reply), vec![error; operations.len()]);
    }
    assert_eq!(state.root(), root);
    assert_eq!(state.sessions(), 0);
}

#[test]
fn strangers_and_borrowed_sessions_are_skipped() {
    let (mut state, owner) = opened();
    let stranger = Client::new(2, 1);
    let register = |counter| [Operation::Register { counter }];
    assert_eq!(stranger.send(&mut state, 2, 0, &register(1)), skipped(SkipReason::ClientNotAllowed));
    assert_eq!(stranger.send(&mut state, 2, 1, &[]), skipped(SkipReason::ClientNotAllowed));
    let thief = Client { session: owner.session, ..stranger };
    assert_eq!(thief.send(&mut state, 2, 1, &[increment()]), skipped(SkipReason::SessionNotOwned));
    assert_eq!(thief.send(&mut state, 2, 0, &register(1)), skipped(SkipReason::SessionNotOwned));
    let unopened = Client::new(1, 2);
    assert_eq!(unopened.send(&mut state, 2, 1, &[]), skipped(SkipReason::SessionUnknown));
    assert_eq!(unopened.send(&mut state, 2, 0, &register(3)), skipped(SkipReason::SessionNotDerived));
    let many = vec![increment(); limits::BUNDLE_OPERATIONS_MAX + 1];
    assert_eq!(owner.send(&mut state, 2, 1, &many), skipped(SkipReason::TooManyOperations));
    assert_eq!(counter(&state), None);
}

#[test]
fn the_last_64_replies_are_kept() {
    let (mut state, mut client) = opened();
    for seq in 2..=200 {
        client.run(&mut state, seq, &[increment()]);
    }
    assert_eq!(client.next, 200);
    for number in 0..200 {
        let outcome = client.send(&mut state, 900, number, &[]);
        if number < 136 {
            let gone = Outcome::Gone { session: client.session, number: BundleNumber(number) };
            assert_eq!(outcome, gone);
        } else {
            let Outcome::Repeated(reply) = outcome else { panic!("kept") };
            assert_eq!(reply.seq, Seq(number + 1));
            let value = i64::try_from(number).unwrap();
            assert_eq!(results(&reply), [OperationResult::Integer { value, version: number }]);
        }
    }
    state.check_invariants();
}

#[test]
fn kept_replies_are_bounded_in_bytes() {
    let (mut state, mut client) = opened();
    let value = vec![7; limits::VALUE_BYTES_MAX];
    client.run(
        &mut state,
        2,
        &[Operation::Set { key: b"long".to_vec(), value, condition: Condition::Always }],
    );
    let read = Operation::Get { key: b"long".to_vec() };
    for seq in 3..10 {
        client.run(&mut state, seq, std::slice::from_ref(&read));
        state.check_invariants();
    }
    // Three replies of a little over 256 KiB fit into 1 MiB.
    for number in 0..9 {
        let outcome = client.send(&mut state, 50, number, &[]);
        assert_eq!(matches!(outcome, Outcome::Repeated(_)), number >= 6, "bundle {number}");
    }
    let stored = state.stored_bytes();
    assert!(stored < (limits::REPLY_BYTES_KEPT_MAX + limits::VALUE_BYTES_MAX + 1000) as u64, "{stored}");
    // The longest reply displaces all others, and short ones displace it again.
    let reads = vec![read; 3];
    client.run(&mut state, 11, &reads);
    client.run(&mut state, 12, &reads);
    assert!(matches!(client.send(&mut state, 50, 9, &[]), Outcome::Gone { .. }));
    assert!(matches!(client.send(&mut state, 50, 10, &[]), Outcome::Repeated(_)));
    for seq in 13..100 {
        client.run(&mut state, seq, &[increment()]);
    }
    state.check_invariants();
}

#[test]
fn the_session_unused_for_longest_makes_room_with_all_its_replies() {
    let mut clients: Vec<Client> = (1..=4).map(|seed| Client::new(seed, 1)).collect();
    let mut state = State::with_sessions_max(clients.iter().map(|client| client.key), 3);
    for (client, seq) in clients[..3].iter_mut().zip(1..) {
        client.register(&mut state, seq);
        client.run(&mut state, 4, &[increment()]);
    }
    clients[0].run(&mut state, 5, &[increment()]);
    // Retries are no use: only execution counts.
    let oldest = 1 + usize::from(clients[2].session < clients[1].session);
    clients[oldest].send(&mut state, 6, 1, &[]);
    clients[3].register(&mut state, 7);
    assert_eq!(state.sessions(), 3);
    state.check_invariants();
    assert_eq!(clients[oldest].send(&mut state, 8, 2, &[]), skipped(SkipReason::SessionUnknown));
    assert_eq!(clients[oldest].send(&mut state, 8, 1, &[]), skipped(SkipReason::SessionUnknown));
    let again = clients[oldest].send(&mut state, 9, 0, &[Operation::Register { counter: 1 }]);
    let Outcome::Refused(reply) = again else { panic!("its counter is remembered") };
    let error = OperationError::CounterTooLow { counter: 1, highest: 1 };
    assert_eq!(results(&reply), [OperationResult::Error(error)]);
    for client in [0, 3 - oldest, 3] {
        clients[client].run(&mut state, 10, &[increment()]);
    }
    let prefix = [&[0, 3][..], &clients[oldest].session.0].concat();
    assert!(state.freeze().entries().all(|(key, _)| !key.starts_with(&prefix)), "nothing of it is left");
}

/// The simplest possible table of sessions.
#[derive(Default)]
struct Table {
    rows: Vec<(Client, u64, u64)>,
    highest: [Option<u64>; 4],
}

impl Table {
    fn open(&mut self, seed: usize, counter: u64, seq: u64, limit: usize) -> bool {
        if self.highest[seed].is_some_and(|highest| counter <= highest) {
            return false;
        }
        self.highest[seed] = Some(counter);
        if self.rows.len() == limit {
            let oldest = (0..limit)
                .min_by_key(|at| (self.rows[*at].2, self.rows[*at].0.session))
                .expect("the table is full");
            self.rows.remove(oldest);
        }
        let seed = u8::try_from(seed).expect("four clients");
        self.rows.push((Client::new(seed, counter), 1, seq));
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn eviction_agrees_with_a_plain_table_and_survives_restarts(
        limit in 1usize..6,
        steps in prop::collection::vec((0usize..4, 0u64..12, 0u8..8), 1..120),
    ) {
        let keys: BTreeSet<_> = (0..4).map(|seed| Client::new(seed, 0).key).collect();
        let mut state = State::with_sessions_max(keys, limit);
        let mut table = Table::default();
        for (step, (seed, counter, kind)) in steps.into_iter().enumerate() {
            let seq = 1 + step as u64 / 3;
            let client = Client::new(u8::try_from(seed).unwrap(), counter);
            let row = table.rows.iter().position(|row| row.0.session == client.session);
            match (kind, row) {
                (0, _) => {
                    let root = state.root();
                    state = State::from_frozen(&state.freeze(), limit);
                    prop_assert_eq!(state.root(), root);
                }
                (1..3, None) => {
                    let outcome = client.send(&mut state, seq, 0, &[Operation::Register { counter }]);
                    let opened = table.open(seed, counter, seq, limit);
                    prop_assert_eq!(matches!(outcome, Outcome::Executed(_)), opened);
                    prop_assert_eq!(matches!(outcome, Outcome::Refused(_)), !opened);
                }
                (_, None) => {
                    let outcome = client.send(&mut state, seq, 1, &[increment()]);
                    prop_assert_eq!(outcome, skipped(SkipReason::SessionUnknown));
                }
                (_, Some(row)) => {
                    let (_, next, used) = &mut table.rows[row];
                    executed(client.send(&mut state, seq, *next, &[increment()]));
                    *next += 1;
                    *used = seq;
                }
            }
            prop_assert_eq!(state.sessions(), table.rows.len());
            state.check_invariants();
        }
    }
}
