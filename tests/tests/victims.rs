//! What one client key can take of everybody else's work and memory (DESIGN section 7, "after somebody is known").

use quorate_tests::attacker::Attacker;
use quorate_tests::cluster::Cluster;
use quorate_tests::victim::{ATTACKER, Alone, assert_withstood};

/// The open files that a replica may have, and more connections than it has places for clients then.
const OPEN_FILES: u32 = 400;
const IDLE: usize = 150;

#[test]
fn idle_connections_of_a_client_take_no_place_of_others() {
    let _alone = Alone::wait();
    let mut cluster = Cluster::prepare(4, &[]);
    (0..4).for_each(|replica| cluster.start_replica_with_at_most_open_files(replica, OPEN_FILES));
    let key = cluster.client_key(ATTACKER);
    assert_withstood(&cluster, "idle connections", || {
        let idle = [0, 1, 2, 3].map(|replica| {
            let come = (0..IDLE).map_while(|_| Attacker::try_client(&cluster, &key, replica).ok());
            let idle: Vec<Attacker> = come.collect();
            assert!(idle.len() < IDLE, "no place is left");
            idle
        });
        // One that comes when all places are taken.
        cluster.assert_works();
        idle
    });
}
