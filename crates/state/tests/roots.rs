//! What the root covers, and the guard against changing the canonical encoding by accident.

mod common;

use common::{Client, opened};
use quorate_state::State;
use quorate_types::{
    Condition, Digest, Domain, LaneId, LaneNumber, LinkId, Nanoseconds, Operation, ReplicaId, Seq,
    StateLimits,
};

fn set(key: Vec<u8>, value: Vec<u8>) -> Operation {
    Operation::Set { key, value, condition: Condition::Always }
}

fn lane(origin: u8, link: u8) -> LaneId {
    LaneId { origin: ReplicaId(origin), link: LinkId(link) }
}

/// A history with several levels, long values, deletions and every kind of system record.
fn fixed_history() -> (State, Client) {
    let (mut state, mut client) = opened();
    for step in 2..40u8 {
        let seq = u64::from(step);
        let name = |at: u8| format!("key:{:06}", (seq * 100 + u64::from(at)) * 7919 % 100_000).into_bytes();
        let length = |at: u8| usize::from(step) + usize::from(at);
        let mut operations: Vec<_> = (0..100).map(|at| set(name(at), vec![b'v'; length(at)])).collect();
        operations.push(set(format!("long:{seq}").into(), vec![b'l'; 1000 + 100 * usize::from(step)]));
        operations.push(Operation::Delete { key: name(0) });
        client.run(&mut state, seq, &operations);
        state.note_lane_tip(lane(2, 1), LaneNumber(seq), Digest([9; 32]));
        state.note_header(Seq(seq), Digest([step; 32]), Nanoseconds(seq * 1000));
    }
    (state, client)
}

#[test]
fn the_canonical_encoding_has_not_changed() {
    let mut empty = State::new([]);
    assert_eq!(empty.root().to_hex(), "42f7f925ab4c2f80a4694eff5d0dc21663901c2325eed25261590932a8147fd3");
    let (mut state, _) = fixed_history();
    state.check_invariants();
    assert_eq!(state.root().to_hex(), "d450f3a77da9b72e56d1f0107968a66c2699d560135c8d84fa16d61b861ba9ef");
}

#[test]
fn every_system_record_shows_in_the_root() {
    let (mut state, _) = fixed_history();
    let mut roots = vec![state.root(), State::new([]).root(), State::new([[1; 32]]).root()];
    state.note_lane_tip(lane(2, 1), LaneNumber(40), Digest([9; 32]));
    roots.push(state.root());
    state.note_lane_tip(lane(1, 2), LaneNumber(40), Digest([9; 32]));
    roots.push(state.root());
    state.note_header(Seq(40), Digest([39; 32]), Nanoseconds(39_000));
    roots.push(state.root());
    let mut other = Client::new(1, 2);
    other.register(&mut state, 40);
    roots.push(state.root());
    other.run(&mut state, 40, &[]);
    roots.push(state.root());
    let count = roots.len();
    roots.sort_unstable();
    roots.dedup();
    assert_eq!(roots.len(), count);
}

#[test]
fn tips_and_header_are_read_back_also_after_a_restart() {
    let (state, _) = fixed_history();
    let restarted = State::from_frozen(&state.freeze(), StateLimits::default());
    for state in [state, restarted] {
        assert_eq!(state.lane_tip(lane(2, 1)), Some((LaneNumber(39), Digest([9; 32]))));
        assert_eq!(state.lane_tip(lane(1, 2)), None);
        let header = state.header().unwrap();
        assert_eq!(
            (header.seq, header.digest, header.timestamp),
            (Seq(39), Digest([39; 32]), Nanoseconds(39_000))
        );
        assert_eq!(state.sessions(), 1);
    }
    assert_eq!(State::new([]).header(), None);
}

/// Walks all pages from the root down as catch-up will, trusting nothing but the root.
#[test]
fn pages_prove_themselves_from_the_root_down() {
    let (mut state, mut client) = fixed_history();
    let frozen = state.freeze();
    let root = state.root();
    client.run(&mut state, 50, &[set(b"key:000000".to_vec(), b"later".to_vec())]);
    assert_ne!(state.root(), root);
    assert_eq!(frozen.root(), root);

    let top = frozen.page(&[]).unwrap();
    let mut height = 1;
    let mut path = vec![0];
    while frozen.page(&path).is_some() {
        height += 1;
        path.push(0);
    }
    let mut writer = Digest::writer(Domain::StateRoot);
    writer.bytes(&[1, height]).bytes(blake3::hash(&top).as_bytes());
    assert_eq!(writer.finish(), root);
    let mut entries = 0;
    let mut pending = vec![(vec![], Digest(*blake3::hash(&top).as_bytes()))];
    while let Some((path, digest)) = pending.pop() {
        let page = frozen.page(&path).unwrap();
        assert_eq!(Digest(*blake3::hash(&page).as_bytes()), digest);
        let count = usize::from(u16::from_le_bytes([page[1], page[2]]));
        if page[0] == Domain::TreeLeaf as u8 {
            entries += count;
            continue;
        }
        assert_eq!(page[0], Domain::TreeInner as u8);
        let mut rest = &page[3..];
        for child in 0..count {
            let separator = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
            let (digest, after) = rest[2 + separator..].split_first_chunk::<32>().unwrap();
            pending.push(([&path[..], &[child]].concat(), Digest(*digest)));
            rest = after;
        }
        assert!(rest.is_empty());
        assert_eq!(frozen.page(&[&path[..], &[count]].concat()), None);
    }
    assert_eq!(entries, frozen.entries().count());
    assert!(height >= 3);
}
