//! What each kind of bad server can and cannot do to a fetch.

use quorate_fetch::{Budget, Fetches, Limits};
use quorate_types::{Nanoseconds, ReplicaId};

const SERVERS: [ReplicaId; 3] = [ReplicaId(1), ReplicaId(2), ReplicaId(3)];
const R1: ReplicaId = SERVERS[0];
const R2: ReplicaId = SERVERS[1];
const R3: ReplicaId = SERVERS[2];
/// What one question may bring.
const FULL: u64 = 256;

fn limits() -> Limits {
    Limits { patience: milliseconds(200), patience_max: milliseconds(1_000), ..Limits::default() }
}

fn milliseconds(milliseconds: u64) -> Nanoseconds {
    Nanoseconds::from_millis(milliseconds)
}

fn begun(answers: u64) -> Fetches<u8> {
    let mut fetches = Fetches::new(limits());
    fetches.begin(milliseconds(0), 0, answers, 0);
    fetches
}

fn ask(fetches: &mut Fetches<u8>, at: u64) -> Vec<ReplicaId> {
    std::iter::from_fn(|| fetches.ask(milliseconds(at), &0, SERVERS, FULL)).collect()
}

#[test]
fn a_silent_server_is_joined_by_the_next_and_asked_last_afterwards() {
    let mut fetches = begun(100);
    assert_eq!(ask(&mut fetches, 0), [R1]);
    assert_eq!(fetches.deadline(), Some(milliseconds(100)));
    assert!(ask(&mut fetches, 99).is_empty());
    assert_eq!(ask(&mut fetches, 100), [R2], "half of its time is over");
    assert!(fetches.answered(milliseconds(110), &0, R2, FULL));
    fetches.on_time(milliseconds(200));
    assert_eq!(fetches.servers().faults(milliseconds(200), R1), 1, "all of it is");
    fetches.finish(milliseconds(200), &0);
    fetches.begin(milliseconds(210), 0, 100, 0);
    assert_eq!(ask(&mut fetches, 210), [R2]);
}

/// What is no longer wanted is no excuse for having kept everybody waiting.
#[test]
fn a_silent_server_is_asked_last_after_what_is_no_longer_wanted() {
    let mut fetches = begun(100);
    assert_eq!(ask(&mut fetches, 0), [R1]);
    assert_eq!(ask(&mut fetches, 100), [R2]);
    fetches.forget(&0);
    fetches.begin(milliseconds(110), 0, 100, 0);
    assert_eq!(ask(&mut fetches, 110), [R2]);
}

#[test]
fn whoever_gives_goes_on_alone() {
    let mut fetches = begun(100);
    for exchange in 0..100 {
        let at = exchange * 20;
        assert_eq!(ask(&mut fetches, at), [R1], "{at}");
        assert!(fetches.answered(milliseconds(at + 20), &0, R1, FULL));
    }
    fetches.finish(milliseconds(2_000), &0);
    assert_eq!(fetches.servers().faults(milliseconds(2_000), R1), 0);
}

/// The time of a server is renewed by no drop: one that gives one of 256 parts each 25 ms is joined after half of its
/// time, and has its turn again when the others have had theirs.
#[test]
fn a_dripping_server_is_joined_and_asked_after_the_others() {
    let mut fetches = begun(100);
    assert_eq!(ask(&mut fetches, 0), [R1]);
    let mut asked = Vec::new();
    for at in (5..330).step_by(5) {
        if at % 25 == 0 {
            fetches.answered(milliseconds(at), &0, R1, 1);
        }
        asked.extend(ask(&mut fetches, at).into_iter().map(|server| (server, at)));
    }
    asked.dedup_by_key(|(server, _)| *server);
    assert_eq!(asked[1..], [(R2, 105), (R3, 205), (R1, 305)]);
    assert_eq!(fetches.servers().faults(milliseconds(330), R1), 0, "its time is not over yet");
    fetches.finish(milliseconds(330), &0);
    assert_eq!(fetches.servers().faults(milliseconds(330), R1), 1, "others were asked beside it");
}

