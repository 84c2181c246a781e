//! `quorate status`: every replica in a line, and in words whether the cluster makes progress and whether all
//! replicas hold the same state.

use crate::cluster_arguments::ClusterArguments;
use crate::failure::Failure;
use crate::output;
use crate::report::{Answer, WITH_ROOT, ask_all};
use crate::watch;
use clap::Args;
use quorate_telemetry::ReplicaReport;
use quorate_types::{ClusterConfig, Quorums};
use std::process::ExitCode;
use std::time::Duration;

/// How long the replicas may take to answer, all at the same time.
const DEADLINE: Duration = Duration::from_secs(3);
/// The digits of a root that tell it from another one at a glance.
const ROOT_DIGITS: usize = 12;

const AFTER_HELP: &str = "\
Each replica is asked on a connection of its own and answers for itself, so this works also when the cluster makes \
no progress. It takes at most 3 seconds.

Columns: committed, executed and stable are the highest seq that is committed, executed and proven by a checkpoint; \
lag is how many executed headers the replica is behind the highest one; keys are those that users stored; root is the \
digest of the whole state after the executed seq, which is why only roots at the same seq are comparable.

With --watch: what an operation costs, from the difference of two reports: calls of io_uring_enter, entries in each, \
context switches, CPU time, allocations, bytes; and where its time goes, stage by stage, at the replica that its \
client talks to (`quorate histograms --help` lists the stages). It ends with Ctrl-C.

Exit codes: 0 the cluster can make progress and no roots differ, 1 otherwise, 2 wrong usage.

Examples:
  quorate status
  quorate status --watch 5
  quorate status --cluster data/cluster.toml --json";

/// Show view, progress, lag and root of every replica.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Print roots whole, not only their first 12 digits.
    #[arg(long)]
    root: bool,
    /// Print JSON: the full report of each replica, or the reason why there is none, and the verdict.
    #[arg(long)]
    json: bool,
    /// Show every so many seconds, 2 if none are named, what operations cost and where their time goes.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600),
        conflicts_with_all = ["json", "root"]
    )]
    watch: Option<u64>,
}

