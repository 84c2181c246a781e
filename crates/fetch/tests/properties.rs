//! Whatever servers do: the budget holds, nothing panics, and one honest server is enough.

use proptest::prelude::*;
use quorate_fetch::{Budget, Fetches, Limits};
use quorate_types::{Nanoseconds, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

const SERVERS: u8 = 4;
const QUESTIONS: usize = 3;
const BYTES: u64 = 1_000;

#[derive(Clone, Debug)]
enum Step {
    Begin(u8, u64),
    Ask(u8, u64),
    Answered(u8, u8, u64),
    Nothing(u8, u8),
    Wrong(u8, u8),
    Finish(u8),
    Forget(u8),
    Gone(u8),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (key, server) = (0..3u8, 0..SERVERS);
    prop_oneof![
        (key.clone(), prop_oneof![0..5u64, Just(u64::MAX)])
            .prop_map(|(key, answers)| Step::Begin(key, answers)),
        (key.clone(), prop_oneof![0..700u64, Just(u64::MAX)]).prop_map(|(key, bytes)| Step::Ask(key, bytes)),
        (key.clone(), server.clone(), 0..700u64)
            .prop_map(|(key, server, bytes)| Step::Answered(key, server, bytes)),
        (key.clone(), server.clone()).prop_map(|(key, server)| Step::Nothing(key, server)),
        (key.clone(), server.clone()).prop_map(|(key, server)| Step::Wrong(key, server)),
        key.clone().prop_map(Step::Finish),
        key.prop_map(Step::Forget),
        server.prop_map(Step::Gone),
        prop_oneof![0..300u64, Just(1 << 40)].prop_map(Step::Pass),
    ]
}

fn limits() -> Limits {
    let budget = Budget { questions_per_server: QUESTIONS, bytes: BYTES, forgetting: Nanoseconds(1_000) };
    Limits { patience: Nanoseconds(100), patience_max: Nanoseconds(700), servers_max: 2, budget }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_budget_holds_and_nothing_is_left_open(steps in prop::collection::vec(step(), 0..120)) {
        let mut fetches = Fetches::new(limits());
        let mut now = Nanoseconds(0);
        for step in steps {
            match step {
                Step::Begin(key, answers) => fetches.begin(now, key, answers, 0),
                Step::Ask(key, bytes) => {
                    let before: BTreeSet<u8> =
                        (0..SERVERS).filter(|server| fetches.is_asked(&key, ReplicaId(*server))).collect();
                    let asked = fetches.ask(now, &key, (0..SERVERS).map(ReplicaId), bytes);
                    prop_assert!(asked.is_none_or(|server| fetches.is_asked(&key, server)));
                    let rounds = (0..SERVERS).any(|id| before.contains(&id) && !fetches.is_asked(&key, ReplicaId(id)));
                    prop_assert!(rounds || asked.is_none_or(|server| !before.contains(&server.0)));
                }
                Step::Answered(key, server, bytes) => {
                    let asked = fetches.is_asked(&key, ReplicaId(server));
                    prop_assert_eq!(fetches.answered(now, &key, ReplicaId(server), bytes), asked);
                    prop_assert!(!fetches.is_asked(&key, ReplicaId(server)));
                }
                Step::Nothing(key, server) => {
                    let asked = fetches.is_asked(&key, ReplicaId(server));
                    prop_assert_eq!(fetches.has_nothing(now, &key, ReplicaId(server)), asked);
                }
                Step::Wrong(key, server) => {
                    let asked = fetches.is_asked(&key, ReplicaId(server));
                    prop_assert_eq!(fetches.was_wrong(now, &key, ReplicaId(server)), asked);
                }
                Step::Finish(key) => fetches.finish(now, &key),
                Step::Forget(key) => fetches.forget(&key),
                Step::Gone(server) => fetches.disconnected(now, ReplicaId(server)),
                Step::Pass(time) => {
                    now = now.plus(time);
                    fetches.on_time(now);
                    prop_assert!(fetches.deadline().is_none_or(|deadline| deadline > now));
                }
            }
            let (questions, bytes) = fetches.servers().open();
            prop_assert!(questions <= QUESTIONS * usize::from(SERVERS));
            prop_assert!(bytes <= BYTES || questions == 1);
        }
        (0..3).for_each(|key| fetches.forget(&key));
        prop_assert_eq!(fetches.servers().open(), (0, 0));
    }

    /// n servers, one of them honest: it gives full answers a tenth of the patience later. The others drip, are silent,
    /// have nothing, are wrong, or give full answers as late as they may. What each gives is good. The fetch takes no
    /// longer than the honest one would alone, and for each of the others its patience.
    #[test]
    fn one_honest_server_is_enough(
        honest in 0..7u8,
        others in prop::collection::vec((0..6u8, 1..100u64), 7),
        answers in 1..40u64,
    ) {
        let (patience, full) = (100, 256);
        let limits = Limits { patience: Nanoseconds(patience), patience_max: Nanoseconds(700), ..Limits::default() };
        let mut fetches = Fetches::new(limits);
        fetches.begin(Nanoseconds(0), 0u8, answers, 0);
        let (mut left, mut ended) = (answers * full, None);
        let mut due: BTreeMap<u8, u64> = BTreeMap::new();
        for now in 0..20_000u64 {
            let (time, mut arrived) = (Nanoseconds(now), Vec::new());
            due.retain(|server, at| { if *at <= now { arrived.push(*server); } *at > now });
            for server in arrived {
                let id = ReplicaId(server);
                let given = match others[usize::from(server)].0 {
                    _ if server == honest => full,
                    0 => 1,
                    1 => { fetches.has_nothing(time, &0, id); 0 }
                    2 => { fetches.was_wrong(time, &0, id); 0 }
                    3 => full,
                    _ => 3,
                };
                if given > 0 && fetches.answered(time, &0, id, given) {
                    left = left.saturating_sub(given);
                }
            }
            if left == 0 {
                ended = Some(now);
                break;
            }
            fetches.on_time(time);
            while let Some(server) = fetches.ask(time, &0, (0..7).map(ReplicaId), full) {
                let (kind, wait) = others[usize::from(server.0)];
                let wait = if server.0 == honest { patience / 10 } else { wait };
                if server.0 == honest || kind != 4 {
                    due.insert(server.0, now + wait);
                }
            }
        }
        let alone = answers * patience / 10;
        let ended = ended.expect("it ends");
        // Those that do the least hold it up for a part of the time that all of it has.
        let least = (answers + 2) * patience / 2;
        prop_assert!(ended <= alone + 8 * patience + least, "{ended} ns, alone {alone} ns");
    }
}