#[test]
fn a_dripping_server_runs_out_of_time_though_there_is_nobody_else() {
    let mut fetches = begun(100);
    let mut slow = None;
    for at in (0..400).step_by(5) {
        if at % 25 == 0 {
            fetches.answered(milliseconds(at), &0, R1, 1);
        }
        fetches.on_time(milliseconds(at));
        while fetches.ask(milliseconds(at), &0, [R1], FULL).is_some() {}
        if fetches.servers().faults(milliseconds(at), R1) > 0 {
            slow = slow.or(Some(at));
        }
    }
    assert_eq!(slow, Some(210), "eight drops earn it six milliseconds");
}

/// Whoever gives exactly as much as it must is never slow; as the fetch takes its time, others are asked beside.
#[test]
fn a_server_that_does_the_least_is_joined_as_time_goes_by() {
    let mut fetches = begun(7);
    let mut asked = Vec::new();
    for at in (0..1_700).step_by(10) {
        if at % 90 == 0 {
            fetches.answered(milliseconds(at), &0, R1, FULL);
        }
        for server in ask(&mut fetches, at) {
            if !asked.iter().any(|(known, _)| *known == server) {
                asked.push((server, at));
            }
        }
    }
    assert_eq!(asked, [(R1, 0), (R2, 600), (R3, 700)]);
}

#[test]
fn all_of_a_fetch_has_a_deadline_and_the_next_round_is_twice_as_long() {
    let mut fetches = begun(1);
    let mut overdue = Vec::new();
    for at in (0..3_000).step_by(10) {
        for server in SERVERS {
            // Full answers that lead nowhere.
            fetches.answered(milliseconds(at), &0, server, FULL);
        }
        if !fetches.on_time(milliseconds(at)).is_empty() {
            overdue.push(at);
        }
        ask(&mut fetches, at);
    }
    assert_eq!(overdue, [600, 1_800]);
    assert!(fetches.servers().faults(milliseconds(3_000), R1) > 0, "that is remembered");
}

#[test]
fn nobody_but_the_one_asked_touches_a_fetch() {
    let mut fetches = begun(100);
    assert_eq!(ask(&mut fetches, 0), [R1]);
    let now = milliseconds(10);
    for server in [R2, R3] {
        assert!(!fetches.is_asked(&0, server));
        assert!(!fetches.answered(now, &0, server, FULL));
        assert!(!fetches.has_nothing(now, &0, server));
        assert!(!fetches.was_wrong(now, &0, server));
        assert_eq!(fetches.servers().faults(now, server), 0);
    }
    assert!(fetches.is_asked(&0, R1));
    assert!(fetches.answered(now, &0, R1, FULL));
    assert!(!fetches.answered(now, &0, R1, FULL), "one answer to one question");
}

#[test]
fn an_answer_that_comes_late_is_taken_and_its_server_goes_on_if_it_was_worth_waiting() {
    for (bytes, goes_on) in [(FULL, true), (1, false)] {
        let mut fetches = begun(100);
        assert_eq!(ask(&mut fetches, 0), [R1]);
        fetches.on_time(milliseconds(300));
        assert!(fetches.answered(milliseconds(300), &0, R1, bytes));
        assert_eq!(ask(&mut fetches, 300) == [R1], goes_on);
    }
}

#[test]
fn a_round_in_which_nobody_has_it_is_followed_by_a_longer_one_after_a_rest() {
    let mut fetches = begun(100);
    for server in SERVERS {
        assert_eq!(ask(&mut fetches, 0), [server]);
        assert!(fetches.has_nothing(milliseconds(0), &0, server));
    }
    assert!(ask(&mut fetches, 0).is_empty());
    assert_eq!(fetches.deadline(), Some(milliseconds(200)));
    assert!(ask(&mut fetches, 199).is_empty());
    assert_eq!(ask(&mut fetches, 200), [R1]);
    assert!(ask(&mut fetches, 399).is_empty(), "twice the time");
    assert_eq!(ask(&mut fetches, 400), [R2]);
}

