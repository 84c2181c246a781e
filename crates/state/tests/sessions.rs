//! Sessions: exactly once, in order, with repeated replies, bounded and evicted alike everywhere.

mod common;

use common::{Client, executed, opened, results};
use proptest::prelude::*;
use quorate_state::{Outcome, SkipReason, State};
use quorate_types::{
    Digest, Nanoseconds, Operation, OperationError, OperationResult, Seq, SessionId, StateLimits, limits,
};

fn increment() -> Operation {
    increment_by(1)
}

fn increment_by(by: i64) -> Operation {
    Operation::IncrementBy { key: b"n".to_vec(), by }
}

fn counter(state: &State) -> Option<String> {
    state.get(b"n").map(|entry| String::from_utf8_lossy(entry.value).into_owned())
}

fn skipped(reason: SkipReason) -> Outcome {
    Outcome::Skipped(reason)
}

/// Why a bundle or a registration had no effect, and the seq that the answer names.
fn refusal(outcome: &Outcome) -> (OperationError, u64) {
    let (Outcome::Refused(reply) | Outcome::Registration { session: None, reply, .. }) = outcome else {
        panic!("not refused: {outcome:?}");
    };
    let [OperationResult::Error(error)] = results(reply)[..] else { panic!("one error says why") };
    (error, reply.seq.0)
}

fn limited(sessions_per_client: usize, registration_age: u64) -> StateLimits {
    let registration_time = Nanoseconds(0);
    StateLimits { sessions_per_client, registration_age, registration_time, ..StateLimits::default() }
}

/// The header is executed to its end.
fn finish(state: &mut State, seq: u64) {
    state.note_header(Seq(seq), Digest::ZERO, Nanoseconds(seq));
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
    assert_eq!(client.send(&mut state, 6, 2, &[increment()]), Outcome::Repeated(second));
    assert_eq!(client.send(&mut state, 7, 4, &[increment()]), skipped(SkipReason::NumberAboveNext));
    assert_eq!(client.send(&mut state, 7, u64::MAX, &[]), skipped(SkipReason::NumberAboveNext));
    assert_eq!(state.root(), root, "retries change nothing");
    assert_eq!(counter(&state).as_deref(), Some("2"));
    state.check_invariants();
}

/// Two processes that have a copy of the same session sign different bundles with one number.
#[test]
fn a_number_that_was_used_answers_no_other_bundle() {
    let (mut state, client) = opened();
    let first = executed(client.send(&mut state, 3, 1, &[increment_by(5)]));
    let root = state.root();
    let other = client.send(&mut state, 4, 1, &[increment_by(7)]);
    assert_eq!(refusal(&other), (OperationError::NumberUsed, 3));
    assert_eq!(client.send(&mut state, 4, 1, &[increment_by(5)]), Outcome::Repeated(first));
    assert_eq!(state.root(), root);
    assert_eq!(counter(&state).as_deref(), Some("5"));
}

#[test]
fn the_first_of_a_bundle_and_a_void_one_with_its_number_decides() {
    let (mut state, client) = opened();
    // The bundle came first: the void one asks for its reply.
    let done = executed(client.send(&mut state, 3, 1, &[increment()]));
    assert_eq!(client.send(&mut state, 4, 1, &[Operation::Void]), Outcome::Repeated(done));
    // The void one came first: the bundle is refused whenever it comes.
    let void = executed(client.send(&mut state, 5, 2, &[Operation::Void]));
    assert_eq!(results(&void), [OperationResult::Voided]);
    let root = state.root();
    assert_eq!(refusal(&client.send(&mut state, 6, 2, &[increment()])), (OperationError::NumberUsed, 5));
    assert_eq!(client.send(&mut state, 7, 2, &[Operation::Void]), Outcome::Repeated(void));
    assert_eq!(state.root(), root);
    // Neither is taken out of order.
    assert_eq!(client.send(&mut state, 8, 4, &[Operation::Void]), skipped(SkipReason::NumberAboveNext));
    assert_eq!(counter(&state).as_deref(), Some("1"));
    state.check_invariants();
}

