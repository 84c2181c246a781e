//! Each case that an operator may meet, as a table: answers in, health, intake and tolerance out; and what is found beside.

use super::*;
use crate::report::NoReport;
use quorate_telemetry::PeerReport;
use quorate_wire::testing;

/// A voter in view 0 that is linked with all others and takes writes.
fn voter() -> ReplicaReport {
    let peers = (0..7).map(|replica| PeerReport { replica, connected: true, ..PeerReport::default() });
    let state_bytes_max = 8 << 30;
    ReplicaReport { entered: true, peers: peers.collect(), state_bytes_max, ..ReplicaReport::default() }
}

fn with(change: impl FnOnce(&mut ReplicaReport)) -> Answer {
    let mut report = voter();
    change(&mut report);
    Ok(report)
}

fn good() -> Answer {
    Ok(voter())
}

fn learner() -> Answer {
    with(|report| {
        (report.role, report.takes, report.declines) =
            (Role::Learner, Takes::Nothing, Some(Declines::Following))
    })
}

fn in_view(view: u64, entered: bool) -> Answer {
    with(|report| {
        (report.view, report.primary, report.entered) = (view, u8::try_from(view % 4).unwrap(), entered)
    })
}

fn busy(activity: Activity) -> Answer {
    with(|report| report.activity = activity)
}

fn full(takes: Takes) -> Answer {
    with(|report| (report.takes, report.declines) = (takes, Some(Declines::Disk)))
}

fn cut(peers: &[u8]) -> Answer {
    with(|report| {
        let gone = report.peers.iter_mut().filter(|peer| peers.contains(&peer.replica));
        gone.for_each(|peer| peer.connected = false);
    })
}

/// A replica that is down, and of which the others know.
fn silent(silence: Silence) -> Answer {
    Err(NoReport { silence, text: "why".to_owned() })
}

fn down() -> Answer {
    silent(Silence::Unreachable)
}

/// The verdict where whoever is down is linked with nobody.
fn judge(answers: &[Answer]) -> Verdict {
    let gone: Vec<u8> =
        (0u8..).zip(answers).filter(|(_, answer)| answer.is_err()).map(|(id, _)| id).collect();
    let unlinked = |answer: &Answer| {
        answer.clone().map(|mut report| {
            let peers = report.peers.iter_mut().filter(|peer| gone.contains(&peer.replica));
            peers.for_each(|peer| peer.connected = false);
            report
        })
    };
    judge_as_told(&answers.iter().map(unlinked).collect::<Vec<_>>())
}

fn judge_as_told(answers: &[Answer]) -> Verdict {
    let config = testing::config(u8::try_from(answers.len()).unwrap());
    let roots = Roots::of(answers);
    let verdict = Verdict::of(&config, answers, &roots);
    let text = verdict.text(&config, answers);
    assert_eq!(text.lines().count(), 1 + verdict.findings.len(), "{text}");
    assert!(text.lines().all(|line| line.ends_with('.') && !line.ends_with("..")), "{text}");
    verdict
}

#[track_caller]
fn check(answers: &[Answer], health: Health, takes: Takes, tolerates: usize) -> Verdict {
    let verdict = judge(answers);
    assert_eq!((verdict.health, verdict.takes, verdict.tolerates), (health, takes, tolerates), "{verdict:?}");
    assert_eq!(verdict.can_progress, health != Health::NoProgress);
    verdict
}

#[track_caller]
fn stops(answers: &[Answer], takes: Takes, obstacle: &Obstacle) -> Verdict {
    let verdict = check(answers, Health::NoProgress, takes, 0);
    assert_eq!(verdict.obstacle.as_ref(), Some(obstacle));
    verdict
}

use Health::{Degraded, Good};
use Takes::{Endings, Nothing, Reads, Writes};

