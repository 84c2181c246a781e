//! Kept replies: of each session the last ones, and in bytes bounded by session, by key and in all, alike everywhere.

mod common;

use common::{Client, executed, opened};
use proptest::prelude::*;
use quorate_state::{Outcome, SkipReason, State};
use quorate_types::{
    BundleNumber, Condition, Digest, Domain, Operation, OperationError, OperationResult, Seq, StateLimits,
    limits,
};

fn increment() -> Operation {
    Operation::IncrementBy { key: b"n".to_vec(), by: 1 }
}

fn get(key: &[u8]) -> Operation {
    Operation::Get { key: key.to_vec() }
}

fn set(key: &[u8], bytes: usize) -> Operation {
    Operation::Set { key: key.to_vec(), value: vec![7; bytes], condition: Condition::Always }
}

/// The seq that the answer names to a bundle whose number was used by another.
fn number_used(outcome: &Outcome) -> u64 {
    let Outcome::Refused(reply) = outcome else { panic!("not refused: {outcome:?}") };
    assert_eq!(common::results(reply), [OperationResult::Error(OperationError::NumberUsed)]);
    reply.seq.0
}

#[test]
fn the_last_64_replies_are_kept() {
    let (mut state, mut client) = opened();
    for seq in 2..=200 {
        client.run(&mut state, seq, &[increment()]);
    }
    assert_eq!(client.next, 200);
    for number in 0..200 {
        let outcome = client.send(&mut state, 900, number, &[increment()]);
        if number < 136 {
            assert_eq!(outcome, Outcome::Skipped(SkipReason::NumberForgotten));
        } else {
            let Outcome::Repeated(reply) = outcome else { panic!("kept") };
            assert_eq!(reply.seq, Seq(number + 1));
            let value = i64::try_from(number).unwrap();
            assert_eq!(common::results(&reply), [OperationResult::Integer { value, version: number }]);
        }
    }
    state.check_invariants();
}

#[test]
fn kept_replies_are_bounded_in_bytes_and_what_was_executed_stays_known() {
    let (mut state, mut client) = opened();
    client.run(&mut state, 2, &[set(b"long", limits::VALUE_BYTES_MAX)]);
    let read = get(b"long");
    for seq in 3..10 {
        client.run(&mut state, seq, std::slice::from_ref(&read));
        state.check_invariants();
    }
    // Three replies of a little over 256 KiB fit into 1 MiB.
    let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&vec![read.clone()]).unwrap();
    let request = Digest::of(Domain::BundleBody, &bytes);
    for number in 2..9 {
        let outcome = client.send(&mut state, 50, number, std::slice::from_ref(&read));
        if number < 6 {
            let (session, seq) = (client.session, Seq(number + 1));
            assert_eq!(outcome, Outcome::Gone { session, number: BundleNumber(number), request, seq });
            assert_eq!(client.send(&mut state, 50, number, &[Operation::Void]), outcome);
            let other = client.send(&mut state, 50, number, &[increment()]);
            assert_eq!(number_used(&other), number + 1);
        } else {
            assert!(matches!(outcome, Outcome::Repeated(_)), "bundle {number}");
        }
    }
    let stored = state.stored_bytes();
    assert!(stored < (limits::REPLY_BYTES_KEPT_MAX + limits::VALUE_BYTES_MAX + 2000) as u64, "{stored}");
    // The longest reply displaces all others, and short ones displace it again.
    let reads = vec![read; 3];
    client.run(&mut state, 11, &reads);
    client.run(&mut state, 12, &reads);
    assert!(matches!(client.send(&mut state, 50, 9, &reads), Outcome::Gone { .. }));
    assert!(matches!(client.send(&mut state, 50, 10, &reads), Outcome::Repeated(_)));
    for seq in 13..100 {
        client.run(&mut state, seq, &[increment()]);
        state.check_invariants();
    }
}

/// Thousands of sessions may have a key, and each may keep 1 MiB.
#[test]
fn a_key_keeps_a_bounded_number_of_bytes_and_only_its_own_give_way() {
    let mut other = Client::new(2, 1);
    let mut own: Vec<Client> = (0..100).map(|nonce| Client::new(1, nonce)).collect();
    let mut state = State::new([other.key, own[0].key]);
    other.register(&mut state, 1);
    own.iter_mut().for_each(|client| client.register(&mut state, 1));
    other.run(&mut state, 2, &[set(b"long", limits::VALUE_BYTES_MAX - 100)]);
    let reads = vec![get(b"long"); 4];
    other.run(&mut state, 3, &reads);
    for (client, seq) in own.iter_mut().zip(4..) {
        client.run(&mut state, seq, &[increment()]);
        client.run(&mut state, seq, &reads);
        assert!(state.reply_bytes() <= limits::REPLY_BYTES_KEPT_PER_CLIENT_MAX + (1 << 20));
    }
    state.check_invariants();
    let expected = |client: &Client, number: u64, state: &mut State| match number {
        1 => client.send(state, 200, 1, &[increment()]),
        _ => client.send(state, 200, number, &reads),
    };
    let mut restarted = State::from_frozen(&state.freeze(), StateLimits::default());
    for state in [&mut state, &mut restarted] {
        for (index, client) in own.iter().enumerate() {
            for number in [1, 2] {
                let outcome = expected(client, number, state);
                let (seq, gone) = (Seq(4 + index as u64), index < 36);
                match outcome {
                    Outcome::Gone { seq: at, .. } if gone => assert_eq!(at, seq),
                    Outcome::Repeated(reply) if !gone => assert_eq!(reply.seq, seq),
                    outcome => panic!("session {index}, bundle {number}: {outcome:?}"),
                }
            }
        }
        assert!(matches!(other.send(state, 200, 2, &reads), Outcome::Repeated(_)), "that is another key's");
    }
    // Whoever lost results goes on, and what it has from then on is kept again.
    assert_eq!(own[0].run(&mut state, 201, &[increment()]).len(), 1);
    assert!(matches!(own[0].send(&mut state, 202, 3, &[increment()]), Outcome::Repeated(_)));
    state.check_invariants();
}

