//! Histories that one liar makes, and one that needs none, with n = 4 and a perfect network: the others go on.

mod cluster;
mod forks;

use cluster::*;
use forks::*;
use quorate_lanes::Batch;
use quorate_types::{CoreId, LaneId, LaneNumber, LinkId, ReplicaId, Seq, View};
use quorate_wire::message::{Commit, Message, PrePrepare, Prepare, ReportRequest, ViewChange};
use quorate_wire::{Kind, LaneTip, Position, Statement, testing};
use std::sync::Arc;

fn standing(cluster: &mut Cluster, me: ReplicaId) -> (View, Seq, String) {
    let connection = cluster.connect(me, CoreId(0), &testing::client_key_number(7));
    cluster.client_frame(me, connection, &ReportRequest { root: false, histograms: false }.encode());
    cluster.run();
    let (_, _, report) = cluster.reports.pop().expect("a report");
    let ordering = report.ordering;
    (ordering.view, ordering.committed.seq, ordering.waiting)
}

fn answers(cluster: &Cluster, client: &Client, number: u64) -> usize {
    let has = |id: &&ReplicaId| client.replies(cluster, **id).iter().any(|reply| reply.number == number);
    [R0, R1, R2].iter().filter(has).count()
}

/// r3 sends nothing but batches and acknowledgements of its own lane: two chains of one batch each. Before each view it
/// lets the next primary see a quorum for its chain, then moves the helper to the other one.
#[test]
fn an_equivocating_origin_stops_nothing() {
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.machine(R3).crashed = true;
    let config = Arc::clone(&cluster.config);
    let x = fork(&config, start(), 1, 1).remove(0);
    let y = fork(&config, start(), 1, 2).remove(0);
    let honest = [R0, R1, R2];
    let mut on = [&x, &x, &y];
    for (id, chain) in honest.iter().zip(on) {
        cluster.inject(R3, *id, chain.frame());
    }
    cluster.run();
    // r0 sees r0, r1 and r3 on X; at once r1 is moved to Y.
    cluster.inject(R3, R0, &ack(x.tip(), false));
    cluster.inject(R3, R1, y.frame());
    on[1] = &y;
    cluster.run();
    // A client of an honest home, in a lane that has nothing to do with r3.
    let client = Client::registering(&mut cluster, 0, CoreId(0), R1);
    cluster.run();
    let mut on: Vec<Arc<Batch>> = on.iter().map(|chain| Arc::clone(chain)).collect();
    let mut prepared_for = View(0);
    cluster.liar = Some((
        R3,
        Box::new(move |cluster: &mut Cluster, sent: &Sent| {
            if sent.frame.kind() != Kind::ViewChange {
                return;
            }
            let view = ViewChange::decode(sent.frame.payload()).expect("an own message").new_view;
            let next = usize::try_from(view.0 % 4).expect("a small number");
            if next == 3 || view <= prepared_for {
                return;
            }
            // Whoever shares the chain of the next primary; it must have left its view already.
            let shares = |index: &usize| *index != next && on[*index].chain() == on[next].chain();
            let Some(helper) = (0..3).find(shares).filter(|helper| sent.from == honest[*helper]) else {
                return;
            };
            prepared_for = view;
            let other = if on[next].chain() == x.chain() { &y } else { &x };
            cluster.inject(R3, honest[next], &ack(on[next].tip(), true));
            cluster.inject(R3, honest[helper], &ack(other.tip(), true));
            cluster.inject(R3, honest[helper], other.frame());
            on[helper] = Arc::clone(other);
        }),
    ));
    for _ in 0..20 * 20 {
        cluster.wait(1);
    }
    assert!(answers(&cluster, &client, 0) >= 2, "{:?}", honest.map(|id| standing(&mut cluster, id)));
}

/// The honest primary holds a longer chain than the one that a quorum acknowledges: it fetches that one too.
#[test]
fn a_longer_fork_deposes_no_primary() {
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.machine(R3).crashed = true;
    let config = Arc::clone(&cluster.config);
    let short = fork(&config, start(), 1, 1);
    let long = fork(&config, start(), 2, 2);
    long.iter().for_each(|batch| cluster.inject(R3, R0, batch.frame()));
    for honest in [R1, R2] {
        cluster.inject(R3, honest, short[0].frame());
        cluster.inject(R3, honest, &ack(short[0].tip(), false));
    }
    cluster.run();
    cluster.wait(30);
    for honest in [R0, R1, R2] {
        let (view, committed, waiting) = standing(&mut cluster, honest);
        assert_eq!(
            (view, committed),
            (View(0), Seq(1)),
            "nobody but the origin has done anything wrong: {waiting}"
        );
    }
}