#[test]
fn where_all_vote_it_is_good_and_bears_f_faults() {
    let verdict = check(&[good(), good(), good(), good()], Good, Writes, 1);
    assert_eq!((verdict.voting, verdict.view, verdict.primary), (4, Some(0), Some(0)));
    let headline = verdict.headline();
    assert!(headline.starts_with("Good: the cluster takes writes and tolerates 1 more fault;"), "{headline}");
    check(&[good()], Good, Writes, 0);
    check(&vec![good(); 7], Good, Writes, 2);
    // Of six two may crash, and one may lie.
    check(&vec![good(); 6], Good, Writes, 1);
}

#[test]
fn a_full_state_is_no_obstacle_and_is_said_once() {
    let room = |room: u64| {
        with(|report| {
            report.state_bytes_max = 64 << 20;
            report.state_bytes = report.state_bytes_max - room;
        })
    };
    let full = vec![room(100); 4];
    let verdict = check(&full, Degraded, Writes, 1);
    assert_eq!(verdict.findings, [Finding::StateFull { bytes: (64 << 20) - 100, bytes_max: 64 << 20 }]);
    let text = verdict.text(&testing::config(4), &full);
    assert!(
        text.starts_with("Degraded: the cluster takes no growing writes and tolerates 1 more fault;"),
        "{text}"
    );
    assert!(text.contains("of 64 MiB") && text.contains("Delete keys"), "{text}");
    // A long value finds no room any more, and a hundredth is left where that is more.
    check(&vec![room(256 << 10); 4], Degraded, Writes, 1);
    check(&vec![room(1 << 20); 4], Good, Writes, 1);
    // The newest state counts.
    let emptied = with(|report| report.executed = 1);
    check(&[room(100), emptied, room(100), room(100)], Good, Writes, 1);
}

#[test]
fn each_that_is_down_or_a_learner_is_one_fault_less_to_bear() {
    let one = check(&[good(), good(), good(), down()], Degraded, Writes, 0);
    assert_eq!(one.voting, 3);
    assert!(one.headline().contains("tolerates no more faults; 3 of 4 replicas vote"), "{}", one.headline());
    let one = check(&[good(), good(), good(), learner()], Degraded, Writes, 0);
    assert_eq!(one.findings, [Finding::Learner { replica: 3 }]);
    let mut seven = vec![good(); 7];
    seven[5] = learner();
    check(&seven, Degraded, Writes, 1);
    seven[6] = down();
    check(&seven, Degraded, Writes, 0);
    seven[4] = down();
    stops(&seven, Nothing, &Obstacle::TooFewVoters { voters: 4 });
}

#[test]
fn a_learner_is_no_voter() {
    let one_of_each = [good(), good(), learner(), down()];
    let verdict = stops(&one_of_each, Nothing, &Obstacle::TooFewVoters { voters: 2 });
    let text = verdict.headline();
    assert!(
        text.contains("2 of 4 replicas can vote and a quorum is 3; start those that do not answer"),
        "{text}"
    );
    let four = stops(&vec![learner(); 4], Nothing, &Obstacle::TooManyLearners { learners: 4 });
    assert!(four.headline().contains("4 of 4 replicas are learners"), "{}", four.headline());
    assert!(four.headline().contains("quorate backup --data-dir"), "{}", four.headline());
    // With more than f of them it makes no difference who answers.
    for others in [[good(), good()], [good(), down()], [down(), down()]] {
        let [first, second] = others;
        let answers = [first, learner(), second, learner()];
        stops(&answers, Nothing, &Obstacle::TooManyLearners { learners: 2 });
    }
}

