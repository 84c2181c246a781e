//! What the stolen key of one replica can take of everybody else's work (DESIGN section 7, "after somebody is known"): its
//! questions are small, their answers large, and it asks as fast as it is heard, on all links.

use quorate_client::{Client, ClientOptions};
use quorate_tests::attacker::Attacker;
use quorate_tests::cluster::{Cluster, PATIENCE, wait_for};
use quorate_tests::victim::{ATTACKER, Alone, Crowd, assert_withstood};
use quorate_types::{
    ClusterConfig, Condition, Digest, LaneId, LaneNumber, LinkId, Operation, PageName, ReplicaId, Seq,
    SigningKey, View, limits,
};
use quorate_wire::message::{
    FetchBatches, FetchCertificate, FetchHeaders, FetchPages, FetchedCertificate, FetchedPages, LaneAcks,
    Message, Status, Suspect,
};
use quorate_wire::{Frame, Kind, LaneTip, Statement, SuspectReason, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The replica whose key was stolen. It does not run.
const STOLEN: ReplicaId = ReplicaId(3);
/// The home of the victim, whose lane is asked for.
const HOME: ReplicaId = ReplicaId(1);
/// What is sent at a time.
const BURST_BYTES: usize = 64 * 1024;

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    Batches,
    Headers,
    Status,
    Frontiers,
    Pages,
    Suspects,
}

/// One connection of the flood after the other.
struct Flooder {
    cluster: Arc<Cluster>,
    flood: Flood,
    listener: ReplicaId,
    link: LinkId,
    /// The root of a certified state, if there is one.
    root: Digest,
    /// The view that is wished to end next.
    view: View,
}

impl Flooder {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            // Where it is kept out for a while, it knocks on.
            let attacker = Attacker::replica(&self.cluster, STOLEN, self.listener, self.link);
            let Some(mut attacker) = attacker else { continue };
            if self.flood == Flood::Suspects {
                let key = self.cluster.replica_key(STOLEN.index());
                let config = Arc::clone(self.cluster.config());
                attacker.flood(stop, || {
                    let wish = || {
                        self.view = View(self.view.0 + 1);
                        suspect(&config, &key, self.view)
                    };
                    repeated(wish)
                });
                continue;
            }
            let Some(question) = self.question(&mut attacker, stop) else { continue };
            let burst = repeated(|| question.clone());
            attacker.flood(stop, || burst.clone());
        }
    }

    /// The question that is asked again and again on this connection, after what the other side has shown on it.
    fn question(&self, attacker: &mut Attacker, stop: &AtomicBool) -> Option<Frame> {
        match self.flood {
            Flood::Batches => loop {
                let acks = next(attacker, stop, Kind::LaneAcks)?;
                let is_asked_for = |tip: &&LaneTip| tip.lane.origin == HOME && tip.upto > LaneNumber(0);
                let tips = LaneAcks::from_frame(acks.as_frame_ref()).ok()?.tips;
                if let Some(LaneTip { lane, upto, chain }) = tips.iter().rev().find(is_asked_for).copied() {
                    return Some(FetchBatches { lane, upto, chain, above: LaneNumber(0) }.encode());
                }
            },
            Flood::Headers => {
                let last = shown(attacker, stop)?.committed;
                Some(FetchHeaders { last, above: Seq(0) }.encode())
            }
            Flood::Status => {
                let view = shown(attacker, stop)?.view;
                let start = header::genesis(self.cluster.config().digest());
                let status = Status {
                    view,
                    entered: true,
                    stable: start,
                    accepted: start,
                    prepared: start,
                    committed: start,
                    executed: start,
                };
                Some(status.encode())
            }
            Flood::Frontiers => {
                let lane = LaneId { origin: self.listener, link: self.link };
                let tips = vec![LaneTip { lane, upto: LaneNumber(0), chain: Digest::ZERO }];
                Some(LaneAcks { full: true, tips }.encode())
            }
            Flood::Pages => {
                let question = FetchPages { request: 1, root: self.root, wanted: Vec::new() };
                attacker.send(question.encode().bytes());
                let answer = next(attacker, stop, Kind::FetchedPages)?;
                let (_, digest) = FetchedPages::from_frame(answer.as_frame_ref()).ok()?.top?;
                let top = PageName { path: Vec::new(), entry: None, digest };
                Some(FetchPages { wanted: vec![top; limits::FETCH_PAGES_MAX], ..question }.encode())
            }
            Flood::Suspects => None,
        }
    }
}

