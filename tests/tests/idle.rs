//! What connections cost that say nothing, of strangers and of a client (DESIGN section 7). `IDLE=10000` spreads so many over
//! four replicas, which takes minutes in a build for tests: `IDLE=10000 cargo test -p quorate-tests --test idle -- --nocapture`.

use quorate_tests::attacker::Attacker;
use quorate_tests::cluster::Cluster;
use quorate_tests::victim::{ATTACKER, Alone, assert_withstood};
use quorate_types::{Nonce, SessionId, SigningKey, limits};
use quorate_wire::message::{Attach, Message};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const REPLICAS: usize = 4;
/// So many, if nothing else is asked for.
const IDLE: usize = 1_200;
/// Of them those at each replica that have not said who they are: as many as there may be of one source.
const UNKNOWN_MAX: usize = 500;
/// Descriptors that a replica and this process need beside.
const OTHERS: u64 = 2_000;

/// So many of a client, each answered once, then so many of strangers, which have little time.
fn crowd(cluster: &Cluster, key: &SigningKey, known: usize, unknown: usize) -> Vec<Attacker> {
    let client = |number: usize| {
        let mut client = Attacker::client(cluster, key, number % REPLICAS);
        let nonce = Nonce((number as u128).to_le_bytes());
        client.send(Attach { nonce, session: SessionId::NONE }.encode().bytes());
        client.receive().expect("an attachment is answered");
        client
    };
    let mut crowd: Vec<Attacker> = (0..known).map(client).collect();
    let stranger = |number: usize| Attacker::connect(cluster.client_address(number % REPLICAS));
    crowd.extend((0..unknown).map(stranger));
    crowd
}

#[test]
fn idle_connections_cost_little_memory_and_nobody_any_time() {
    let _alone = Alone::wait();
    let all = std::env::var("IDLE").map_or(IDLE, |count| count.parse().expect("a number"));
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
    if maximum.is_some_and(|maximum| maximum < all as u64 + OTHERS) {
        println!("skipped: idle_connections_cost_little_memory_and_nobody_any_time needs more open files");
        return;
    }
    let cluster = Cluster::start(REPLICAS);
    let key = cluster.client_key(ATTACKER);
    // Half of them, as far as there is room for strangers.
    let unknown = (all / 2).min(REPLICAS * UNKNOWN_MAX);
    let crowd = || crowd(&cluster, &key, all - unknown, unknown);
    cluster.assert_works();
    let resident = || -> u64 { (0..REPLICAS).map(|replica| cluster.resident_bytes(replica)).sum() };
    let before = resident();
    let connections = crowd();
    let each = resident().saturating_sub(before) / connections.len() as u64;
    let stand: u64 =
        (0..REPLICAS).map(|replica| cluster.report(replica, false)["clients"].as_u64().unwrap_or(0)).sum();
    println!("{} connections, {stand} of them of clients: {each} bytes each", connections.len());
    assert!(
        each <= limits::CLIENT_IDLE_BYTES_MAX as u64,
        "{each} bytes for each of {} connections",
        connections.len()
    );
    assert!(stand >= (all - unknown) as u64, "{stand} stand");
    drop(connections);
    println!("{}", assert_withstood(&cluster, "idle connections", crowd));
}
