//! What one client key can take of everybody else's work and memory (DESIGN section 7, "after somebody is known").

use quorate_tests::attacker::Attacker;
use quorate_tests::cluster::Cluster;
use quorate_tests::victim::{ATTACKER, Alone, Crowd, assert_withstood};
use quorate_types::{BundleNumber, ClusterConfig, Condition, Nonce, Operation, SessionId, SigningKey};
use quorate_wire::message::{Attach, Message, ReportRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The open files that a replica may have, and more connections than it has places for clients then.
const OPEN_FILES: u32 = 400;
const IDLE: usize = 150;

#[test]
fn idle_connections_of_a_client_take_no_place_of_others() {
    let _alone = Alone::wait();
    let mut cluster = Cluster::prepare(4, &[]);
    (0..4).for_each(|replica| cluster.start_replica_with_at_most_open_files(replica, OPEN_FILES));
    let key = cluster.client_key(ATTACKER);
    let figures = assert_withstood(&cluster, "idle connections", || {
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
    println!("{figures}");
}

/// Connections that want the replies of one session, and the bytes of each reply.
const LISTENERS: usize = 400;
const REPLY_BYTES: usize = 60_000;
/// Bundles of the session that are open.
const OPEN: u64 = 8;

#[test]
fn a_session_is_answered_once_however_many_connections_want_it() {
    let _alone = Alone::wait();
    let cluster = Cluster::start(4);
    let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(ATTACKER));
    let mut rounds = 0;
    let figures = assert_withstood(&cluster, "400 connections on one session", || {
        rounds += 1;
        let session = Attacker::client(&cluster, &key, 1).register(&config, &key, Nonce([rounds; 16]));
        let attached = |_| {
            let mut attached = Attacker::client(&cluster, &key, 1);
            attached.send(Attach { nonce: Nonce::default(), session }.encode().bytes());
            attached.receive().expect("an attachment is answered");
            attached
        };
        let listeners: Vec<Attacker> = (0..LISTENERS).map(attached).collect();
        let reader = Reader { config: Arc::clone(&config), key: key.clone(), session, last: attached(0) };
        let listening = Crowd::start(listeners, |mut listener, stop| listener.drain(stop));
        (listening, Crowd::start([reader], Reader::read))
    });
    println!("{figures}");
}

/// A session that reads something large again and again.
struct Reader {
    config: Arc<ClusterConfig>,
    key: SigningKey,
    session: SessionId,
    /// The connection that was attached last.
    last: Attacker,
}

impl Reader {
    fn send(&mut self, number: u64, operation: Operation) {
        let Self { config, key, session, last } = self;
        last.send_bundle(config, key, *session, BundleNumber(number), &vec![operation]);
    }

    fn read(mut self, stop: &AtomicBool) {
        let (key, value) = (b"large".to_vec(), vec![b'v'; REPLY_BYTES]);
        self.send(1, Operation::Set { key: key.clone(), value, condition: Condition::Always });
        let (mut sent, mut answered) = (1, 0);
        while !stop.load(Ordering::Relaxed) {
            while sent < answered + OPEN {
                sent += 1;
                self.send(sent, Operation::Get { key: key.clone() });
            }
            self.last.receive().expect("the newest connection is answered");
            answered += 1;
        }
    }
}

/// Connections that ask for reports, and how many each has open.
const ASKERS: usize = 64;
const ASKED: usize = 15;

/// Asks for reports and takes them, again and again.
fn ask_for_reports(mut asker: Attacker, request: &ReportRequest, stop: &AtomicBool) {
    let requests = request.encode().bytes().repeat(ASKED);
    while !stop.load(Ordering::Relaxed) {
        asker.send(&requests);
        for _ in 0..ASKED {
            asker.receive().expect("each request is answered");
        }
    }
}

#[test]
fn reports_are_built_once_for_all_who_ask() {
    let _alone = Alone::wait();
    let cluster = Cluster::start(4);
    let key = cluster.client_key(ATTACKER);
    for (name, all) in [("64 connections that ask for reports", false), ("with root and histograms", true)] {
        let figures = assert_withstood(&cluster, name, || {
            let askers: Vec<Attacker> = (0..ASKERS).map(|_| Attacker::client(&cluster, &key, 1)).collect();
            Crowd::start(askers, move |asker, stop| {
                ask_for_reports(asker, &ReportRequest { root: all, histograms: all }, stop);
            })
        });
        println!("{figures}");
    }
}
