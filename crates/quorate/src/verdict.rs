//! What the reports of its replicas say of a cluster: whether it orders operations and takes writes, how many more faults it
//! bears, and what is wrong, each as an enumeration; `words` has the sentences.
//!
//! It is judged from who votes, in which view, linked with whom and with what room, not from who can be reached: a learner is
//! no voter, and a replica that cannot be reached from here may be at work. Reports are believed; one replica that lies in its
//! own makes the verdict wrong, and no state.

mod roots;
mod words;

pub(crate) use self::roots::Roots;
use crate::report::{Answer, Silence};
use quorate_telemetry::{Activity, Declines, ReplicaReport, Role, Takes};
use quorate_types::{ClusterConfig, Quorums, ReplicaId, limits};
use serde::Serialize;
use std::collections::BTreeSet;

/// A replica that lags by more headers than this, and whose last one is older than that of the others by more than this, is
/// behind: all are asked within a moment, in which a cluster under load goes on.
const LAG_HEADERS_MAX: u64 = 2;
const LAG_NS_MAX: u64 = 1_000_000_000;

/// How a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Health {
    /// Nothing is wrong.
    Good,
    /// It makes progress, and something is wrong.
    Degraded,
    /// It orders no writes, or none that can be seen from here.
    NoProgress,
}

/// What keeps it from making progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Obstacle {
    /// More than f are learners: nothing will be ordered any more.
    TooManyLearners { learners: usize },
    /// Too few can vote.
    TooFewVoters { voters: usize },
    /// Too few that can vote have been heard, and so many more may be at work.
    Unseen { voters: usize, unseen: usize },
    /// No quorum of those who can vote is linked with one of them.
    NotLinked { linked: usize },
    /// So many have come to the highest view that somebody is in or waits for.
    ViewChange { view: u64, come: usize },
    /// Operations are ordered, and nobody takes writes.
    WritesDeclined,
}

/// Something that is wrong and does not stop the cluster by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Finding {
    /// It gives no report; these say that they are linked with it.
    Silent { replica: u8, silence: Silence, linked: Vec<u8> },
    /// It casts no votes.
    Learner { replica: u8 },
    /// It is behind the others, by so many headers.
    Behind { replica: u8, headers: u64, activity: Activity },
    /// Its log waits for room on its disk, and its votes with it.
    AwaitingRoom { replica: u8 },
    /// It does not take everything of clients.
    Declines { replica: u8, takes: Takes, why: Declines },
    /// It is in this view, or waits for it to begin, and the others work in another one.
    OtherView { replica: u8, view: u64, entered: bool },
    /// The primary of the view is not at work: the next write waits for a change of the view.
    NoPrimary { view: u64, primary: u8 },
    /// Two that give reports are not linked with each other.
    NotLinked { replica: u8, peer: u8 },
    /// It keeps another one out.
    KeepsOut { replica: u8, peer: u8, times: u64, for_ms: u64 },
    /// Its root differs from that of another one after the same header.
    RootDiffers { replica: u8, other: u8, seq: u64 },
    /// The state has no room for every write.
    StateFull { bytes: u64, bytes_max: u64 },
    /// Blocks of its log went bad on its disk.
    LogGoesBad { replica: u8, repaired: u64, lost: u64 },
    /// Blocks of its checkpoint went bad on its disk.
    CheckpointGoesBad { replica: u8, mended: u64 },
}

/// The judgement of a cluster.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    #[serde(rename = "verdict")]
    pub(crate) health: Health,
    pub(crate) can_progress: bool,
    /// What the cluster takes of clients.
    pub(crate) takes: Takes,
    /// How many more replicas may fail in any way before it stands still, or lies.
    pub(crate) tolerates: usize,
    /// The replicas that vote with each other.
    pub(crate) voting: usize,
    pub(crate) quorum: usize,
    /// The view that they work in.
    pub(crate) view: Option<u64>,
    pub(crate) primary: Option<u8>,
    pub(crate) obstacle: Option<Obstacle>,
    pub(crate) findings: Vec<Finding>,
    #[serde(skip)]
    replicas: usize,
}