/// Replicas may each have lost another piece.
#[test]
fn who_had_nothing_of_one_piece_may_have_the_next_unless_it_took_its_time_to_say_so() {
    let mut fetches = begun(100);
    assert_eq!(ask(&mut fetches, 0), [R1]);
    assert!(fetches.has_nothing(milliseconds(60), &0, R1));
    assert_eq!(ask(&mut fetches, 60), [R2]);
    assert!(fetches.answered(milliseconds(61), &0, R2, FULL));
    fetches.may_have_next(&0, R1);
    fetches.may_have_next(&0, R3);
    assert_eq!(ask(&mut fetches, 61), [R1], "it is prompt");
    assert!(fetches.has_nothing(milliseconds(110), &0, R1));
    fetches.may_have_next(&0, R1);
    assert_eq!(ask(&mut fetches, 110), [R2], "half of its credit is gone, and nothing came");
    assert!(fetches.has_nothing(milliseconds(111), &0, R2));
    assert_eq!(ask(&mut fetches, 111), [R3]);
}

#[test]
fn whoever_was_wrong_is_asked_after_whoever_was_slow() {
    let mut fetches = begun(100);
    assert_eq!(ask(&mut fetches, 0), [R1]);
    assert!(fetches.was_wrong(milliseconds(0), &0, R1));
    assert_eq!(ask(&mut fetches, 0), [R2]);
    fetches.on_time(milliseconds(200));
    fetches.forget(&0);
    for expected in [R3, R2, R1] {
        fetches.begin(milliseconds(200), expected.0, 1, 0);
        assert_eq!(fetches.ask(milliseconds(200), &expected.0, SERVERS, FULL), Some(expected));
        fetches.was_wrong(milliseconds(200), &expected.0, expected);
    }
}

#[test]
fn a_connection_that_goes_takes_its_questions_along() {
    let mut fetches = begun(100);
    assert_eq!(ask(&mut fetches, 0), [R1]);
    fetches.disconnected(milliseconds(1), R1);
    assert_eq!(fetches.servers().open(), (0, 0));
    assert_eq!(ask(&mut fetches, 1), [R2]);
    assert_eq!(fetches.servers().faults(milliseconds(1), R1), 1);
}

#[test]
fn the_budget_holds_over_all_fetches() {
    let budget = Budget { questions_per_server: 2, bytes: 3 * FULL, ..Budget::default() };
    let mut fetches = Fetches::new(Limits { budget, ..limits() });
    let now = milliseconds(0);
    let mut asked = Vec::new();
    for key in 0..5u8 {
        fetches.begin(now, key, 1, 0);
        asked.push(fetches.ask(now, &key, [R1, R2], FULL));
    }
    assert_eq!(asked, [Some(R1), Some(R1), Some(R2), None, None]);
    fetches.answered(now, &0, R1, FULL);
    fetches.finish(now, &0);
    assert_eq!(fetches.ask(now, &3, [R1, R2], FULL), Some(R1));
}

/// Silent servers use up what all may have open for as long as they have time, and no longer.
#[test]
fn questions_that_nobody_answers_leave_room_for_others() {
    let budget = Budget { questions_per_server: 2, bytes: 4 * FULL, ..Budget::default() };
    let mut fetches = Fetches::new(Limits { budget, servers_max: 1, ..limits() });
    for key in 0..4u8 {
        fetches.begin(milliseconds(0), key, 100, 0);
        assert!(fetches.ask(milliseconds(0), &key, [R1, R2], FULL).is_some());
    }
    assert_eq!(fetches.ask(milliseconds(100), &0, SERVERS, FULL), None, "their time is not over");
    fetches.on_time(milliseconds(200));
    let asked: Vec<_> = (0..2).map(|key| fetches.ask(milliseconds(200), &key, SERVERS, FULL)).collect();
    assert_eq!(asked, [Some(R3), Some(R3)]);
    assert!(fetches.answered(milliseconds(210), &2, R2, FULL), "what comes late is taken");
    fetches.finish(milliseconds(210), &2);
    assert_eq!(fetches.servers().open(), (2, 2 * FULL));
}