/// A tip that a quorum acknowledged dies with its chain, and is awaited no more.
#[test]
fn a_dead_tip_is_awaited_by_nobody() {
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.machine(R3).crashed = true;
    let config = Arc::clone(&cluster.config);
    let a = fork(&config, start(), 1, 1);
    let b = fork(&config, start(), 2, 2);
    for honest in [R0, R1] {
        cluster.inject(R3, honest, a[0].frame());
    }
    b.iter().for_each(|batch| cluster.inject(R3, R2, batch.frame()));
    cluster.inject(R3, R0, &ack(a[0].tip(), false));
    cluster.run();
    let proposed = cluster.sent_by(R0, Kind::PrePrepare);
    let proposal = PrePrepare::decode(proposed[0].payload()).expect("an own proposal");
    assert_eq!(proposal.header.cut, [a[0].tip()]);
    assert!(!cluster.sent_by(R1, Kind::Prepare).is_empty());
    // r1 and r2 hold the longer B, and with r3 that is a quorum.
    b.iter().for_each(|batch| cluster.inject(R3, R1, batch.frame()));
    for honest in [R1, R2] {
        cluster.inject(R3, honest, &ack(b[1].tip(), true));
    }
    cluster.run();
    // Now r3 votes for the header, as it should, and is silent from then on.
    let digest = proposal.header.digest();
    let signature = Statement::prepare(&config, View(0), Seq(1), &[digest]).sign(&testing::replica_key(3));
    let prepare = Prepare { view: View(0), lo: Seq(1), digests: vec![digest], signature };
    let commit = Commit { view: View(0), position: Position { seq: Seq(1), digest } };
    for honest in [R0, R1] {
        cluster.inject(R3, honest, &prepare.encode());
        cluster.inject(R3, honest, &commit.encode());
    }
    cluster.run();
    cluster.wait(20 * 20);
    for honest in [R0, R1, R2] {
        let (view, committed, waiting) = standing(&mut cluster, honest);
        // The second header is empty, as nothing was ordered for long.
        assert_eq!(
            (view, committed),
            (View(0), Seq(2)),
            "with nothing open nobody wants another view: {waiting}"
        );
    }
}

/// r2 is cut off while more is written than memory keeps, which is less than brings a checkpoint; another replica is lost
/// when r2 is back.
#[test]
fn a_blip_and_a_crash_stop_nothing() {
    let mut cluster = Cluster::with(4, 1, 1, |tuning| tuning.lane_bytes_kept_max = 16 * 1024);
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.run();
    for other in [R0, R1, R3] {
        cluster.cut.insert((R2, other));
        cluster.cut.insert((other, R2));
    }
    for number in 1..=40 {
        client.send(&mut cluster, R0, number, &vec![set("k", 4096)]);
        cluster.run();
    }
    cluster.wait(4);
    cluster.cut.clear();
    cluster.crash(R3);
    cluster.wait(20 * 5);
    let (_, committed, waiting) = standing(&mut cluster, R2);
    assert_eq!(committed, standing(&mut cluster, R0).1, "{waiting}");
    client.send(&mut cluster, R0, 41, &vec![set("k", 16)]);
    cluster.wait(20 * 5);
    assert!(answers(&cluster, &client, 41) >= 2, "{:?}", [R0, R1, R2].map(|id| standing(&mut cluster, id)));
    assert_eq!(answers(&cluster, &client, 41), 3, "r2 has caught up");
}

/// What is ordered last is covered by a certified state once nothing was ordered for long: one empty header brings that.
#[test]
fn an_idle_cluster_covers_what_it_has_ordered_and_rests() {
    let mut cluster = Cluster::new(4, 1, 1);
    let client = Client::open(&mut cluster, 0, CoreId(0), R1);
    client.send(&mut cluster, R1, 1, &vec![set("k", 16)]);
    cluster.wait(20 * 9);
    let stable = |cluster: &Cluster, id: ReplicaId| {
        let audit = cluster.machines[id.index()].cores[0].audit();
        (audit.stable.map(|position| position.seq), audit.executed.map(|position| position.seq))
    };
    let before = stable(&cluster, R0);
    assert_eq!(before.0, Some(Seq(0)), "nothing is certified yet");
    cluster.wait(20 * 12);
    let end = before.1.map(Seq::next);
    for id in [R0, R1, R2, R3] {
        assert_eq!(stable(&cluster, id), (end, end), "r{id}");
    }
    cluster.wait(20 * 60);
    assert_eq!(stable(&cluster, R0), (end, end), "it is not done again");
}

