//! The client that asks the replicas for reports, and what their roots say.

use anyhow::Context;
use quorate_client::Client;
use quorate_telemetry::ReplicaReport;
use quorate_types::ReplicaId;
use std::time::{Duration, Instant};

/// How long all replicas may take to report at the start and end of the measured time.
const REPORTS_DEADLINE: Duration = Duration::from_secs(10);
/// How long the slowest replica may take to execute what the others have.
const ROOTS_DEADLINE: Duration = Duration::from_secs(30);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// One replica's report, or why there is none.
type Answer = Result<ReplicaReport, String>;

/// Whether all replicas hold the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// All have this root after this seq.
    Equal { seq: u64, root: String },
    /// Two have different roots after the same seq.
    Different,
    /// They have executed different amounts, or some do not answer.
    Unknown,
}

/// Asks every replica once, all at the same time.
async fn ask_all(client: &Client, replicas: &[ReplicaId], root: bool) -> Vec<Answer> {
    let ask = |replica: ReplicaId| {
        let client = client.clone();
        tokio_uring::spawn(async move {
            let json = client.report(replica, root).await.map_err(|error| error.to_string())?;
            serde_json::from_str(&json).map_err(|error| {
                format!("the report of replica {replica} is not of this version of quorate: {error}")
            })
        })
    };
    let tasks: Vec<_> = replicas.iter().map(|replica| ask(*replica)).collect();
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        answers.push(task.await.unwrap_or_else(|error| Err(error.to_string())));
    }
    answers
}

/// The reports of all replicas, for their costs; an error names those that do not answer.
pub(crate) async fn reports(client: &Client, replicas: &[ReplicaId]) -> anyhow::Result<Vec<ReplicaReport>> {
    let started = Instant::now();
    loop {
        let answers = ask_all(client, replicas, false).await;
        let complete: Result<Vec<_>, String> = answers.into_iter().collect();
        match complete {
            Ok(reports) => return Ok(reports),
            Err(error) if started.elapsed() > REPORTS_DEADLINE => {
                return Err(anyhow::anyhow!(error)).context("not every replica reports its costs");
            }
            Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
}

/// Waits until all replicas have executed the same and says whether their roots are equal. The text has one
/// line per replica.
pub(crate) async fn roots(client: &Client, replicas: &[ReplicaId]) -> (Roots, String) {
    let started = Instant::now();
    loop {
        let answers = ask_all(client, replicas, true).await;
        let verdict = judge(&answers);
        if verdict != Roots::Unknown || started.elapsed() > ROOTS_DEADLINE {
            return (verdict, describe(&answers));
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

fn judge(answers: &[Answer]) -> Roots {
    let known: Vec<(u64, &str)> = answers
        .iter()
        .flatten()
        .filter_map(|report| Some((report.root_seq?, report.root.as_deref()?)))
        .collect();
    let conflict = known.iter().any(|(seq, root)| {
        known.iter().any(|(other_seq, other_root)| seq == other_seq && root != other_root)
    });
    if conflict {
        return Roots::Different;
    }
    match known.first() {
        Some((seq, root)) if known.len() == answers.len() && known.iter().all(|(other, _)| other == seq) => {
            Roots::Equal { seq: *seq, root: (*root).to_owned() }
        }
        _ => Roots::Unknown,
    }
}

fn describe(answers: &[Answer]) -> String {
    let line = |answer: &Answer| match answer {
        Ok(report) => {
            let root = report.root.as_deref().unwrap_or("no root");
            let seq = report.root_seq.unwrap_or(report.executed);
            format!("\n  replica {} at seq {seq}: {root}; {}", report.replica, report.state)
        }
        Err(error) => format!("\n  {}", error.replace("\n  ", " ")),
    };
    answers.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(replica: u8, seq: u64, root: &str) -> Answer {
        let root = Some(root.to_owned());
        Ok(ReplicaReport { replica, root, root_seq: Some(seq), executed: seq, ..ReplicaReport::default() })
    }

    #[test]
    fn roots_are_compared_at_equal_seqs_only() {
        let equal = Roots::Equal { seq: 5, root: "aa".to_owned() };
        assert_eq!(judge(&[at(0, 5, "aa"), at(1, 5, "aa")]), equal);
        assert_eq!(judge(&[at(0, 5, "aa"), at(1, 6, "bb")]), Roots::Unknown);
        assert_eq!(judge(&[at(0, 5, "aa"), at(1, 5, "bb"), at(2, 4, "cc")]), Roots::Different);
    }

    #[test]
    fn a_silent_replica_leaves_the_verdict_open_but_hides_no_conflict() {
        let silent = || Err("no report:\n  replica 3 at 127.0.0.1:4: connection refused".to_owned());
        let rootless = Ok(ReplicaReport::default());
        assert_eq!(judge(&[at(0, 5, "aa"), silent()]), Roots::Unknown);
        assert_eq!(judge(&[at(0, 5, "aa"), rootless]), Roots::Unknown);
        assert_eq!(judge(&[at(0, 5, "aa"), silent(), at(2, 5, "bb")]), Roots::Different);
        let text = describe(&[at(0, 5, "aa"), silent()]);
        assert_eq!(
            text,
            "\n  replica 0 at seq 5: aa; \n  no report: replica 3 at 127.0.0.1:4: connection refused"
        );
    }
}