#[test]
fn a_void_operation_beside_others_is_an_error_and_changes_nothing_of_them() {
    let (mut state, mut client) = opened();
    let misplaced = OperationResult::Error(OperationError::Misplaced);
    assert_eq!(
        client.run(&mut state, 2, &[Operation::Void, Operation::Void]),
        [misplaced.clone(), misplaced]
    );
    let mixed = client.run(&mut state, 3, &[increment(), Operation::Void]);
    assert_eq!(mixed[1], OperationResult::Error(OperationError::Misplaced));
    assert_eq!(counter(&state).as_deref(), Some("1"));
}

#[test]
fn the_state_numbers_sessions_and_a_retried_registration_gets_the_same_number() {
    let clients = [Client::new(1, 5), Client::new(1, 6), Client::new(2, 5)];
    let mut state = State::new([clients[0].key, clients[2].key]);
    let mut sessions = Vec::new();
    for mut client in clients.clone() {
        client.register(&mut state, 9);
        sessions.push(client.session);
    }
    let named = |place| SessionId { seq: Seq(9), place };
    assert_eq!(sessions, [named(0), named(1), named(2)]);
    let root = state.root();
    for (client, session) in clients.iter().zip(sessions) {
        let again = client.send_registration(&mut state, 10, 8);
        let Outcome::Registration { session: Some(found), fresh: false, reply, .. } = again else {
            panic!("{again:?}");
        };
        assert_eq!((found, reply.seq), (session, Seq(9)));
        assert_eq!(results(&reply), [OperationResult::Registered { session }]);
    }
    assert_eq!(state.root(), root);
    let mut later = Client::new(1, 7);
    later.register(&mut state, 10);
    assert_eq!(later.session, SessionId { seq: Seq(10), place: 0 });
    state.check_invariants();
}

#[test]
fn a_registration_is_void_unless_the_seq_that_it_names_is_recent() {
    let client = Client::new(1, 1);
    let mut state = State::with_limits([client.key], limited(4, 10));
    finish(&mut state, 49);
    let root = state.root();
    let not_recent = |recent| OperationError::RegistrationNotRecent { recent, executing: 50 };
    for recent in [0, 39, 51, u64::MAX] {
        let outcome = client.send_registration(&mut state, 50, recent);
        assert_eq!(refusal(&outcome), (not_recent(recent), 50));
    }
    assert_eq!((state.root(), state.sessions()), (root, 0));
    for (nonce, recent) in [(2, 40), (3, 50)] {
        let outcome = Client::new(1, nonce).send_registration(&mut state, 50, recent);
        assert!(matches!(outcome, Outcome::Registration { session: Some(_), .. }), "{outcome:?}");
    }
}

/// Somebody who has seen a registration sends it again whenever it hurts most: after its session was evicted.
#[test]
fn a_replayed_registration_does_nothing_whether_its_session_is_kept_or_evicted() {
    let (mut old, mut young) = (Client::new(1, 1), Client::new(1, 2));
    let mut state = State::with_limits([old.key], limited(1, 10));
    old.register(&mut state, 1);
    for seq in 1..=11 {
        finish(&mut state, seq);
    }
    young.register(&mut state, 12);
    assert_eq!(state.sessions(), 1, "the old one made room");
    finish(&mut state, 12);
    // The old registration is void for its age; the young one is kept, and remembered when it is not.
    let outcome = old.send_registration(&mut state, 13, 0);
    assert!(matches!(refusal(&outcome).0, OperationError::RegistrationNotRecent { .. }), "{outcome:?}");
    for seq in 13..23 {
        finish(&mut state, seq);
    }
    let mut last = Client::new(1, 3);
    last.register(&mut state, 23);
    let root = state.root();
    let outcome = young.send_registration(&mut state, 23, 22);
    assert!(
        matches!(refusal(&outcome).0, OperationError::TooManyRegistrations { sessions: 1 }),
        "{outcome:?}"
    );
    assert_eq!(state.root(), root);
    state.check_invariants();
}