impl Verdict {
    /// Judges the answers of all replicas, in the order of their ids.
    pub(crate) fn of(config: &ClusterConfig, answers: &[Answer], roots: &Roots) -> Self {
        let cluster = Seen { quorums: config.quorums(), answers };
        let Quorums { replicas, faults, quorum, .. } = cluster.quorums;
        let mut findings = cluster.findings(roots);
        let work = cluster.work();
        let (mut obstacle, members, mut view, mut primary) = match work {
            Work::Goes { view, primary, members } => (None, members, Some(view), Some(primary.0)),
            Work::AfterViewChange { view, primary, members } => {
                findings.insert(0, Finding::NoPrimary { view, primary: primary.0 });
                (None, members, Some(view), Some(primary.0))
            }
            Work::Stops(obstacle, members) => (Some(obstacle), members, None, None),
        };
        let homes = || cluster.reports().filter(|(id, _)| members.contains(id));
        let taken = homes().map(|(_, report)| report.takes).max().unwrap_or(Takes::Nothing);
        let takes = if obstacle.is_none() { taken } else { Takes::Nothing };
        if obstacle.is_none() && takes < Takes::Writes {
            obstacle = Some(Obstacle::WritesDeclined);
        }
        if let Some(working) = view {
            let others = cluster.voters().filter(|(_, report)| report.view != working || !report.entered);
            findings.extend(others.map(|(replica, report)| Finding::OtherView {
                replica: replica.0,
                view: report.view,
                entered: report.entered,
            }));
        } else {
            (view, primary) = cluster.highest_view().map(|(view, primary)| (view, primary.0)).unzip();
        }
        let counts = |(id, report): &(ReplicaId, &ReplicaReport)| {
            can_vote(report)
                && report.takes == Takes::Writes
                && cluster.lag(report).is_none()
                && !roots.deviates(*id)
        };
        // Who lags has its votes for later, and who lacks room may come to its end.
        let sound = homes().filter(counts).count();
        let bears = sound.saturating_sub(quorum).min(faults.saturating_sub(replicas - sound));
        let can_progress = obstacle.is_none();
        Self {
            health: match (can_progress, findings.is_empty()) {
                (false, _) => Health::NoProgress,
                (true, false) => Health::Degraded,
                (true, true) => Health::Good,
            },
            can_progress,
            takes,
            tolerates: if can_progress { bears } else { 0 },
            voting: members.len(),
            quorum,
            view,
            primary,
            obstacle,
            findings,
            replicas,
        }
    }
}

/// Whether its votes count for what is ordered next.
fn can_vote(report: &ReplicaReport) -> bool {
    report.role == Role::Voter && !report.activity.lacks_state() && report.activity != Activity::AwaitingRoom
}

/// Whether the cluster works.
#[derive(Debug)]
enum Work {
    /// These vote with each other.
    Goes { view: u64, primary: ReplicaId, members: BTreeSet<ReplicaId> },
    /// They would once they have left the view, which they do when there is something to order.
    AfterViewChange { view: u64, primary: ReplicaId, members: BTreeSet<ReplicaId> },
    /// It does not; these could vote.
    Stops(Obstacle, BTreeSet<ReplicaId>),
}

/// The answers of all replicas, by their ids: what a replica says of who it is does not count.
struct Seen<'a> {
    quorums: Quorums,
    answers: &'a [Answer],
}