#[test]
fn writes_that_everybody_declines_are_no_progress_and_some_that_do_are_not_counted_on() {
    let verdict = stops(&vec![full(Reads); 4], Reads, &Obstacle::WritesDeclined);
    assert!(verdict.headline().contains("reads are answered"), "{}", verdict.headline());
    assert_eq!(verdict.findings.len(), 4);
    stops(&vec![full(Endings); 4], Endings, &Obstacle::WritesDeclined);
    stops(&vec![full(Nothing); 4], Nothing, &Obstacle::WritesDeclined);
    let some = [good(), full(Reads), full(Nothing), full(Reads)];
    let verdict = check(&some, Degraded, Writes, 0);
    let declines = |replica, takes| Finding::Declines { replica, takes, why: Declines::Disk };
    assert_eq!(verdict.findings, [declines(1, Reads), declines(2, Nothing), declines(3, Reads)]);
    check(&[good(), full(Reads), good(), good()], Degraded, Writes, 0);
    // Who can write nothing of what it says casts no votes.
    let stands = busy(Activity::AwaitingRoom);
    check(&[good(), good(), stands.clone(), good()], Degraded, Writes, 0);
    stops(&[good(), good(), stands.clone(), stands], Nothing, &Obstacle::TooFewVoters { voters: 2 });
}

#[test]
fn too_few_are_told_from_some_that_cannot_be_seen() {
    stops(&vec![down(); 4], Nothing, &Obstacle::TooFewVoters { voters: 0 });
    stops(&[good(), good(), down(), down()], Nothing, &Obstacle::TooFewVoters { voters: 2 });
    // The others say that they are linked with them: they are stopped, or the way from here is broken.
    let linked = judge_as_told(&[good(), good(), down(), down()]);
    assert_eq!(linked.obstacle, Some(Obstacle::Unseen { voters: 2, unseen: 2 }));
    assert!(linked.headline().starts_with("No progress that can be seen from here: "));
    // Whoever asks is let in nowhere: that says nothing of the cluster.
    for silence in [Silence::Refused, Silence::Unreadable] {
        let verdict = judge(&vec![silent(silence); 4]);
        assert_eq!(verdict.obstacle, Some(Obstacle::Unseen { voters: 0, unseen: 4 }));
    }
    check(&[good(), good(), good(), silent(Silence::Unreadable)], Degraded, Writes, 0);
}

#[test]
fn views_are_those_that_have_begun_with_a_quorum_and_their_primary() {
    // All but the one that waits alone for a view work on.
    let verdict = check(&[good(), in_view(1, false), good(), good()], Degraded, Writes, 0);
    assert_eq!((verdict.view, verdict.voting), (Some(0), 3));
    assert_eq!(verdict.findings, [Finding::OtherView { replica: 1, view: 1, entered: false }]);
    let changing = [down(), in_view(1, false), in_view(1, false), in_view(1, true)];
    let verdict = stops(&changing, Nothing, &Obstacle::ViewChange { view: 1, come: 1 });
    assert!(verdict.headline().contains("1 of 4 replicas have come to view 1"), "{}", verdict.headline());
    assert!(verdict.headline().contains("ends by itself"), "{}", verdict.headline());
    stops(&vec![in_view(5, false); 4], Nothing, &Obstacle::ViewChange { view: 5, come: 0 });
    // A learner that has come to a view makes no quorum in it.
    let learns = in_view(1, true).map(|report| ReplicaReport { role: Role::Learner, ..report });
    let with_learner = [good(), in_view(1, true), learns, in_view(1, true)];
    stops(&with_learner, Nothing, &Obstacle::ViewChange { view: 1, come: 2 });
    let after = check(&[down(), in_view(1, true), in_view(1, true), in_view(1, true)], Degraded, Writes, 0);
    assert_eq!((after.view, after.primary), (Some(1), Some(1)));
}

#[test]
fn a_silent_primary_is_replaced_by_itself() {
    for primary in [down(), learner(), busy(Activity::AwaitingRoom), cut(&[1, 2, 3])] {
        let verdict = check(&[primary, good(), good(), good()], Degraded, Writes, 0);
        let missing = Finding::NoPrimary { view: 0, primary: 0 };
        assert_eq!((&verdict.findings[0], &verdict.obstacle), (&missing, &None));
        let text = verdict.headline();
        assert!(text.contains("can take writes after a change of its view"), "{text}");
        assert!(!text.contains("restart"), "{text}");
    }
}