#[test]
fn a_registration_is_remembered_after_its_session_was_evicted() {
    let limits = limited(3, 10);
    let mut used = [Client::new(1, 1), Client::new(1, 2)];
    let (mut unused, mut last) = (Client::new(1, 3), Client::new(1, 4));
    let mut state = State::with_limits([unused.key], limits);
    used.iter_mut().for_each(|client| client.register(&mut state, 1));
    for seq in 1..=11 {
        finish(&mut state, seq);
        let outcome = used[0].send_registration(&mut state, seq + 1, 0);
        assert!(matches!(outcome, Outcome::Registration { fresh: false, session: Some(_), .. }));
    }
    unused.register(&mut state, 12);
    finish(&mut state, 12);
    for client in &mut used {
        client.run(&mut state, 13, &[increment()]);
    }
    last.register(&mut state, 13);
    assert_eq!(state.sessions(), 3);
    for seq in 14..=22 {
        finish(&mut state, seq - 1);
        let outcome = unused.send_registration(&mut state, seq, 12);
        assert_eq!(refusal(&outcome), (OperationError::RegistrationUsed, seq));
        let mut restarted = State::from_frozen(&state.freeze(), limits);
        assert_eq!(unused.send_registration(&mut restarted, seq, 12), outcome, "the state remembers it");
    }
    finish(&mut state, 22);
    let outcome = unused.send_registration(&mut state, 23, 12);
    assert_eq!(refusal(&outcome).0, OperationError::RegistrationNotRecent { recent: 12, executing: 23 });
    state.check_invariants();
}

/// So a session that is used within A headers is never evicted, however many processes register.
#[test]
fn a_key_registers_fewer_sessions_within_a_headers_than_it_may_keep() {
    let (sessions_per_client, age) = (5, 10);
    let mut used = Client::new(1, 0);
    let mut state = State::with_limits([used.key], limited(sessions_per_client, age));
    used.register(&mut state, 1);
    let mut opened = vec![1];
    for seq in 1..200u64 {
        if seq % age == 0 {
            used.run(&mut state, seq, &[increment()]);
        }
        for attempt in 0..3u64 {
            let nonce = u8::try_from(1 + (3 * seq + attempt) % 250).unwrap();
            match Client::new(1, nonce).send_registration(&mut state, seq, seq) {
                Outcome::Registration { session: Some(_), fresh, .. } if fresh => opened.push(seq),
                outcome => {
                    let sessions = sessions_per_client as u64 - 1;
                    assert_eq!(refusal(&outcome).0, OperationError::TooManyRegistrations { sessions });
                }
            }
        }
        finish(&mut state, seq);
        state.check_invariants();
    }
    for first in 0..200 {
        let within = opened.iter().filter(|seq| (first..=first + age).contains(*seq)).count();
        assert!(within < sessions_per_client, "{within} within {age} headers from {first}");
    }
    assert!(opened.len() > 50, "the others make room again and again: {}", opened.len());
    assert_eq!(used.next, 20, "it is never evicted");
}

/// A cluster that executes 500 headers a second, up to and with header `upto`.
fn run_fast(state: &mut State, upto: u64) {
    let from = state.header().map_or(1, |header| header.seq.0 + 1);
    for seq in from..=upto {
        state.note_header(Seq(seq), Digest::ZERO, Nanoseconds::from_millis(2 * seq));
    }
}