impl<'a> Seen<'a> {
    fn all(&self) -> impl Iterator<Item = (ReplicaId, &'a Answer)> + use<'a> {
        self.answers
            .iter()
            .enumerate()
            .map(|(index, answer)| (ReplicaId(u8::try_from(index).unwrap_or(u8::MAX)), answer))
    }

    fn reports(&self) -> impl Iterator<Item = (ReplicaId, &'a ReplicaReport)> + use<'a> {
        self.all().filter_map(|(id, answer)| Some((id, answer.as_ref().ok()?)))
    }

    fn voters(&self) -> impl Iterator<Item = (ReplicaId, &'a ReplicaReport)> + use<'a> {
        self.reports().filter(|(_, report)| can_vote(report))
    }

    /// Whether both say so, as far as they say anything.
    fn are_linked(&self, left: ReplicaId, right: ReplicaId) -> bool {
        let says = |of: ReplicaId, peer: ReplicaId| match self.answers.get(of.index()) {
            Some(Ok(report)) => is_linked(report, peer),
            _ => true,
        };
        left == right || (says(left, right) && says(right, left))
    }

    /// How many headers a replica is behind what f+1 have executed, if it is behind.
    fn lag(&self, report: &ReplicaReport) -> Option<u64> {
        let mut executed: Vec<(u64, u64)> =
            self.reports().map(|(_, report)| (report.executed, report.timestamp_ns)).collect();
        executed.sort_unstable_by(|left, right| right.cmp(left));
        let (highest, at_ns) = executed.get(self.quorums.faults).copied().unwrap_or_default();
        let headers = highest.saturating_sub(report.executed);
        let is_late = at_ns.saturating_sub(report.timestamp_ns) > LAG_NS_MAX;
        let is_behind = report.activity.is_catching_up() || (headers > LAG_HEADERS_MAX && is_late);
        is_behind.then_some(headers)
    }

    /// The voters of a set that are linked with one of it.
    fn around(&self, centre: ReplicaId, voters: &BTreeSet<ReplicaId>) -> BTreeSet<ReplicaId> {
        voters.iter().copied().filter(|voter| self.are_linked(centre, *voter)).collect()
    }

    /// The highest view that a voter is in or waits for, with its primary.
    fn highest_view(&self) -> Option<(u64, ReplicaId)> {
        let highest = self.voters().max_by_key(|(_, report)| report.view);
        highest.map(|(_, report)| (report.view, ReplicaId(report.primary)))
    }

    fn work(&self) -> Work {
        let Quorums { replicas, quorum, .. } = self.quorums;
        let views: BTreeSet<(u64, ReplicaId)> = (self.voters().filter(|(_, report)| report.entered))
            .map(|(_, report)| (report.view, ReplicaId(report.primary)))
            .collect();
        let come = |view: u64| -> BTreeSet<ReplicaId> {
            let come = self.voters().filter(|(_, report)| report.entered && report.view == view);
            come.map(|(id, _)| id).collect()
        };
        for (view, primary) in views.iter().rev().copied() {
            let come = come(view);
            let members = self.around(primary, &come);
            if come.contains(&primary) && members.len() >= quorum {
                return Work::Goes { view, primary, members };
            }
        }
        let voters: BTreeSet<ReplicaId> = self.voters().map(|(id, _)| id).collect();
        let learners = self.reports().filter(|(_, report)| report.role == Role::Learner).count();
        if learners > replicas - quorum {
            return Work::Stops(Obstacle::TooManyLearners { learners }, voters);
        }
        if voters.len() < quorum {
            let (count, unseen) = (voters.len(), self.unseen());
            let obstacle = match count + unseen >= quorum && unseen > 0 {
                true => Obstacle::Unseen { voters: count, unseen },
                false => Obstacle::TooFewVoters { voters: count },
            };
            return Work::Stops(obstacle, voters);
        }
        let clusters = voters.iter().map(|centre| self.around(*centre, &voters));
        let members = clusters.max_by_key(BTreeSet::len).unwrap_or_default();
        if members.len() < quorum {
            return Work::Stops(Obstacle::NotLinked { linked: members.len() }, members);
        }
        match self.highest_view() {
            Some((view, primary)) if come(view).is_superset(&members) => {
                Work::AfterViewChange { view, primary, members }
            }
            Some((view, _)) => Work::Stops(Obstacle::ViewChange { view, come: come(view).len() }, members),
            None => Work::Stops(Obstacle::TooFewVoters { voters: 0 }, members),
        }
    }

    /// Those that give no report, and may be at work all the same.
    fn unseen(&self) -> usize {
        let is_unseen = |(id, answer): &(ReplicaId, &Answer)| match answer {
            Ok(_) => false,
            Err(error) => error.silence != Silence::Unreachable || !self.linked_with(*id).is_empty(),
        };
        self.all().filter(is_unseen).count()
    }

    /// Those that say that they are linked with a replica.
    fn linked_with(&self, replica: ReplicaId) -> Vec<u8> {
        let others = self.reports().filter(|(id, report)| *id != replica && is_linked(report, replica));
        others.map(|(id, _)| id.0).collect()
    }

    fn findings(&self, roots: &Roots) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (replica, answer) in self.all() {
            match answer {
                Ok(report) => self.findings_of(replica, report, &mut findings),
                Err(error) => findings.push(Finding::Silent {
                    replica: replica.0,
                    silence: error.silence,
                    linked: self.linked_with(replica),
                }),
            }
        }
        // All have the same state; who has executed most has the newest.
        let newest = self.reports().map(|(_, report)| report).max_by_key(|report| report.executed);
        if let Some(report) = newest.filter(|report| is_state_full(report)) {
            findings
                .push(Finding::StateFull { bytes: report.state_bytes, bytes_max: report.state_bytes_max });
        }
        if let Some((other, replica, seq)) = roots.difference() {
            findings.push(Finding::RootDiffers { replica: replica.0, other: other.0, seq });
        }
        findings
    }

    fn findings_of(&self, id: ReplicaId, report: &ReplicaReport, findings: &mut Vec<Finding>) {
        let replica = id.0;
        if report.role == Role::Learner {
            findings.push(Finding::Learner { replica });
        }
        if report.activity == Activity::AwaitingRoom {
            findings.push(Finding::AwaitingRoom { replica });
        } else if let Some(headers) = self.lag(report) {
            findings.push(Finding::Behind { replica, headers, activity: report.activity.clone() });
        }
        // Who follows is a learner or catches up, which is said.
        if let Some(why) = report.declines.filter(|why| *why != Declines::Following) {
            findings.push(Finding::Declines { replica, takes: report.takes, why });
        }
        let others = self.reports().filter(|(other, _)| *other > id);
        let apart = others.filter(|(other, _)| !self.are_linked(id, *other));
        findings.extend(apart.map(|(peer, _)| Finding::NotLinked { replica, peer: peer.0 }));
        for peer in report.peers.iter().filter(|peer| peer.banned_ms > 0) {
            let (times, for_ms, peer) = (peer.bans, peer.banned_ms, peer.replica);
            findings.push(Finding::KeepsOut { replica, peer, times, for_ms });
        }
        let (repaired, lost) = (report.log_blocks_repaired, report.log_records_lost);
        if repaired + lost > 0 {
            findings.push(Finding::LogGoesBad { replica, repaired, lost });
        }
        if report.blocks_mended > 0 {
            findings.push(Finding::CheckpointGoesBad { replica, mended: report.blocks_mended });
        }
    }
}

/// Whether the state has less room than a hundredth, or than the longest entry takes: not every write is done.
fn is_state_full(report: &ReplicaReport) -> bool {
    const ENTRY_BYTES_MAX: u64 =
        (limits::KEY_BYTES_MAX + limits::VALUE_BYTES_MAX) as u64 + limits::STATE_ENTRY_BYTES;
    let room = report.state_bytes_max.saturating_sub(report.state_bytes);
    room < ENTRY_BYTES_MAX.max(report.state_bytes_max / 100)
}

fn is_linked(report: &ReplicaReport, peer: ReplicaId) -> bool {
    report.peers.iter().any(|known| known.replica == peer.0 && known.connected)
}

#[cfg(test)]
mod tests;