#[test]
fn over_the_bound_of_all_keys_whoever_has_more_than_its_part_gives_way() {
    // A read of 900 bytes has results of some 950; three keys may have 4000 bytes each.
    let reply_bytes = 12_000;
    let limits = StateLimits { reply_bytes, reply_bytes_per_client: 9000, ..StateLimits::default() };
    let mut clients: Vec<Client> = (1..4).map(|seed| Client::new(seed, 1)).collect();
    let mut state = State::with_limits(clients.iter().map(|client| client.key), limits);
    clients.iter_mut().for_each(|client| client.register(&mut state, 1));
    clients[0].run(&mut state, 2, &[set(b"long", 900)]);
    let kept = |state: &State, clients: &[Client]| -> Vec<usize> {
        let is_kept = |client: &Client, number: u64| {
            let mut state = State::from_frozen(&state.freeze(), limits);
            let outcome = client.send(&mut state, 99, number, &[Operation::Void]);
            matches!(outcome, Outcome::Repeated(_))
        };
        clients.iter().map(|one| (1..one.next).filter(|number| is_kept(one, *number)).count()).collect()
    };
    for seq in 3..40 {
        clients[0].run(&mut state, seq, &[get(b"long")]);
    }
    assert_eq!(kept(&state, &clients), [9, 0, 0], "one alone has all that a key may have");
    for seq in 40..80 {
        clients[1].run(&mut state, seq, &[get(b"long")]);
    }
    assert_eq!(kept(&state, &clients), [9, 4, 0], "the first is idle and loses nothing");
    for seq in 80..100 {
        clients[2].run(&mut state, seq, &[get(b"long")]);
    }
    assert_eq!(kept(&state, &clients), [9, 4, 4]);
    assert!(state.reply_bytes() < 2 * reply_bytes);
    clients[0].run(&mut state, 100, &[get(b"long")]);
    assert_eq!(kept(&state, &clients), [4, 4, 4], "what is above its part goes when it adds to it");
    state.check_invariants();
}

/// Kept results as plainly as possible: of each session (client, use) the numbers and bytes, the oldest first.
#[derive(Clone)]
struct Row {
    owner: usize,
    used: u64,
    kept: Vec<(u64, u64)>,
}

fn trim(rows: &mut [Row], current: usize, limits: StateLimits) {
    let bytes = |row: &Row| row.kept.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let owner = rows[current].owner;
    loop {
        let own: u64 = rows.iter().filter(|row| row.owner == owner).map(bytes).sum();
        let all: u64 = rows.iter().map(bytes).sum();
        let part = if all > limits.reply_bytes { limits.reply_bytes / 3 } else { u64::MAX };
        if own <= limits.reply_bytes_per_client.min(part) {
            return;
        }
        let others = (0..rows.len()).filter(|at| *at != current && rows[*at].owner == owner);
        let oldest = others.filter(|at| !rows[*at].kept.is_empty()).min_by_key(|at| (rows[*at].used, *at));
        match oldest {
            Some(other) => drop(rows[other].kept.remove(0)),
            None if rows[current].kept.len() > 1 => drop(rows[current].kept.remove(0)),
            None => return,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn kept_results_agree_with_a_plain_table_and_survive_restarts(
        per_client in 1u64..6000,
        in_all in 1u64..12_000,
        steps in prop::collection::vec((0usize..6, 0usize..1500, 0u8..12), 1..150),
    ) {
        let limits = StateLimits {
            reply_bytes_per_client: per_client,
            reply_bytes: in_all,
            ..StateLimits::default()
        };
        let mut clients: Vec<Client> =
            (0..6).map(|at| Client::new(at % 3 + 1, at + 1)).collect();
        let mut state = State::with_limits(clients[..3].iter().map(|client| client.key), limits);
        clients.iter_mut().for_each(|client| client.register(&mut state, 1));
        let mut rows: Vec<Row> =
            (0..6).map(|at| Row { owner: at % 3, used: 1, kept: Vec::new() }).collect();
        for (step, (at, bytes, kind)) in steps.into_iter().enumerate() {
            let seq = 2 + step as u64 / 2;
            if kind == 0 {
                let root = state.root();
                state = State::from_frozen(&state.freeze(), limits);
                prop_assert_eq!(state.root(), root);
            }
            let number = clients[at].next;
            let outcome = clients[at].send(&mut state, seq, number, &[set(b"v", bytes), get(b"v")]);
            clients[at].next += 1;
            let reply = executed(outcome);
            let row = &mut rows[at];
            row.used = seq;
            row.kept.push((number, reply.results().len() as u64));
            row.kept.retain(|(kept, _)| kept + 64 > number);
            trim(&mut rows, at, limits);
            let kept = rows.iter().flat_map(|row| &row.kept).map(|(_, bytes)| bytes).sum::<u64>();
            prop_assert_eq!(state.reply_bytes(), kept);
            state.check_invariants();
        }
        for (client, row) in clients.iter().zip(&rows) {
            for number in 1.max(client.next.saturating_sub(64))..client.next {
                let outcome = client.send(&mut state, 999, number, &[Operation::Void]);
                let is_kept = row.kept.iter().any(|(kept, _)| *kept == number);
                prop_assert_eq!(matches!(outcome, Outcome::Repeated(_)), is_kept);
                prop_assert_eq!(matches!(outcome, Outcome::Gone { .. }), !is_kept);
            }
        }
    }
}