#[test]
fn a_registration_from_far_away_is_recent_for_ten_seconds_however_many_headers_that_are() {
    let mut client = Client::new(1, 1);
    let mut state = State::new([client.key]);
    run_fast(&mut state, 20_000);
    let age = limits::REGISTRATION_AGE_MAX;
    let not_recent = |recent| OperationError::RegistrationNotRecent { recent, executing: 20_001 };
    for recent in [0, 20_000 - 6000, 20_002] {
        let outcome = client.send_registration(&mut state, 20_001, recent);
        assert_eq!(refusal(&outcome).0, not_recent(recent));
    }
    // Nine seconds ago, and four times A.
    let recent = 20_000 - 4500;
    assert!(20_001 - recent > 4 * age);
    let outcome = client.send_registration(&mut state, 20_001, recent);
    let Outcome::Registration { session: Some(session), fresh: true, .. } = outcome else {
        panic!("{outcome:?}")
    };
    (client.session, client.next) = (session, 1);
    client.run(&mut state, 20_001, &[increment()]);
    state.check_invariants();
    // Ten seconds without any header are long, but no header came.
    state.note_header(Seq(20_001), Digest::ZERO, Nanoseconds::from_millis(90_000));
    let outcome = Client::new(1, 2).send_registration(&mut state, 20_002, 20_002 - age);
    assert!(matches!(outcome, Outcome::Registration { session: Some(_), .. }), "{outcome:?}");
    state.check_invariants();
}

/// As long as it could be executed again a registration is remembered, however many headers that are.
#[test]
fn a_replayed_registration_does_nothing_in_a_fast_cluster_either() {
    let limits = StateLimits { sessions_per_client: 3, registration_age: 100, ..StateLimits::default() };
    let mut old = Client::new(1, 1);
    let mut state = State::with_limits([old.key], limits);
    run_fast(&mut state, 99);
    old.register(&mut state, 100);
    let mut seq = 100;
    let mut opened = 1;
    // Others of its key displace it; what is remembered of a key stays as little.
    while seq < 12_000 {
        run_fast(&mut state, seq);
        seq += 150;
        let mut restarted = State::from_frozen(&state.freeze(), limits);
        for state in [&mut restarted, &mut state] {
            let replayed = old.send_registration(state, seq, 99);
            match replayed {
                Outcome::Registration { session: Some(session), fresh: false, .. } if opened <= 3 => {
                    assert_eq!(session, old.session);
                }
                _ => {
                    let (error, _) = refusal(&replayed);
                    let executing = seq;
                    let expected = OperationError::RegistrationNotRecent { recent: 99, executing };
                    assert!(error == OperationError::RegistrationUsed || error == expected, "{error}");
                }
            }
        }
        let mut next = Client::new(1, 2 + u8::try_from(opened).unwrap());
        let outcome = next.send_registration(&mut state, seq, seq - 101);
        let Outcome::Registration { session: Some(session), fresh: true, .. } = outcome else {
            panic!("101 headers are a fifth of a second: {outcome:?}");
        };
        (next.session, next.next) = (session, 1);
        opened += 1;
        state.check_invariants();
    }
    assert!(opened > 70);
}

#[test]
fn what_belongs_to_no_session_must_be_one_registration_and_nothing_else() {
    let client = Client::new(1, 1);
    let mut state = State::new([client.key]);
    let root = state.root();
    let register = Operation::Register { nonce: client.nonce, recent: 1 };
    for operations in [
        vec![],
        vec![increment()],
        vec![Operation::Void],
        vec![register.clone(), increment()],
        vec![register.clone(), register.clone()],
    ] {
        let outcome = client.send(&mut state, 2, 0, &operations);
        assert_eq!(outcome, skipped(SkipReason::MisplacedRegistration));
    }
    let outcome = client.send(&mut state, 2, 1, &[register]);
    assert_eq!(outcome, skipped(SkipReason::MisplacedRegistration));
    assert_eq!(state.root(), root);
    assert_eq!(state.sessions(), 0);
}

