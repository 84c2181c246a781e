//! Any history of appending, writing and trimming, with the power going at any moment, again and again: whatever was
//! reported durable is there, and what is there was appended.

mod common;

use common::{BATCHES, Landing, Machine, VOTES, options};
use proptest::prelude::*;
use quorate_journal::{Damage, LogOptions};
use quorate_types::Lsn;

#[derive(Clone, Debug)]
enum Step {
    Fact(usize),
    Batch(usize),
    Act,
    Write,
    Complete(usize),
    Trim { votes: bool, behind: u64 },
    Confirm,
    Crash { landings: Vec<Landing>, interrupted: bool },
}

fn landing() -> impl Strategy<Value = Landing> {
    prop_oneof![
        Just(Landing::Nothing),
        Just(Landing::Whole),
        Just(Landing::Half),
        any::<u64>().prop_map(Landing::Torn),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..40).prop_map(Step::Fact),
        4 => (0usize..12_000).prop_map(Step::Batch),
        4 => Just(Step::Act),
        6 => Just(Step::Write),
        6 => any::<usize>().prop_map(Step::Complete),
        2 => (any::<bool>(), 0u64..8).prop_map(|(votes, behind)| Step::Trim { votes, behind }),
        1 => Just(Step::Confirm),
        1 => (prop::collection::vec(landing(), 1..4), any::<bool>())
            .prop_map(|(landings, interrupted)| Step::Crash { landings, interrupted }),
    ]
}

fn run(machine: &mut Machine, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Fact(size) => machine.append_fact(*size),
            Step::Batch(bytes) => machine.append_batch(*bytes),
            Step::Act => machine.act(),
            Step::Write => {
                machine.start_write();
            }
            Step::Complete(index) => machine.complete(*index),
            Step::Trim { votes, behind } => {
                let journal = if *votes { VOTES } else { BATCHES };
                let last = machine.log.last(journal);
                machine.trim(journal, Lsn(last.0.saturating_sub(*behind)));
            }
            Step::Confirm => machine.log.confirm(),
            Step::Crash { landings, interrupted } => {
                machine.cut_power(landings, *interrupted);
                machine.recover();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_was_durable_is_there_and_what_is_there_was_appended(
        steps in prop::collection::vec(step(), 1..160),
        ahead in 1usize..3,
        last in landing(),
    ) {
        let mut machine = Machine::new(LogOptions { segments_ahead: ahead, ..options() });
        run(&mut machine, &steps);
        machine.cut_power(&[last], false);
        machine.recover();
        // What was recovered stands as firmly as what is appended now, and is found again as often as one looks.
        machine.append_fact(3);
        machine.append_batch(100);
        machine.confirm();
        machine.cut_power(&[], false);
        machine.recover();
        prop_assert_eq!(machine.scan().damage, Damage::None);
    }

    #[test]
    fn a_crash_during_recovery_changes_nothing(
        steps in prop::collection::vec(step(), 1..80),
        landings in prop::collection::vec(landing(), 1..4),
        again in prop::collection::vec((landing(), landing()), 1..5),
    ) {
        let mut machine = Machine::new(options());
        run(&mut machine, &steps);
        machine.cut_power(&landings, true);
        for (first, second) in again {
            machine.recover();
            machine.act();
            // The first writes of the new life are cut, too: the first may be missing and the second there.
            machine.append_fact(5);
            machine.start_write();
            machine.append_batch(6000);
            machine.start_write();
            machine.cut_power(&[first, second], false);
        }
        machine.recover();
    }

    /// Without a durable watermark a loss of power may take any write; what remains is still a prefix.
    #[test]
    fn without_sync_a_prefix_remains(
        lives in prop::collection::vec(prop::collection::vec((any::<bool>(), 0usize..9000), 1..20), 1..4),
        lost in any::<u64>(),
    ) {
        let mut machine = Machine::new(LogOptions { durable_watermark: false, ..options() });
        for life in &lives {
            for (fact, size) in life {
                machine.act();
                if *fact { machine.append_fact(size % 30) } else { machine.append_batch(*size) }
                machine.start_write();
                if size % 3 == 0 { machine.flush() }
            }
            machine.flush();
            machine.recover();
        }
        let groups = machine.scan().groups;
        let mut chance = common::Chance(lost);
        let group = &groups[chance.below(groups.len())];
        let file = machine.files.get_mut(&group.segment).expect("its segment exists");
        let start = usize::try_from(group.offset).unwrap();
        file[start..start + usize::try_from(group.bytes).unwrap()].fill(0);
        machine.durable.clear();
        machine.recover();
    }
}

/// Each write that may be under way, landing or not in every way, twice in a row.
#[test]
fn two_writes_under_way_in_every_combination_of_two_crashes() {
    let ways = [Landing::Nothing, Landing::Whole, Landing::Half, Landing::Torn(1), Landing::Torn(4)];
    for first in ways {
        for second in ways {
            for third in ways {
                for fourth in ways {
                    let mut machine = Machine::new(options());
                    machine.append_fact(1);
                    machine.append_batch(10);
                    machine.flush();
                    for landings in [[first, second], [third, fourth]] {
                        machine.act();
                        machine.append_fact(20);
                        assert!(machine.start_write());
                        machine.append_batch(5000);
                        assert!(machine.start_write());
                        machine.cut_power(&landings, false);
                        machine.recover();
                    }
                    machine.append_fact(2);
                    machine.flush();
                    machine.recover();
                }
            }
        }
    }
}

/// Trimming keeps the number of files bounded, and segments that are used again bring nothing old back.
#[test]
fn a_long_life_needs_few_files() {
    let mut machine = Machine::new(options());
    for round in 0..300u64 {
        machine.append_fact(10);
        machine.append_batch(3000);
        machine.flush();
        for journal in [VOTES, BATCHES] {
            let last = machine.log.last(journal);
            machine.trim(journal, Lsn(last.0.saturating_sub(5)));
        }
        if round % 37 == 0 {
            machine.append_batch(3000);
            machine.act();
            machine.start_write();
            machine.cut_power(&[Landing::Half], true);
            machine.recover();
        }
    }
    assert!(machine.files_max <= 7, "{} files", machine.files_max);
    assert!(machine.files.keys().next().is_some_and(|number| number.0 > 20));
}

/// More lives than a group has room to name, none of which is trimmed away.
#[test]
fn many_lives_are_told_apart() {
    let mut machine = Machine::new(options());
    for life in 0..60 {
        machine.act();
        machine.append_fact(life % 7);
        if life % 3 != 0 {
            machine.flush();
        }
        machine.append_batch(100);
        machine.act();
        machine.start_write();
        machine.append_fact(2);
        machine.start_write();
        machine.cut_power(&[Landing::Nothing, Landing::Whole], false);
        machine.recover();
    }
    machine.append_fact(1);
    machine.confirm();
    let scan = machine.scan();
    assert_eq!(scan.damage, Damage::None);
    assert_eq!(scan.last(VOTES), Lsn(41));
}
