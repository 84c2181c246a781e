//! What one client key can take of everybody else's work and memory (DESIGN section 7, "after somebody is known").

use quorate_tests::attacker::Attacker;
use quorate_tests::cluster::Cluster;
use quorate_tests::victim::{ATTACKER, Alone, Crowd, assert_withstood, growth_under, rest};
use quorate_types::{
    BundleNumber, ClusterConfig, Condition, KeyValue, Nonce, Operation, SessionId, SigningKey, limits,
};
use quorate_wire::message::{Attach, Message, ReportRequest};
use quorate_wire::{Frame, Kind};
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

/// Connections that take no replies, and how many each has waiting: a little less than one connection may have.
const SILENT: usize = 80;
const WAITING: u64 = 7;
const VALUES: usize = 4;
const VALUE_BYTES: usize = 250_000;
/// By how much a replica may grow: what one key may leave unread, by a count that is a quarter old, and what is kept of replies
/// in the state and in a copy of it.
const UNREAD_GROWTH_MAX: u64 =
    limits::KEY_UNREAD_BYTES_MAX as u64 / 4 * 5 + 2 * limits::REPLY_BYTES_KEPT_PER_CLIENT_MAX;
const _: () = assert!(3 * UNREAD_GROWTH_MAX < SILENT as u64 * WAITING * (VALUES * VALUE_BYTES) as u64);

#[test]
fn replies_that_a_client_does_not_take_are_bounded() {
    let _alone = Alone::wait();
    let cluster = Cluster::start(4);
    let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(ATTACKER));
    let keys: Vec<Vec<u8>> = (0..VALUES).map(|at| format!("long:{at}").into_bytes()).collect();
    let mut writer = Attacker::client(&cluster, &key, 1);
    let session = writer.register(&config, &key, Nonce([255; 16]));
    let entry = |key: &Vec<u8>| KeyValue { key: key.clone(), value: vec![b'v'; VALUE_BYTES] };
    let write = Operation::MultiSet { entries: keys.iter().map(entry).collect() };
    writer.send_bundle(&config, &key, session, BundleNumber(1), &vec![write]);
    writer.receive().expect("the bundle is answered");
    let mut nonces = 0;
    let (figures, growth) = growth_under(&cluster, 1, "unread_bytes", || {
        let silent = (0..SILENT).map(|_| {
            nonces += 1;
            let (nonce, keys) = (Nonce([nonces; 16]), keys.clone());
            (Attacker::client(&cluster, &key, 1), nonce, keys)
        });
        let (config, key) = (Arc::clone(&config), key.clone());
        Crowd::start(silent.collect::<Vec<_>>(), move |(mut silent, nonce, keys), stop| {
            let session = silent.register(&config, &key, nonce);
            for number in 1..=WAITING {
                let read = Operation::MultiGet { keys: keys.clone() };
                silent.send_bundle(&config, &key, session, BundleNumber(number), &vec![read]);
            }
            rest(stop);
        })
    });
    println!("{figures}");
    assert!(growth <= UNREAD_GROWTH_MAX, "r1 has grown by {} MiB", growth >> 20);
    assert!(cluster.counter(1, "clients_unread") > 0, "some were closed");
}

/// Connections that do not end a frame.
const HALF_SENT: usize = 500;
/// By how much a replica may grow: what one key may leave half-sent, and as much for all else.
const HALF_SENT_GROWTH_MAX: u64 = 2 * limits::KEY_HALF_SENT_BYTES_MAX as u64;

#[test]
fn frames_that_do_not_end_are_bounded() {
    let _alone = Alone::wait();
    let cluster = Cluster::start(4);
    let key = cluster.client_key(ATTACKER);
    let whole = Frame::encode(Kind::Bundle, |out| out.resize(out.len() + limits::BUNDLE_BYTES_MAX, 0));
    let part = &whole.bytes()[..whole.bytes().len() - 1];
    let (figures, growth) = growth_under(&cluster, 1, "half_sent_bytes", || {
        let open = |_| {
            let mut attacker = Attacker::client(&cluster, &key, 1);
            attacker.send(part);
            attacker
        };
        (0..HALF_SENT).map(open).collect::<Vec<_>>()
    });
    println!("{figures}");
    assert!(growth <= HALF_SENT_GROWTH_MAX, "r1 has grown by {} MiB", growth >> 20);
    assert!(cluster.counter(1, "frames_cut_short") > 0, "some were closed");
}