#[test]
fn strangers_and_borrowed_sessions_are_skipped() {
    let (mut state, owner) = opened();
    let stranger = Client::new(2, 1);
    assert_eq!(stranger.send_registration(&mut state, 2, 1), skipped(SkipReason::ClientNotAllowed));
    let of_nobody = SessionId { seq: Seq(1), place: 1 };
    let lost = Client { session: of_nobody, ..stranger.clone() };
    assert_eq!(lost.send(&mut state, 2, 1, &[]), skipped(SkipReason::ClientNotAllowed));
    let thief = Client { session: owner.session, ..stranger };
    assert_eq!(thief.send(&mut state, 2, 1, &[increment()]), skipped(SkipReason::SessionNotOwned));
    let early = Client { session: SessionId { seq: Seq(3), place: 0 }, ..owner.clone() };
    assert_eq!(early.send(&mut state, 2, 1, &[]), skipped(SkipReason::SessionUnknown));
    let many = vec![increment(); limits::BUNDLE_OPERATIONS_MAX + 1];
    assert_eq!(owner.send(&mut state, 2, 1, &many), skipped(SkipReason::TooManyOperations));
    assert_eq!(counter(&state), None);
}

#[test]
fn a_key_evicts_its_own_least_recently_used_session_and_nobody_elses() {
    let mut own: Vec<Client> = (1..=4).map(|nonce| Client::new(1, nonce)).collect();
    let mut foreign = Client::new(2, 1);
    let limits = limited(3, 1);
    let mut state = State::with_limits([foreign.key, own[0].key], limits);
    foreign.register(&mut state, 1);
    for (client, seq) in own[..3].iter_mut().zip(1..) {
        client.register(&mut state, seq);
        finish(&mut state, seq);
        client.run(&mut state, 4, &[increment()]);
    }
    own[0].run(&mut state, 5, &[increment()]);
    // Retries are no use: only execution counts.
    own[1].send(&mut state, 6, 1, &[increment()]);
    finish(&mut state, 6);
    own[3].register(&mut state, 7);
    assert_eq!(state.sessions(), 4);
    state.check_invariants();
    // It is told, and how far it came.
    let restarted = State::from_frozen(&state.freeze(), limits);
    for mut state in [state, restarted] {
        for number in [1, 2, 3] {
            let outcome = own[1].send(&mut state, 8, number, &[increment()]);
            assert_eq!(refusal(&outcome), (OperationError::SessionEvicted { next: 2 }, 8));
        }
        let stranger = Client { session: own[1].session, ..foreign.clone() };
        let outcome = stranger.send(&mut state, 8, 1, &[increment()]);
        assert_eq!(refusal(&outcome).0, OperationError::SessionEvicted { next: 0 }, "that is not its own");
        for client in [&own[0], &own[2], &own[3], &foreign] {
            client.clone().run(&mut state, 10, &[increment()]);
        }
        let mut prefix = vec![0, 4];
        prefix.extend_from_slice(&own[1].session.seq.0.to_be_bytes());
        prefix.extend_from_slice(&own[1].session.place.to_be_bytes());
        assert!(state.freeze().entries().all(|(key, _)| !key.starts_with(&prefix)), "nothing of it is left");
    }
}

#[test]
fn how_far_evicted_sessions_came_is_kept_of_as_many_as_a_key_may_have() {
    let key = Client::new(1, 0).key;
    let mut state = State::with_limits([key], limited(2, 1));
    let mut clients = Vec::new();
    for seq in (1..=13).step_by(2) {
        let mut client = Client::new(1, u8::try_from(seq).unwrap());
        client.register(&mut state, seq);
        client.run(&mut state, seq, &[increment()]);
        finish(&mut state, seq);
        finish(&mut state, seq + 1);
        clients.push(client);
        state.check_invariants();
    }
    let told: Vec<_> = clients[..5]
        .iter()
        .map(|client| refusal(&client.send(&mut state, 19, 1, &[increment()])).0)
        .collect();
    let next = [0, 0, 0, 2, 2];
    assert_eq!(told, next.map(|next| OperationError::SessionEvicted { next }));
}