pub(crate) fn run(arguments: &StatusArguments) -> Result<ExitCode, Failure> {
    let (config, key) = arguments.cluster.read()?;
    if let Some(seconds) = arguments.watch {
        return watch::run(&config, &key, Duration::from_secs(seconds));
    }
    let answers = ask_all(&config, &key, &WITH_ROOT, DEADLINE);
    let progress = Progress::of(config.quorums(), &answers);
    let roots = Roots::of(&answers);
    let text = match arguments.json {
        true => json(&config, &answers, &progress, &roots)?,
        false => {
            let table = table(&config, &answers, arguments.root);
            let (bans, decay, media) = (bans(&answers), decay(&answers), media(&answers));
            format!("{table}\n{}\n{}\n{bans}{decay}{media}", progress.sentence, roots.sentence)
        }
    };
    output::print(text)?;
    Ok(if progress.possible && roots.agree != Some(false) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether operations can be ordered, and why.
#[derive(Debug)]
pub(crate) struct Progress {
    possible: bool,
    pub(crate) sentence: String,
}

impl Progress {
    pub(crate) fn of(quorums: Quorums, answers: &[Answer]) -> Self {
        let obstacle = obstacle(quorums, answers);
        let sentence = match &obstacle {
            Some(obstacle) => format!("The cluster cannot make progress: {obstacle}."),
            None => {
                let answering = answers.iter().flatten().count();
                format!(
                    "The cluster can make progress: {answering} of {} replicas answer, and a quorum of {} is linked with \
                     the primary.",
                    quorums.replicas, quorums.quorum
                )
            }
        };
        Self { possible: obstacle.is_none(), sentence }
    }
}

/// What keeps the cluster from making progress, with the remedy.
fn obstacle(quorums: Quorums, answers: &[Answer]) -> Option<String> {
    let Quorums { replicas, quorum, .. } = quorums;
    let reports: Vec<&ReplicaReport> = answers.iter().flatten().collect();
    let learners = reports.iter().filter(|report| report.learner).count();
    if learners > replicas - quorum {
        return Some(format!(
            "{learners} of {replicas} replicas are learners, which never vote again, and a quorum is {quorum}: nothing will be \
             ordered in this cluster any more. The way out is a new cluster from its newest certified state: stop all \
             replicas, copy that with `quorate backup --data-dir DIR... --cluster FILE --to BACKUP`, and see \
             `quorate restore --help`"
        ));
    }
    if reports.len() < quorum {
        let count = reports.len();
        return Some(format!(
            "{count} of {replicas} replicas answer and a quorum is {quorum}; start the others, or all of them if they ran before"
        ));
    }
    let Some(newest) = reports.iter().max_by_key(|report| report.view) else {
        return Some("no replica answers; start them".to_owned());
    };
    let (view, primary) = (newest.view, newest.primary);
    let voters = reports.iter().filter(|report| !report.learner).count();
    if voters < quorum {
        return Some(format!(
            "of the {} replicas that answer, {voters} cast votes and a quorum is {quorum}; the others are learners. Start those \
             that do not answer",
            reports.len()
        ));
    }
    let together = reports.iter().filter(|report| report.view == view && !report.learner).count();
    if together < quorum {
        return Some(format!("only {together} replicas have come to view {view} and a quorum is {quorum}"));
    }
    let Some(leader) = reports.iter().find(|report| report.replica == primary) else {
        return Some(format!(
            "primary {primary} of view {view} does not answer; start it, or ask again when something was to be ordered: \
             the others then change the view by themselves within seconds"
        ));
    };
    let linked = 1 + leader.peers.iter().filter(|peer| peer.connected).count();
    (linked < quorum).then(|| {
        format!(
            "primary {primary} is linked with {linked} replicas, itself included, and a quorum is {quorum}"
        )
    })
}

/// Whether the replicas hold the same state.
#[derive(Debug)]
struct Roots {
    /// Yes, no, or not to be told.
    agree: Option<bool>,
    sentence: String,
}

impl Roots {
    fn of(answers: &[Answer]) -> Self {
        let known: Vec<(u64, &str, u8)> = answers
            .iter()
            .flatten()
            .filter_map(|report| Some((report.root_seq?, report.root.as_deref()?, report.replica)))
            .collect();
        for (index, (seq, root, replica)) in known.iter().enumerate() {
            let differs = |other: &&(u64, &str, u8)| other.0 == *seq && other.1 != *root;
            if let Some((_, _, other)) = known[..index].iter().find(differs) {
                let sentence = format!(
                    "The roots of replicas {other} and {replica} DIFFER at seq {seq}: one of them is faulty. Keep their \
                     logs and compare with the others before anything is restarted."
                );
                return Self { agree: Some(false), sentence };
            }
        }
        let Some((highest, ..)) = known.iter().max() else {
            return Self { agree: None, sentence: "No replica told its root.".to_owned() };
        };
        let alike = known.iter().filter(|(seq, ..)| seq == highest).count();
        if alike == known.len() && alike > 1 {
            let sentence =
                format!("The roots of all {alike} replicas that answer are equal at seq {highest}.");
            return Self { agree: Some(true), sentence };
        }
        let sentence = format!(
            "Replicas were asked at different seqs, so not all roots are comparable; {alike} at seq {highest}, and no \
             roots at the same seq differ."
        );
        Self { agree: None, sentence }
    }
}

/// Who keeps out whom for what it has sent, a line each.
fn bans(answers: &[Answer]) -> String {
    let mut text = String::new();
    for report in answers.iter().flatten() {
        for peer in report.peers.iter().filter(|peer| peer.banned_ms > 0) {
            text += &format!(
                "Replica {} keeps replica {} out for {} s more: {} times it has sent what no honest replica sends; see why \
                 in the log of replica {}.\n",
                report.replica,
                peer.replica,
                peer.banned_ms.div_ceil(1_000),
                peer.bans,
                report.replica
            );
        }
    }
    text
}

/// Whose log goes bad on the disk, a line each.
fn decay(answers: &[Answer]) -> String {
    let mut text = String::new();
    for report in answers.iter().flatten() {
        let (repaired, lost) = (report.log_blocks_repaired, report.log_records_lost);
        if repaired + lost > 0 {
            text += &format!(
                "The log of replica {} goes bad on its disk: {repaired} blocks were written again, {lost} records cannot be \
                 read any more; check the disk (smartctl), and see its own log.\n",
                report.replica
            );
        }
    }
    text
}

/// Whose disk has let blocks go bad, a line each.
fn media(answers: &[Answer]) -> String {
    let rotten = answers.iter().flatten().filter(|report| report.blocks_mended > 0);
    let line = |report: &ReplicaReport| {
        format!(
            "Replica {} has found {} blocks of its checkpoint damaged and written them anew: its disk is not to be trusted.\n",
            report.replica, report.blocks_mended
        )
    };
    rotten.map(line).collect()
}

fn json(
    config: &ClusterConfig,
    answers: &[Answer],
    progress: &Progress,
    roots: &Roots,
) -> Result<String, serde_json::Error> {
    let replicas: Vec<_> = config
        .replica_ids()
        .zip(config.members())
        .zip(answers)
        .map(|((replica, member), answer)| {
            serde_json::json!({
                "replica": replica.0,
                "address": member.client,
                "reachable": answer.is_ok(),
                "report": answer.as_ref().ok(),
                "error": answer.as_ref().err(),
            })
        })
        .collect();
    let value = serde_json::json!({
        "replicas": replicas,
        "can_progress": progress.possible,
        "progress": progress.sentence,
        "roots_equal": roots.agree,
        "roots": roots.sentence,
    });
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

const COLUMNS: [&str; 11] = [
    "replica",
    "view",
    "primary",
    "committed",
    "executed",
    "stable",
    "lag",
    "clients",
    "keys",
    "root",
    "state",
];

/// One line per replica; numbers stand at the right of their columns, words at the left.
fn table(config: &ClusterConfig, answers: &[Answer], whole_roots: bool) -> String {
    let highest = answers.iter().flatten().map(|report| report.executed).max().unwrap_or(0);
    let rows: Vec<Vec<String>> = config
        .replica_ids()
        .zip(config.members())
        .zip(answers)
        .map(|((replica, member), answer)| match answer {
            Ok(report) => row(report, highest, whole_roots),
            Err(error) => vec![replica.to_string(), format!("unreachable at {}: {error}", member.client)],
        })
        .collect();
    let mut widths: Vec<usize> = COLUMNS.iter().map(|name| name.len()).collect();
    for row in rows.iter().filter(|row| row.len() == COLUMNS.len()) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header: Vec<String> = COLUMNS.iter().map(|name| (*name).to_owned()).collect();
    let lines = std::iter::once(&header).chain(&rows).map(|row| line(row, &widths));
    lines.collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (index, cell) in row.iter().enumerate() {
        let width = widths[index];
        text += &match index {
            _ if index + 1 == row.len() => cell.clone(),
            _ if COLUMNS[index] == "root" => format!("{cell:<width$}  "),
            _ => format!("{cell:>width$}  "),
        };
    }
    text + "\n"
}

fn row(report: &ReplicaReport, highest: u64, whole_roots: bool) -> Vec<String> {
    let root = report.root.as_deref().unwrap_or("-");
    let digits = if whole_roots { root.len() } else { ROOT_DIGITS };
    vec![
        report.replica.to_string(),
        report.view.to_string(),
        report.primary.to_string(),
        report.committed.to_string(),
        report.executed.to_string(),
        report.stable.to_string(),
        highest.saturating_sub(report.executed).to_string(),
        report.clients.to_string(),
        report.user_keys.to_string(),
        root.get(..digits).unwrap_or(root).to_owned(),
        report.state.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_telemetry::PeerReport;

    fn report(replica: u8, seq: u64, root: &str) -> Answer {
        let connected = |replica| PeerReport { replica, connected: true, ..PeerReport::default() };
        Ok(ReplicaReport {
            replica,
            executed: seq,
            root_seq: Some(seq),
            root: Some(root.to_owned()),
            peers: (0..4).filter(|peer| *peer != replica).map(connected).collect(),
            ..ReplicaReport::default()
        })
    }

    fn silent() -> Answer {
        Err("Connection refused".to_owned())
    }

    fn says(answers: &[Answer]) -> (bool, String) {
        let progress = Progress::of(Quorums::of(4), answers);
        (progress.possible, progress.sentence)
    }

    #[test]
    fn a_quorum_with_its_primary_makes_progress() {
        let (possible, text) = says(&[report(0, 5, "a"), report(1, 5, "a"), report(2, 5, "a"), silent()]);
        assert!(possible && text.contains("3 of 4 replicas answer"), "{text}");
    }

    #[test]
    fn each_obstacle_is_named() {
        let (possible, text) = says(&[report(0, 5, "a"), report(1, 5, "a"), silent(), silent()]);
        assert!(
            !possible && text.contains("2 of 4 replicas answer and a quorum is 3; start the others"),
            "{text}"
        );
        let learner = || Ok(ReplicaReport { learner: true, ..report(2, 5, "a").unwrap() });
        let (possible, text) = says(&[report(0, 5, "a"), report(1, 5, "a"), learner(), silent()]);
        let expected =
            "of the 3 replicas that answer, 2 cast votes and a quorum is 3; the others are learners";
        assert!(!possible && text.contains(expected), "{text}");
        assert!(text.ends_with("the others are learners. Start those that do not answer."), "{text}");
        let (possible, text) = says(&[report(0, 5, "a"), report(1, 5, "a"), learner(), report(3, 5, "a")]);
        assert!(possible, "{text}");
        // With more than f of them it makes no difference who answers.
        let other = || report(1, 5, "a").map(|report| ReplicaReport { learner: true, ..report });
        for last in [silent(), report(3, 5, "a")] {
            for first in [silent(), report(0, 5, "a")] {
                let (possible, text) = says(&[first, other(), learner(), last.clone()]);
                assert!(!possible && text.contains("2 of 4 replicas are learners"), "{text}");
                assert!(text.contains("quorate backup --data-dir DIR..."), "{text}");
            }
        }
        // A learner that has come to a view makes no quorum in it.
        let in_view = |answer: Answer| answer.map(|report| ReplicaReport { view: 1, primary: 1, ..report });
        let late = report(3, 5, "a");
        let answers = [in_view(report(0, 5, "a")), in_view(report(1, 5, "a")), in_view(learner()), late];
        let (possible, text) = says(&answers);
        assert!(!possible && text.contains("only 2 replicas have come to view 1"), "{text}");
        let (possible, text) = says(&[silent(), report(1, 5, "a"), report(2, 5, "a"), report(3, 5, "a")]);
        assert!(!possible && text.contains("primary 0 of view 0 does not answer"), "{text}");
        let mut alone = report(0, 5, "a").unwrap();
        alone.peers.iter_mut().skip(1).for_each(|peer| peer.connected = false);
        let (possible, text) = says(&[Ok(alone), report(1, 5, "a"), report(2, 5, "a"), silent()]);
        assert!(!possible && text.contains("linked with 2 replicas"), "{text}");
        let mut ahead = report(1, 5, "a").unwrap();
        ahead.view = 1;
        let (possible, text) = says(&[report(0, 5, "a"), Ok(ahead), report(2, 5, "a"), report(3, 5, "a")]);
        assert!(!possible && text.contains("only 1 replicas have come to view 1"), "{text}");
    }

    #[test]
    fn who_keeps_out_whom_is_said() {
        assert_eq!(bans(&[report(0, 5, "a"), silent()]), "");
        let mut strict = report(1, 5, "a").unwrap();
        let peer = strict.peers.iter_mut().find(|peer| peer.replica == 3).unwrap();
        (peer.bans, peer.banned_ms) = (2, 1_500);
        let text = bans(&[report(0, 5, "a"), Ok(strict)]);
        assert!(text.starts_with("Replica 1 keeps replica 3 out for 2 s more: 2 times"), "{text}");
    }

    #[test]
    fn whose_log_goes_bad_is_said() {
        assert_eq!(decay(&[report(0, 5, "a"), silent()]), "");
        let mut worn = report(2, 5, "a").unwrap();
        (worn.log_blocks_repaired, worn.log_records_lost) = (3, 1);
        let text = decay(&[report(0, 5, "a"), Ok(worn)]);
        let said = "The log of replica 2 goes bad on its disk: 3 blocks were written again, 1 records cannot";
        assert!(text.starts_with(said), "{text}");
    }

    #[test]
    fn whose_disk_rots_is_said() {
        let mut rotten = report(2, 5, "a").unwrap();
        assert_eq!(media(&[Ok(rotten.clone()), silent()]), "");
        rotten.blocks_mended = 3;
        let text = media(&[report(0, 5, "a"), Ok(rotten)]);
        assert!(text.starts_with("Replica 2 has found 3 blocks") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn roots_are_compared_at_the_same_seq_alone() {
        assert_eq!(Roots::of(&[report(0, 5, "a"), report(1, 5, "a"), silent()]).agree, Some(true));
        assert_eq!(Roots::of(&[report(0, 5, "a"), report(1, 6, "b")]).agree, None);
        assert_eq!(Roots::of(&[silent(), silent()]).agree, None);
        let different = Roots::of(&[report(0, 5, "a"), report(1, 6, "b"), report(3, 5, "c")]);
        assert_eq!(different.agree, Some(false));
        assert!(different.sentence.contains("replicas 0 and 3 DIFFER at seq 5"), "{}", different.sentence);
    }
}