/// The next frame of a kind that the other side sends.
fn next(attacker: &mut Attacker, stop: &AtomicBool, kind: Kind) -> Option<Frame> {
    loop {
        let frame = attacker.receive().filter(|_| !stop.load(Ordering::Relaxed))?;
        if frame.kind() == kind {
            return Some(frame);
        }
    }
}

/// Where the other side says that it stands.
fn shown(attacker: &mut Attacker, stop: &AtomicBool) -> Option<Status> {
    Status::from_frame(next(attacker, stop, Kind::Status)?.as_frame_ref()).ok()
}

fn suspect(config: &ClusterConfig, key: &SigningKey, view: View) -> Frame {
    let reason = SuspectReason::Unnamed;
    let signature = Statement::suspect(config, view, reason).sign(key);
    Suspect { view, reason, signature }.encode()
}

fn repeated(mut next: impl FnMut() -> Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < BURST_BYTES {
        bytes.extend_from_slice(next().bytes());
    }
    bytes
}

/// The highest view in which a replica is.
fn view(cluster: &Cluster) -> u64 {
    let view = |report: &serde_json::Value| report["view"].as_u64().expect("a number");
    cluster.reports(&[0, 1, 2], false, |_| true).iter().map(view).max().expect("three of them")
}

/// Has large batches held in the lane of the victim's home.
fn fill(cluster: &Cluster) {
    let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(ATTACKER));
    tokio_uring::start(async {
        let options = ClientOptions { home: HOME, answer_deadline: PATIENCE, ..ClientOptions::default() };
        let client = Client::connect(config, key, options).await.expect("a quorum is connected");
        for number in 0..40u8 {
            let (key, value) = (vec![b'l', number], vec![b'v'; 100_000]);
            let set = vec![Operation::Set { key, value, condition: Condition::Always }];
            client.execute(&set).await.expect("the bundle completes");
        }
        client.close().await;
    });
}

fn assert_flood_withstood(flood: Flood) {
    let _alone = Alone::wait();
    let mut cluster = Cluster::prepare(4, &[]);
    (0..3).for_each(|replica| cluster.start_replica(replica));
    fill(&cluster);
    let root = match flood {
        // One is certified when nothing has been ordered for a while.
        Flood::Pages => wait_for("a state is certified", || certified_root(&cluster)),
        _ => Digest::ZERO,
    };
    let cluster = Arc::new(cluster);
    let before = view(&cluster);
    let links = match flood {
        Flood::Batches | Flood::Frontiers => cluster.config().links(),
        _ => 1,
    };
    let mut round = 0;
    let figures = assert_withstood(&cluster, &format!("{flood:?}"), || {
        round += 1;
        let of_link = |link| (0..3).map(move |listener| (LinkId(link), ReplicaId(listener)));
        let flooder = |(link, listener)| {
            let (cluster, view) = (Arc::clone(&cluster), View(round * 1_000_000_000));
            Flooder { cluster, flood, listener, link, root, view }
        };
        let flooders: Vec<Flooder> = (0..links).flat_map(of_link).map(flooder).collect();
        Crowd::start(flooders, Flooder::run)
    });
    let after = view(&cluster);
    println!("{figures}; view {before} before, {after} after");
    assert!(after <= before + 1, "view {before} before, {after} after: {figures}");
}

/// The root of the newest certified state of the victim's home.
fn certified_root(cluster: &Cluster) -> Option<Digest> {
    let mut client = Attacker::client(cluster, &cluster.client_key(ATTACKER), HOME.index());
    client.send(FetchCertificate { request: 1 }.encode().bytes());
    let answer = client.receive().expect("an answer");
    let answer = FetchedCertificate::from_frame(answer.as_frame_ref()).expect("the answer");
    answer.certificate.map(|certificate| certificate.root)
}

#[test]
fn questions_for_batches() {
    assert_flood_withstood(Flood::Batches);
}

#[test]
fn questions_for_headers() {
    assert_flood_withstood(Flood::Headers);
}

#[test]
fn positions_that_show_all_to_be_missing() {
    assert_flood_withstood(Flood::Status);
}

#[test]
fn frontiers_that_show_all_to_be_missing() {
    assert_flood_withstood(Flood::Frontiers);
}

#[test]
fn questions_for_pages() {
    assert_flood_withstood(Flood::Pages);
}

#[test]
fn wishes_for_higher_views() {
    assert_flood_withstood(Flood::Suspects);
}
