//! What a verdict says to people: a sentence on the whole, and one on each thing that is wrong, with its remedy.

use super::{Finding, Obstacle, Verdict};
use crate::report::{Answer, Silence};
use crate::status::size;
use quorate_telemetry::Takes;
use quorate_types::{ByteCount, ClusterConfig};

impl Verdict {
    /// One sentence on the whole.
    pub(crate) fn headline(&self) -> String {
        let Self { replicas, quorum, voting, .. } = self;
        if let Some(obstacle) = &self.obstacle {
            let what = match obstacle {
                Obstacle::WritesDeclined => "No writes",
                Obstacle::Unseen { .. } => "No progress that can be seen from here",
                _ => "No progress",
            };
            return format!("{what}: {}.", self.stands(obstacle));
        }
        let health = if self.findings.is_empty() { "Good" } else { "Degraded" };
        let who =
            if voting == replicas { format!("all {replicas}") } else { format!("{voting} of {replicas}") };
        let (view, primary) = (self.view.unwrap_or_default(), self.primary.unwrap_or_default());
        let changes = self.findings.iter().any(|finding| matches!(finding, Finding::NoPrimary { .. }));
        let is_full = self.findings.iter().any(|finding| matches!(finding, Finding::StateFull { .. }));
        let (takes, place) = match changes {
            true => (
                "can take writes after a change of its view",
                format!("are in view {view} without its primary"),
            ),
            false => (
                if is_full { "takes no growing writes" } else { "takes writes" },
                format!("vote in view {view}, whose primary is {primary}"),
            ),
        };
        let bears = match self.tolerates {
            0 => "no more faults".to_owned(),
            1 => "1 more fault".to_owned(),
            count => format!("{count} more faults"),
        };
        format!(
            "{health}: the cluster {takes} and tolerates {bears}; {who} replicas {place}, and a quorum is {quorum}."
        )
    }

    fn stands(&self, obstacle: &Obstacle) -> String {
        let Self { replicas, quorum, .. } = self;
        match obstacle {
            Obstacle::TooManyLearners { learners } => format!(
                "{learners} of {replicas} replicas are learners, which never vote again, and a quorum is {quorum}: nothing will be \
                 ordered in this cluster any more. The way out is a new cluster from its newest certified state: stop all \
                 replicas, copy that with `quorate backup --data-dir DIR... --cluster FILE --to BACKUP`, and see \
                 `quorate restore --help`"
            ),
            Obstacle::TooFewVoters { voters } => {
                let is_down = |finding: &Finding| matches!(finding, Finding::Silent { .. });
                let remedy = match self.findings.iter().any(is_down) {
                    true => "; start those that do not answer",
                    false => "; it goes on by itself when those that are named below can vote again",
                };
                format!("{voters} of {replicas} replicas can vote and a quorum is {quorum}{remedy}")
            }
            Obstacle::Unseen { voters, unseen } => format!(
                "of {replicas} replicas {voters} say that they can vote and a quorum is {quorum}; \
                 {unseen} more may be at work, and give no report"
            ),
            Obstacle::NotLinked { linked } => format!(
                "of the replicas that can vote no more than {linked} are linked with one of them, itself included, and a quorum \
                 is {quorum}; look at the network between them"
            ),
            Obstacle::ViewChange { view, come } => format!(
                "the view is being changed, {come} of {replicas} replicas have come to view {view}, and a quorum is {quorum}; it \
                 ends by itself, so ask again in some seconds"
            ),
            Obstacle::WritesDeclined => format!(
                "{} replicas vote, and none of them takes writes{}",
                self.voting,
                match self.takes {
                    Takes::Reads => "; reads are answered",
                    Takes::Endings => " or reads, only what ends what was begun",
                    _ => "; nothing is taken of clients",
                }
            ),
        }
    }

    /// The sentence on the whole, and a line on each thing that is wrong.
    pub(crate) fn text(&self, config: &ClusterConfig, answers: &[Answer]) -> String {
        let mut text = self.headline() + "\n";
        for finding in &self.findings {
            text += &format!("- {}\n", finding.sentence(config, answers));
        }
        text
    }
}

