//! The client that asks the replicas for reports, and what their roots say.

use quorate_client::Client;
use quorate_telemetry::ReplicaReport;
use quorate_types::ReplicaId;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long the slowest replica may take to execute what the others have.
const ROOTS_DEADLINE: Duration = Duration::from_secs(30);
/// How long a replica that is silent is waited for when roots are compared.
const ABSENT_DEADLINE: Duration = Duration::from_secs(5);
/// How long one question about roots may take.
const ROOT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a replica that did not answer the last time is waited for.
const ABSENT_PATIENCE: Duration = Duration::from_millis(300);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// One replica's report, or why there is none.
pub(crate) type Answer = Result<ReplicaReport, NoAnswer>;

/// Why a replica did not report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// It said nothing in time.
    Silent(ReplicaId),
    /// It cannot be reached, or does not speak as it should.
    Failed(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(replica) => write!(f, "replica {replica} is silent: stopped or overloaded"),
            Self::Failed(error) => f.write_str(error),
        }
    }
}

/// What a report shall contain besides positions and costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Costs,
    Root,
    Histograms,
}

/// Whether all replicas that report hold the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// All have this root after this seq.
    Equal { seq: u64, root: String },
    /// Two have different roots after the same seq.
    Different,
    /// They have executed different amounts, or none answers.
    Unknown,
}

/// What came of the last question to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Answered,
    /// It said nothing in time. On a busy machine it may only have had to wait for a CPU, so where all are to answer it
    /// is waited for; in between it must not hold the others up again.
    Silent,
    /// It cannot be reached.
    Failed,
}

impl Last {
    fn of(answer: &Answer) -> Self {
        match answer {
            Ok(_) => Self::Answered,
            Err(NoAnswer::Silent(_)) => Self::Silent,
            Err(NoAnswer::Failed(_)) => Self::Failed,
        }
    }
}

/// Asks replicas for reports. One that owes an answer is not asked again before.
#[derive(Debug)]
pub(crate) struct Census {
    client: Client,
    replicas: Vec<ReplicaId>,
    asked: Rc<Vec<Cell<bool>>>,
    /// What came of the last question to each.
    last: Vec<Cell<Last>>,
}

impl Census {
    pub(crate) fn new(client: &Client, replicas: Vec<ReplicaId>) -> Self {
        let asked = Rc::new(vec![Cell::new(false); replicas.len()]);
        let last = vec![Cell::new(Last::Answered); replicas.len()];
        Self { client: client.clone(), replicas, asked, last }
    }

    /// Asks every replica once, all at the same time; the answers are in the order of the replicas. One that did
    /// not answer the last time is not waited for so long.
    pub(crate) async fn ask(&self, contents: Contents, patience: Duration) -> Vec<Answer> {
        let now = Instant::now();
        let tasks: Vec<_> = (0..self.replicas.len()).map(|index| self.ask_one(index, contents)).collect();
        let mut answers = Vec::with_capacity(tasks.len());
        for (index, task) in tasks.into_iter().enumerate() {
            let answered = self.last[index].get() == Last::Answered;
            let patience = if answered { patience } else { patience.min(ABSENT_PATIENCE) };
            let silent = || Err(NoAnswer::Silent(self.replicas[index]));
            let answer = match task {
                None => silent(),
                Some(task) => match tokio::time::timeout_at((now + patience).into(), task).await {
                    Ok(answer) => answer.unwrap_or_else(|error| Err(NoAnswer::Failed(error.to_string()))),
                    Err(_) => silent(),
                },
            };
            self.last[index].set(Last::of(&answer));
            answers.push(answer);
        }
        answers
    }

    fn ask_one(&self, index: usize, contents: Contents) -> Option<tokio::task::JoinHandle<Answer>> {
        if self.asked[index].replace(true) {
            return None;
        }
        let (client, asked, replica) = (self.client.clone(), Rc::clone(&self.asked), self.replicas[index]);
        Some(tokio_uring::spawn(async move {
            let json = match contents {
                Contents::Costs => client.report(replica, false).await,
                Contents::Root => client.report(replica, true).await,
                Contents::Histograms => client.report_with_histograms(replica).await,
            };
            asked[index].set(false);
            let json = json.map_err(|error| NoAnswer::Failed(error.to_string().replace("\n  ", " ")))?;
            serde_json::from_str(&json).map_err(|error| {
                NoAnswer::Failed(format!(
                    "the report of replica {replica} is not of this version of quorate: {error}"
                ))
            })
        }))
    }

    /// The replicas that could be reached when they were asked last: they are expected to answer.
    fn expected(&self) -> Vec<bool> {
        self.last.iter().map(|last| last.get() != Last::Failed).collect()
    }

    /// Asks until every replica has answered that could be reached before, or patience ends.
    pub(crate) async fn ask_until_all(&self, contents: Contents, patience: Duration) -> Vec<Answer> {
        let deadline = Instant::now() + patience;
        let expected = self.expected();
        let mut answers = self.ask(contents, patience).await;
        let waits = |answers: &[Answer]| {
            answers.iter().zip(&expected).any(|(answer, expected)| *expected && answer.is_err())
        };
        while waits(&answers) && Instant::now() < deadline {
            tokio::time::sleep(RETRY_INTERVAL).await;
            let again = self.ask(contents, deadline.saturating_duration_since(Instant::now())).await;
            for (answer, again) in answers.iter_mut().zip(again).filter(|(answer, _)| answer.is_err()) {
                *answer = again;
            }
        }
        for (last, answer) in self.last.iter().zip(&answers) {
            last.set(Last::of(answer));
        }
        answers
    }

