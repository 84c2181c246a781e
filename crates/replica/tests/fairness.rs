//! What one key's work leaves of others': across homes, in execution, and in what is refused.

mod cluster;

use cluster::*;
use quorate_replica::Reject;
use quorate_types::{CoreId, Operation, limits};
use quorate_wire::message::{Busy, Message};
use quorate_wire::{Frame, Kind, bundle};

fn increments(count: usize) -> Vec<Operation> {
    vec![Operation::IncrementBy { key: b"k".to_vec(), by: 1 }; count]
}

/// Both work at homes of their own, and execution has another core than either.
#[test]
fn a_home_learns_that_its_client_uses_far_more_than_one_of_another_home() {
    let mut cluster = Cluster::new(4, 2, 2);
    let heavy = Client::open(&mut cluster, 0, CoreId(0), R0);
    let light = Client::open(&mut cluster, 1, CoreId(0), R1);
    let send = |cluster: &mut Cluster, first: u64| {
        for number in first..first + 3 {
            heavy.send(cluster, R0, number, &increments(limits::BUNDLE_OPERATIONS_MAX));
        }
        cluster.run();
        cluster.waits.remove(&R0).unwrap_or(0)
    };
    // Its session and the other one's are all that has happened.
    cluster.wait(4);
    assert_eq!(send(&mut cluster, 1), 0, "nobody uses less than it has used so far");
    cluster.wait(4);
    light.send(&mut cluster, R1, 1, &vec![set("a", 1)]);
    cluster.run();
    assert_eq!(send(&mut cluster, 4), 2, "two wait until the one before is executed");
    assert_eq!(heavy.replies(&cluster, R0).len(), 7, "they do not wait for ever");
    // The light one has gone.
    for _ in 0..5 {
        cluster.wait(20);
        heavy.send(&mut cluster, R0, 0, &increments(1));
        cluster.run();
    }
    assert_eq!(send(&mut cluster, 7), 0);
    cluster.assert_equal_states();
}

/// A core that executes serves its links in between.
#[test]
fn a_turn_of_execution_is_bounded_in_what_bundles_cost() {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    (1..=6).for_each(|number| client.send(&mut cluster, R0, number, &increments(4000)));
    cluster.run();
    assert_eq!(client.replies(&cluster, R0).len(), 7);
    assert!((8000..=12_000).contains(&cluster.largest_turn), "{}", cluster.largest_turn);
}

/// Listed mistake: what will be refused is read, and checked as an archive, all the same.
#[test]
fn a_bundle_beyond_the_share_of_its_key_is_refused_before_it_is_read() {
    let mut cluster = Cluster::with(4, 1, 1, |tuning| tuning.lane_bytes_open_max = 100_000);
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    client.send(&mut cluster, R0, 1, &vec![set("a", 60_000)]);
    let good = client.bundle(&cluster.config.clone(), 2, &vec![set("a", 60_000)]);
    let mut unreadable = good.payload().to_vec();
    unreadable[bundle::HEAD_BYTES..].fill(255);
    cluster.client_frame(R0, client.connections[0], &framed(&unreadable));
    let (.., last) = cluster.to_clients.last().expect("an answer");
    assert_eq!(Busy::decode(last.payload()).expect("a refusal").number.0, 2);
    assert_eq!(cluster.rejects, [(R0, Reject::Busy)]);
    let mut foreign = unreadable.clone();
    foreign[0] ^= 1;
    cluster.client_frame(R0, client.connections[0], &framed(&foreign));
    assert!(matches!(cluster.closed_clients[..], [(R0, _, Reject::ForeignBundle)]));
}

fn framed(bundle: &[u8]) -> Frame {
    Frame::encode(Kind::Bundle, |out| out.extend_from_slice(bundle))
}