/// As before, with a liar that helps to commit, votes for no checkpoint, and is silent once r2 is back.
#[test]
fn withheld_checkpoint_votes_and_a_blip_stop_nothing() {
    let mut cluster = Cluster::with(4, 1, 1, |tuning| {
        tuning.checkpoint_interval = 8;
        tuning.window = 64;
        tuning.lane_bytes_kept_max = 16 * 1024;
    });
    cluster.withheld = Some(|sent| {
        sent.from == R3 && matches!(sent.frame.kind(), Kind::Checkpoint | Kind::CheckpointCertificate)
    });
    let client = Client::open(&mut cluster, 0, CoreId(0), R0);
    cluster.run();
    for other in [R0, R1, R3] {
        cluster.cut.insert((R2, other));
        cluster.cut.insert((other, R2));
    }
    for number in 1..=40 {
        client.send(&mut cluster, R0, number, &vec![set("k", 4096)]);
        cluster.run();
    }
    cluster.wait(4);
    cluster.cut.clear();
    cluster.crash(R3);
    cluster.wait(20 * 5);
    client.send(&mut cluster, R0, 41, &vec![set("k", 16)]);
    cluster.wait(20 * 5);
    assert!(answers(&cluster, &client, 41) >= 2, "{:?}", [R0, R1, R2].map(|id| standing(&mut cluster, id)));
}

/// r0 leads view 0, gives its lane to r1 and r2 only, commits with them, then is silent but for one batch now and then to
/// r3, which asks it first and can vote for nothing meanwhile.
#[test]
fn a_dripping_server_stops_nothing() {
    use quorate_wire::message::{FetchBatches, encode_fetched_batches};
    use quorate_wire::{Header, header};
    let mut cluster = Cluster::new(4, 1, 1);
    cluster.machine(R0).crashed = true;
    let config = Arc::clone(&cluster.config);
    let lane = LaneId { origin: R0, link: LinkId(0) };
    let batches = fork(&config, LaneTip { lane, ..start() }, 200, 1);
    let genesis = header::genesis(config.digest());
    let tip = batches.last().expect("many").tip();
    let (epoch, seq, parent, timestamp, cut) =
        (config.epoch(), Seq(1), genesis.digest, cluster.now, vec![tip]);
    let header = Header { epoch, seq, parent, timestamp, cut };
    let digest = header.digest();
    let key = testing::replica_key(0);
    let signature = Statement::pre_prepare(&config, View(0), Seq(1), &digest).sign(&key);
    let proposal = PrePrepare { view: View(0), signature, header };
    let signature = Statement::prepare(&config, View(0), Seq(1), &[digest]).sign(&key);
    let prepare = Prepare { view: View(0), lo: Seq(1), digests: vec![digest], signature };
    let commit = Commit { view: View(0), position: Position { seq: Seq(1), digest } };
    for honest in [R1, R2] {
        batches.iter().for_each(|batch| cluster.inject(R0, honest, batch.frame()));
        cluster.inject(R0, honest, &proposal.encode());
        cluster.inject(R0, honest, &prepare.encode());
    }
    cluster.run();
    for honest in [R1, R2] {
        cluster.inject(R0, honest, &commit.encode());
    }
    let asked: std::rc::Rc<std::cell::RefCell<Option<FetchBatches>>> = std::rc::Rc::default();
    let inbox = std::rc::Rc::clone(&asked);
    cluster.liar = Some((
        R0,
        Box::new(move |_: &mut Cluster, sent: &Sent| {
            if sent.from == R3 && sent.frame.kind() == Kind::FetchBatches {
                *inbox.borrow_mut() = FetchBatches::decode(sent.frame.payload()).ok();
            }
        }),
    ));
    cluster.run();
    let client = Client::registering(&mut cluster, 0, CoreId(0), R1);
    for waited in 1..=20 * 5 {
        cluster.wait(1);
        if waited % 3 == 0
            && let Some(question) = asked.borrow_mut().take()
        {
            let at = index_of(question.upto);
            let tip = LaneTip { lane, upto: question.upto, chain: question.chain };
            let frame = encode_fetched_batches(&tip, [batches[at].frame().payload()].into_iter());
            cluster.inject(R0, R3, &frame);
        }
    }
    let has = |id: &&ReplicaId| !client.replies(&cluster, **id).is_empty();
    let found = [R1, R2, R3].iter().filter(has).count();
    assert!(found >= 2, "{:?}", [R1, R2, R3].map(|id| standing(&mut cluster, id)));
}

fn index_of(upto: LaneNumber) -> usize {
    usize::try_from(upto.0).expect("a small number") - 1
}