    /// Waits until all replicas that report have executed the same and says whether their roots are equal, with
    /// what each said last.
    pub(crate) async fn roots(&self) -> (Roots, Vec<Answer>) {
        let started = Instant::now();
        let expected = self.expected();
        loop {
            let answers = self.ask(Contents::Root, ROOT_PATIENCE).await;
            let verdict = judge(&answers);
            let there = answers.iter().zip(&expected).all(|(answer, expected)| answer.is_ok() || !expected);
            let complete = there || started.elapsed() > ABSENT_DEADLINE;
            let decided = verdict == Roots::Different || (verdict != Roots::Unknown && complete);
            if decided || started.elapsed() > ROOTS_DEADLINE {
                return (verdict, answers);
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}

fn judge(answers: &[Answer]) -> Roots {
    let reports = || answers.iter().flatten();
    let known: Vec<(u64, &str)> =
        reports().filter_map(|report| Some((report.root_seq?, report.root.as_deref()?))).collect();
    let conflict = known.iter().any(|(seq, root)| {
        known.iter().any(|(other_seq, other_root)| seq == other_seq && root != other_root)
    });
    if conflict {
        return Roots::Different;
    }
    match known.first() {
        Some((seq, root))
            if known.len() == reports().count() && known.iter().all(|(other, _)| other == seq) =>
        {
            Roots::Equal { seq: *seq, root: (*root).to_owned() }
        }
        _ => Roots::Unknown,
    }
}

/// One line per replica.
pub(crate) fn describe(answers: &[Answer]) -> String {
    let line = |answer: &Answer| match answer {
        Ok(report) => {
            let root = report.root.as_deref().unwrap_or("no root");
            let seq = report.root_seq.unwrap_or(report.executed);
            format!("\n  replica {} at seq {seq}: {root}; {}", report.replica, report.doing())
        }
        Err(error) => format!("\n  {error}"),
    };
    answers.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_client::ClientOptions;
    use quorate_client::testing::FakeCluster;
    use quorate_wire::testing::client_key;
    use std::sync::Arc;

    fn at(replica: u8, seq: u64, root: &str) -> Answer {
        let root = Some(root.to_owned());
        Ok(ReplicaReport { replica, root, root_seq: Some(seq), executed: seq, ..ReplicaReport::default() })
    }

    #[test]
    #[allow(
        clippy::await_holding_lock,
        reason = "the replicas are threads: while they wait for it they are silent"
    )]
    fn a_replica_that_was_silent_once_is_waited_for_where_all_are_to_answer() {
        let fake = FakeCluster::start(&[0, 1, 2]);
        fake.state().report = Box::new(|replica, root| {
            let root = root.then(|| "aa".to_owned());
            let report = ReplicaReport { replica, root, root_seq: Some(5), ..ReplicaReport::default() };
            serde_json::to_string(&report).unwrap()
        });
        tokio_uring::start(async {
            let config = Arc::clone(&fake.config);
            let client = Client::connect(config, client_key(), ClientOptions::default()).await.unwrap();
            let census = Census::new(&client, fake.config.replica_ids().collect());
            let present = |answers: &[Answer]| answers.iter().map(Result::is_ok).collect::<Vec<_>>();
            for contents in [Contents::Costs, Contents::Histograms, Contents::Root] {
                let busy = fake.state();
                let silent = census.ask(Contents::Costs, Duration::from_millis(20)).await;
                assert_eq!(present(&silent), [false; 4]);
                drop(busy);
                let answers = match contents {
                    Contents::Root => census.roots().await.1,
                    _ => census.ask_until_all(contents, Duration::from_secs(60)).await,
                };
                assert_eq!(present(&answers), [true, true, true, false], "{contents:?}");
            }
            client.close().await;
        });
    }

    #[test]
    fn roots_are_compared_at_equal_seqs_only() {
        let equal = Roots::Equal { seq: 5, root: "aa".to_owned() };
        assert_eq!(judge(&[at(0, 5, "aa"), at(1, 5, "aa")]), equal);
        assert_eq!(judge(&[at(0, 5, "aa"), at(1, 6, "bb")]), Roots::Unknown);
        assert_eq!(judge(&[at(0, 5, "aa"), at(1, 5, "bb"), at(2, 4, "cc")]), Roots::Different);
    }

    #[test]
    fn a_silent_replica_has_no_part_in_the_comparison_and_hides_no_conflict() {
        let silent =
            || Err(NoAnswer::Failed("no report: replica 3 at 127.0.0.1:4: connection refused".to_owned()));
        let rootless = Ok(ReplicaReport::default());
        let equal = Roots::Equal { seq: 5, root: "aa".to_owned() };
        assert_eq!(judge(&[at(0, 5, "aa"), silent(), at(2, 5, "aa")]), equal);
        assert_eq!(judge(&[at(0, 5, "aa"), rootless]), Roots::Unknown);
        assert_eq!(judge(&[silent(), silent()]), Roots::Unknown);
        assert_eq!(judge(&[at(0, 5, "aa"), silent(), at(2, 5, "bb")]), Roots::Different);
        let text = describe(&[at(0, 5, "aa"), silent()]);
        assert_eq!(
            text,
            "\n  replica 0 at seq 5: aa; idle: nothing is open\n  no report: replica 3 at 127.0.0.1:4: connection refused"
        );
    }
}