#[test]
fn who_is_behind_is_not_counted_on_and_who_lacks_a_state_has_no_vote() {
    let headers = busy(Activity::FetchingHeaders { upto: 9 });
    let verdict = check(&[good(), good(), good(), headers.clone()], Degraded, Writes, 0);
    assert_eq!(verdict.voting, 4);
    // Its votes are needed, and come when it has caught up.
    check(&[good(), good(), down(), headers], Degraded, Writes, 0);
    for activity in [Activity::AwaitingState, Activity::FetchingState { seq: 9, pages: 1, reused: 0 }] {
        let verdict = check(&[good(), good(), good(), busy(activity.clone())], Degraded, Writes, 0);
        assert_eq!((verdict.voting, verdict.findings.len()), (4 - 1, 1));
        let answers = [good(), good(), down(), busy(activity)];
        stops(&answers, Nothing, &Obstacle::TooFewVoters { voters: 2 });
    }
    check(&vec![busy(Activity::Executing { executed: 1, committed: 2 }); 4], Good, Writes, 1);
    // It may have all headers, and be far from having executed them.
    let at = |executed: u64, seconds: u64| {
        with(|report| {
            (report.executed, report.timestamp_ns) = (executed, seconds * 1_000_000_000);
            report.activity = Activity::Ordering;
        })
    };
    let verdict = check(&[at(90, 9), at(92, 9), at(91, 9), at(40, 5)], Degraded, Writes, 0);
    let behind = Finding::Behind { replica: 3, headers: 51, activity: Activity::Ordering };
    assert_eq!(verdict.findings, [behind]);
    // A moment's work under load, the first operation after a quiet time, and one that says too much of itself.
    check(&[at(90, 9), at(92, 9), at(91, 9), at(70, 8)], Good, Writes, 1);
    check(&[at(90, 9), at(92, 9), at(91, 9), at(89, 5)], Good, Writes, 1);
    check(&[at(90, 9), at(999, 99), at(91, 9), at(90, 9)], Good, Writes, 1);
}

#[test]
fn links_make_a_quorum() {
    // Two and two, which see nothing of each other.
    let halves = [cut(&[2, 3]), cut(&[2, 3]), cut(&[0, 1]), cut(&[0, 1])];
    stops(&halves, Nothing, &Obstacle::NotLinked { linked: 2 });
    let apart = check(&[cut(&[3]), good(), good(), good()], Degraded, Writes, 0);
    assert_eq!(apart.findings, [Finding::NotLinked { replica: 0, peer: 3 }]);
    assert_eq!(apart.voting, 3);
    let banned = with(|report| (report.peers[3].bans, report.peers[3].banned_ms) = (2, 1_500));
    let verdict = check(&[good(), banned, good(), good()], Degraded, Writes, 1);
    let keeps = Finding::KeepsOut { replica: 1, peer: 3, times: 2, for_ms: 1_500 };
    assert_eq!(verdict.findings, [keeps]);
}

#[test]
fn roots_that_differ_and_disks_that_rot_are_not_good() {
    let root = |root: &str| with(|report| (report.root, report.root_seq) = (Some(root.to_owned()), Some(5)));
    check(&[root("a"), root("a"), root("a"), root("a")], Good, Writes, 1);
    let verdict = check(&[root("a"), root("a"), root("b"), root("a")], Degraded, Writes, 0);
    let differs = Finding::RootDiffers { replica: 2, other: 0, seq: 5 };
    assert_eq!(verdict.findings, [differs]);
    let worn = with(|report| (report.log_blocks_repaired, report.log_records_lost) = (3, 1));
    let verdict = check(&[good(), good(), worn, good()], Degraded, Writes, 1);
    assert_eq!(verdict.findings, [Finding::LogGoesBad { replica: 2, repaired: 3, lost: 1 }]);
    let rotten = with(|report| report.blocks_mended = 3);
    let verdict = check(&[good(), good(), rotten, good()], Degraded, Writes, 1);
    assert_eq!(verdict.findings, [Finding::CheckpointGoesBad { replica: 2, mended: 3 }]);
}