/// The oldest session may be the one that was evicted last.
#[test]
fn the_session_that_was_evicted_last_is_remembered_longest() {
    let limits = limited(2, 1);
    let mut oldest = Client::new(1, 1);
    let mut state = State::with_limits([oldest.key], limits);
    oldest.register(&mut state, 1);
    let mut seq = 1;
    for nonce in 2..6 {
        finish(&mut state, seq + 1);
        seq += 2;
        oldest.run(&mut state, seq, &[increment()]);
        Client::new(1, nonce).register(&mut state, seq);
        finish(&mut state, seq);
    }
    // Not used any more, it makes room at last.
    for nonce in 6..8 {
        finish(&mut state, seq + 1);
        seq += 2;
        Client::new(1, nonce).register(&mut state, seq);
        finish(&mut state, seq);
    }
    let mut restarted = State::from_frozen(&state.freeze(), limits);
    for state in [&mut state, &mut restarted] {
        let outcome = oldest.send(state, seq + 1, 5, &[increment()]);
        assert_eq!(refusal(&outcome).0, OperationError::SessionEvicted { next: 5 });
        state.check_invariants();
    }
}

/// The simplest possible table of sessions: client, nonce, session, next bundle, last use.
#[derive(Default)]
struct Table {
    rows: Vec<(Client, u64)>,
    /// Every registration that was executed, with its seq, in order.
    registered: Vec<((u8, u8), u64)>,
    /// Every header, with its time.
    headers: Vec<(u64, u64)>,
}

impl Table {
    fn objects(&self, seed: u8, nonce: u8, seq: u64, recent: u64, limits: StateLimits) -> bool {
        let recent_floor = seq.saturating_sub(limits.registration_age).min(self.first_within_time(limits));
        // So many of a key are remembered, for as long as what they name is recent.
        let most = (limits.sessions_per_client - 1).max(1);
        let mut own: Vec<_> = self.registered.iter().filter(|((other, _), _)| *other == seed).collect();
        let remembered = own.split_off(own.len().saturating_sub(most));
        let used = remembered.iter().any(|((_, other), at)| *other == nonce && *at >= recent_floor);
        // Of those that were forgotten before, none may come again.
        let floor = own.last().map_or(recent_floor, |(_, at)| recent_floor.max(at + 1));
        let full = remembered.len() == most && remembered[0].1 + limits.registration_age >= seq;
        used || recent > seq || recent < floor || full
    }

    /// The first header that may be younger than T, as far as every eighth of it is marked.
    fn first_within_time(&self, limits: StateLimits) -> u64 {
        let time = limits.registration_time.0;
        let mut marks: Vec<(u64, u64)> = Vec::new();
        for (seq, at) in &self.headers {
            if marks.last().is_none_or(|(_, last)| *at >= last + time / 8) {
                marks.push((*seq, *at));
            }
        }
        let now = self.headers.last().map_or(0, |(_, at)| *at);
        marks.iter().rev().find(|(_, at)| at + time <= now).map_or(0, |(seq, _)| seq + 1)
    }

    fn open(&mut self, client: Client, seed: u8, nonce: u8, seq: u64, limits: StateLimits) {
        self.registered.push(((seed, nonce), seq));
        let own = |row: &(Client, u64)| row.0.key == client.key;
        if self.rows.iter().filter(|row| own(row)).count() == limits.sessions_per_client {
            let at = (0..self.rows.len())
                .filter(|at| own(&self.rows[*at]))
                .min_by_key(|at| (self.rows[*at].1, self.rows[*at].0.session))
                .expect("the client has sessions");
            self.rows.remove(at);
        }
        self.rows.push((client, seq));
    }
}