impl Finding {
    fn sentence(&self, config: &ClusterConfig, answers: &[Answer]) -> String {
        match self {
            Self::Silent { replica, silence, linked } => silent(config, answers, *replica, *silence, linked),
            Self::Learner { replica } => format!(
                "Replica {replica} is a learner: it follows and serves, and casts no votes, as its own may be lost. It counts as one \
                 of the faulty ones, and stays one."
            ),
            Self::Behind { replica, headers: 0, activity } => {
                format!("Replica {replica} is behind the others, {activity}.")
            }
            Self::Behind { replica, headers, activity } => {
                format!("Replica {replica} is {headers} headers behind the others, {activity}.")
            }
            Self::AwaitingRoom { replica } => format!(
                "Replica {replica} stands still: its log waits for room on the disk of data_dir, and its votes with it. Make room; \
                 it goes on by itself."
            ),
            Self::Declines { replica, takes, why } => {
                let taken = match takes {
                    Takes::Reads => "no writes",
                    Takes::Endings => "neither writes nor reads",
                    _ => "nothing of clients",
                };
                format!("Replica {replica} takes {taken}: {why}.")
            }
            Self::OtherView { replica, view, entered: true } => {
                format!("Replica {replica} is in view {view} still, and follows by itself.")
            }
            Self::OtherView { replica, view, entered: false } => {
                format!("Replica {replica} waits for view {view} to begin.")
            }
            Self::NoPrimary { view, primary } => format!(
                "Primary {primary} of view {view} is not at work: the others change the view by themselves once something is to be \
                 ordered, and that waits for it."
            ),
            Self::NotLinked { replica, peer } => format!(
                "Replicas {replica} and {peer} are not linked with each other; see the log of replica {}.",
                replica.max(peer)
            ),
            Self::KeepsOut { replica, peer, times, for_ms } => format!(
                "Replica {replica} keeps replica {peer} out for {} s more: {times} times it has sent what no honest replica sends; see \
                 why in the log of replica {replica}.",
                for_ms.div_ceil(1_000)
            ),
            Self::RootDiffers { replica, other, seq } => {
                format!("The roots of replicas {other} and {replica} differ at seq {seq}.")
            }
            Self::StateFull { bytes, bytes_max } => format!(
                "The state is full, with {} of {}: what would make it larger has no effect, and reads, deletions and writes that \
                 do not grow go on. Delete keys; a cluster with more room is made from a backup (`quorate backup`, \
                 `quorate restore --state-max`).",
                size(*bytes),
                ByteCount(*bytes_max)
            ),
            Self::LogGoesBad { replica, repaired, lost } => format!(
                "The log of replica {replica} goes bad on its disk: {repaired} blocks were written again, {lost} records cannot be \
                 read any more; check the disk (smartctl), and see its own log."
            ),
            Self::CheckpointGoesBad { replica, mended } => format!(
                "Replica {replica} has found {mended} blocks of its checkpoint damaged and written them anew: its disk is not to be \
                 trusted."
            ),
        }
    }
}

fn silent(
    config: &ClusterConfig,
    answers: &[Answer],
    replica: u8,
    silence: Silence,
    linked: &[u8],
) -> String {
    let address = config.members()[usize::from(replica)].client;
    let error = match answers.get(usize::from(replica)) {
        Some(Err(error)) => error.text.as_str(),
        _ => "",
    };
    let what = match silence {
        Silence::Unreachable => "does not answer",
        Silence::Refused => "refuses to tell",
        Silence::Unreadable => "tells what this version cannot read",
    };
    let linked: Vec<String> = linked.iter().map(u8::to_string).collect();
    let elsewhere = match linked.as_slice() {
        [] => String::new(),
        [one] => format!(" Replica {one} is linked with it all the same."),
        many => format!(" Replicas {} are linked with it all the same.", many.join(", ")),
    };
    let end = if error.ends_with(['.', '?']) { "" } else { "." };
    format!("Replica {replica} at {address} {what}: {error}{end}{elsewhere}")
}