/// Has state and table execute the same steps, and compares what comes out.
fn compare(limits: StateLimits, steps: &[(u8, u8, u64, u8)]) -> Result<(), TestCaseError> {
    let mut state = State::with_limits((0..3).map(|seed| Client::new(seed, 0).key), limits);
    let mut table = Table::default();
    let mut noted = 0;
    for (step, (seed, nonce, back, kind)) in steps.iter().copied().enumerate() {
        let seq = 1 + step as u64 / 3;
        while noted + 1 < seq {
            noted += 1;
            // Three headers in quick succession, then a while.
            let at = 3 * noted + noted / 3 * 10;
            state.note_header(Seq(noted), Digest::ZERO, Nanoseconds(at));
            table.headers.push((noted, at));
        }
        let mut client = Client::new(seed, nonce);
        let same = |row: &(Client, u64)| row.0.key == client.key && row.0.nonce == client.nonce;
        let row = table.rows.iter().position(same);
        match (kind, row) {
            (0, _) if step % 3 == 0 => {
                let root = state.root();
                state = State::from_frozen(&state.freeze(), limits);
                prop_assert_eq!(state.root(), root);
            }
            (1..4, Some(row)) => {
                let outcome = client.send_registration(&mut state, seq, 0);
                let Outcome::Registration { session, fresh: false, .. } = outcome else { panic!() };
                prop_assert_eq!(session, Some(table.rows[row].0.session));
            }
            (_, None) => {
                let recent = (seq + 2).saturating_sub(back);
                let void = table.objects(seed, nonce, seq, recent, limits);
                let outcome = client.send_registration(&mut state, seq, recent);
                let Outcome::Registration { session, fresh, .. } = outcome else { panic!() };
                prop_assert_eq!((session.is_none(), fresh), (void, !void));
                if let Some(session) = session {
                    (client.session, client.next) = (session, 1);
                    table.open(client, seed, nonce, seq, limits);
                }
            }
            (_, Some(row)) => {
                let (client, used) = &mut table.rows[row];
                client.run(&mut state, seq, &[increment()]);
                *used = seq;
            }
        }
        prop_assert_eq!(state.sessions(), table.rows.len());
        state.check_invariants();
    }
    Ok(())
}

/// One of two that were registered in one header is forgotten early, for a newer one. The other is remembered all the
/// same, although nothing that it could have named may be named any more.
#[test]
fn a_registration_is_remembered_although_another_of_its_header_was_forgotten_early() {
    let restart = (2, 0, 2, 0);
    let other_key = (2, 0, 2, 4);
    let register_or_use = |nonce| (1, nonce, 2, 4);
    let [a, b, c, d] = [1, 2, 3, 4].map(register_or_use);
    let headers = [[a, other_key, other_key], [b, c, other_key], [restart, a, b], [d, c, other_key]];
    let registration_time = Nanoseconds(1000);
    let limits = StateLimits { registration_time, ..limited(3, 0) };
    compare(limits, headers.as_flattened()).unwrap();
    // And as its client sees it.
    let [mut a, mut b, mut c, mut d] = [1, 2, 3, 4].map(|nonce| Client::new(1, nonce));
    let mut state = State::with_limits([a.key], limits);
    a.register(&mut state, 1);
    finish(&mut state, 1);
    b.register(&mut state, 2);
    c.register(&mut state, 2);
    finish(&mut state, 2);
    for client in [&mut a, &mut b] {
        client.run(&mut state, 3, &[increment()]);
    }
    d.register(&mut state, 3);
    finish(&mut state, 3);
    let mut restarted = State::from_frozen(&state.freeze(), limits);
    for state in [&mut state, &mut restarted] {
        for recent in [2, 3, 4] {
            let outcome = c.send_registration(state, 4, recent);
            assert_eq!(refusal(&outcome), (OperationError::RegistrationUsed, 4));
        }
        let late = Client::new(1, 5).send_registration(state, 4, 2);
        assert_eq!(refusal(&late).0, OperationError::RegistrationNotRecent { recent: 2, executing: 4 });
        state.check_invariants();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sessions_agree_with_a_plain_table_and_survive_restarts(
        sessions_per_client in 1usize..5,
        registration_age in 0u64..12,
        registration_time in 0u64..200,
        steps in prop::collection::vec((0u8..3, 0u8..16, 0u64..20, 0u8..8), 1..150),
    ) {
        let registration_time = Nanoseconds(registration_time.saturating_sub(60));
        compare(StateLimits { registration_time, ..limited(sessions_per_client, registration_age) }, &steps)?;
    }
}
