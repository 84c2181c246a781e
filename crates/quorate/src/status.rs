//! `quorate status`: whether the cluster makes progress and how many more faults it bears, whether all replicas hold the same
//! state, and every replica in a line.

use crate::cluster_arguments::ClusterArguments;
use crate::failure::{Failure, NO};
use crate::output;
use crate::report::{Answer, WITH_ROOT, ask_all};
use crate::verdict::{Health, Roots, Verdict};
use crate::watch;
use clap::Args;
use quorate_telemetry::{Counter, ReplicaReport, Role};
use quorate_types::{ByteCount, ClusterConfig, ReplicaId};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

/// How long the replicas may take to answer, all at the same time.
const DEADLINE: Duration = Duration::from_secs(3);
/// The digits of a root that tell it from another one at a glance.
const ROOT_DIGITS: usize = 12;

const AFTER_HELP: &str = "\
Each replica is asked on a connection of its own and answers for itself, so this works also when the cluster makes \
no progress. It takes at most 3 seconds. The verdict is made of who votes, in which view, linked with whom and with \
what room: a learner is no voter, and who cannot be reached from here may be at work.

Columns: takes is what a replica takes of clients: writes and all else, reads, only endings of what was begun, or \
nothing; committed, executed and stable are the highest seq that is committed, executed and proven by a checkpoint; \
lag is how many executed headers the replica is behind the highest one; root is the digest of the whole state after \
the executed seq, which is why only roots at the same seq are comparable; keys are those that users stored; state is \
what they come to with their values and 32 bytes each, of what they may come to (state_max); log is \
what is needed of the log, of what it may take (max_journal_bytes); disk free is what is free beside it.

With --watch: what an operation costs, from the difference of two reports: calls of io_uring_enter, entries in each, \
context switches, CPU time, allocations, bytes; and where its time goes, stage by stage, at the replica that its \
client talks to (`quorate histograms --help` lists the stages). It ends with Ctrl-C.

Exit codes: 0 good; 4 degraded: the cluster makes progress, and something is wrong, such as a replica that is down or \
behind, a learner, one that declines writes, a state that is full, or roots that differ; 1 no progress: it takes no writes, or that cannot \
be seen from here; 2 wrong usage.

With --json: verdict is good, degraded or no_progress; obstacle is what stops the cluster, and findings what is wrong, \
each with a kind; nothing else is a sentence but error and waits_for, which are for people.

Examples:
  quorate status
  quorate status --watch 5
  quorate status --counters      which limits have bitten, and what was refused
  until quorate status > /dev/null; do sleep 1; done      before the next replica of a rolling restart
  quorate status --cluster data/cluster.toml --json | jq -r .verdict";

/// Show whether the cluster makes progress, what is wrong, and how each replica is.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Print roots whole, not only their first 12 digits.
    #[arg(long)]
    root: bool,
    /// Print JSON: the verdict, and the full report of each replica or the reason why there is none.
    #[arg(long)]
    json: bool,
    /// Show what each replica has counted since it started, and what it has refused, instead of the tables.
    #[arg(long, conflicts_with_all = ["json", "root"])]
    counters: bool,
    /// Show every so many seconds, 2 if none are named, what operations cost and where their time goes.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600),
        conflicts_with_all = ["json", "root", "counters"]
    )]
    watch: Option<u64>,
}

pub(crate) fn run(arguments: &StatusArguments) -> Result<ExitCode, Failure> {
    let (config, key) = arguments.cluster.read()?;
    if let Some(seconds) = arguments.watch {
        return watch::run(&config, &key, Duration::from_secs(seconds));
    }
    let answers = ask_all(&config, &key, &WITH_ROOT, DEADLINE);
    let roots = Roots::of(&answers);
    let verdict = Verdict::of(&config, &answers, &roots);
    let text = match arguments.json {
        true => json(&config, &answers, &verdict, &roots)?,
        false if arguments.counters => {
            format!("{}\n\n{}", verdict.text(&config, &answers), counter_table(&config, &answers))
        }
        false => {
            let (work, machine) = tables(&config, &answers, arguments.root);
            format!("{}{}\n\n{work}{machine}", verdict.text(&config, &answers), roots.sentence())
        }
    };
    output::print(text)?;
    Ok(match verdict.health {
        Health::Good => ExitCode::SUCCESS,
        Health::Degraded => ExitCode::from(NO),
        Health::NoProgress => ExitCode::FAILURE,
    })
}

fn json(
    config: &ClusterConfig,
    answers: &[Answer],
    verdict: &Verdict,
    roots: &Roots,
) -> Result<String, serde_json::Error> {
    let replicas =
        config.replica_ids().zip(config.members()).zip(answers).map(|((replica, member), answer)| {
            let (answer, report, error) = match answer {
                Ok(report) => (serde_json::json!("report"), Some(report), None),
                Err(error) => (serde_json::json!(error.silence), None, Some(&error.text)),
            };
            serde_json::json!({
                "replica": replica.0,
                "address": member.client,
                "answer": answer,
                "report": report,
                "error": error,
            })
        });
    let mut value = serde_json::to_value(verdict)?;
    value["roots"] = roots.name().into();
    value["replicas"] = replicas.collect();
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

const WORK: [&str; 10] =
    ["replica", "role", "view", "takes", "committed", "executed", "stable", "lag", "root", "what it does"];
const MACHINE: [&str; 9] =
    ["replica", "version", "uptime", "clients", "keys", "state", "log", "disk free", "memory"];

/// How far each replica is, and what it has: numbers stand at the right of their columns, words at the left.
fn tables(config: &ClusterConfig, answers: &[Answer], whole_roots: bool) -> (String, String) {
    let highest = answers.iter().flatten().map(|report| report.executed).max().unwrap_or(0);
    let mut work = vec![WORK.map(str::to_owned).to_vec()];
    let mut machine = vec![MACHINE.map(str::to_owned).to_vec()];
    for (replica, answer) in config.replica_ids().zip(answers) {
        match answer {
            Ok(report) => {
                work.push(work_row(replica, report, highest, whole_roots));
                machine.push(machine_row(replica, report));
            }
            Err(error) => work.push(vec![replica.to_string(), format!("no report: {error}")]),
        }
    }
    let machine =
        if machine.len() > 1 { format!("\n{}", aligned(&machine, &["version"])) } else { String::new() };
    (aligned(&work, &["role", "takes", "root"]), machine)
}

/// What each replica has counted and refused, a line each. What nobody has refused has no line.
fn counter_table(config: &ClusterConfig, answers: &[Answer]) -> String {
    let head = ["counter".to_owned()].into_iter();
    let replicas = config.replica_ids().map(|replica| format!("r{replica}"));
    let mut rows = vec![head.chain(replicas).chain(["what it counts".to_owned()]).collect::<Vec<_>>()];
    let mut row = |name: String, help: &str, count: &dyn Fn(&ReplicaReport) -> Option<u64>| {
        let of = |answer: &Answer| answer.as_ref().ok().and_then(count);
        let cells =
            answers.iter().map(|answer| of(answer).map_or_else(|| "-".to_owned(), |count| count.to_string()));
        rows.push([name].into_iter().chain(cells).chain([help.to_owned()]).collect());
    };
    for counter in Counter::ALL {
        row(counter.name().to_owned(), counter.help(), &|report| {
            report.counters.get(counter.name()).copied()
        });
    }
    let refused: BTreeSet<&String> =
        answers.iter().flatten().flat_map(|report| report.rejects.keys()).collect();
    for reason in refused {
        let count = |report: &ReplicaReport| Some(report.rejects.get(reason).copied().unwrap_or(0));
        row(format!("rejects {reason}"), "What was refused for this reason.", &count);
    }
    aligned(&rows, &["counter"])
}

fn aligned(rows: &[Vec<String>], words: &[&str]) -> String {
    let head = &rows[0];
    let mut widths = vec![0; head.len()];
    for row in rows.iter().filter(|row| row.len() == head.len()) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line += &match index {
                _ if index + 1 == row.len()
                    && (row.len() < head.len() || head[index].starts_with("what it ")) =>
                {
                    cell.clone()
                }
                _ if words.contains(&head[index].as_str()) => format!("{cell:<width$}  "),
                _ => format!("{cell:>width$}  "),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn work_row(replica: ReplicaId, report: &ReplicaReport, highest: u64, whole_roots: bool) -> Vec<String> {
    let role = match report.role {
        Role::Learner => "learner",
        Role::Voter if report.entered && report.primary == replica.0 => "primary",
        Role::Voter => "voter",
    };
    let root = report.root.as_deref().unwrap_or("-");
    let digits = if whole_roots { root.len() } else { ROOT_DIGITS };
    vec![
        replica.to_string(),
        role.to_owned(),
        if report.entered { report.view.to_string() } else { format!("to {}", report.view) },
        report.takes.name().to_owned(),
        report.committed.to_string(),
        report.executed.to_string(),
        report.stable.to_string(),
        highest.saturating_sub(report.executed).to_string(),
        root.get(..digits).unwrap_or(root).to_owned(),
        report.doing(),
    ]
}

fn machine_row(replica: ReplicaId, report: &ReplicaReport) -> Vec<String> {
    vec![
        replica.to_string(),
        report.version.clone(),
        uptime(report.costs.uptime_ms / 1_000),
        report.clients.to_string(),
        report.user_keys.to_string(),
        format!("{} of {}", size(report.state_bytes), ByteCount(report.state_bytes_max)),
        format!("{} of {}", size(report.log_bytes), ByteCount(report.log_bytes_max)),
        report.disk_free_bytes.map_or_else(|| "-".to_owned(), size),
        size(report.costs.rss_bytes),
    ]
}

/// The two largest units of a time.
fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Bytes in the largest unit of which there is more than a few.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = bytes >> 10;
    while value >= 10 * 1024 && unit + 1 < UNITS.len() {
        (value, unit) = (value >> 10, unit + 1);
    }
    format!("{value} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::NoReport;
    use expect_test::expect;
    use quorate_telemetry::{Activity, Costs, Declines, PeerReport, Takes};
    use quorate_wire::testing;

    fn report(replica: u8) -> ReplicaReport {
        let peer = |peer: u8| PeerReport { replica: peer, connected: true, ..PeerReport::default() };
        ReplicaReport {
            replica,
            version: "0.1.0".to_owned(),
            entered: true,
            executed: 12,
            committed: 12,
            root: Some("ab".repeat(32)),
            root_seq: Some(12),
            user_keys: 7,
            state_bytes: 300 << 20,
            state_bytes_max: 8 << 30,
            peers: (0..4).filter(|other| *other != replica).map(peer).collect(),
            log_bytes: 48 << 20,
            log_bytes_max: 2 << 30,
            disk_free_bytes: Some(38 << 30),
            costs: Costs { uptime_ms: 273_600_000, rss_bytes: 240 << 20, ..Costs::default() },
            ..ReplicaReport::default()
        }
    }

    fn down() -> Answer {
        Err(NoReport::unreachable("Connection refused"))
    }

    #[test]
    fn tables_show_roles_versions_uptime_disk_and_log() {
        let mut behind = report(2);
        (behind.role, behind.takes, behind.executed, behind.root) = (Role::Learner, Takes::Nothing, 9, None);
        behind.activity = Activity::Executing { executed: 9, committed: 12 };
        let answers = [Ok(report(0)), Ok(report(1)), Ok(behind), down()];
        let (work, machine) = tables(&testing::config(4), &answers, false);
        expect![[r#"
            replica  role     view  takes    committed  executed  stable  lag  root          what it does
                  0  primary     0  writes          12        12       0    0  abababababab  idle: nothing is open
                  1  voter       0  writes          12        12       0    0  abababababab  idle: nothing is open
                  2  learner     0  nothing         12         9       0    3  -             executing: 9 of 12 committed headers are executed
                  3  no report: Connection refused
        "#]].assert_eq(&work);
        expect![[r#"

            replica  version   uptime  clients  keys             state              log  disk free   memory
                  0  0.1.0    3 d 4 h        0     7  300 MiB of 8 GiB  48 MiB of 2 GiB     38 GiB  240 MiB
                  1  0.1.0    3 d 4 h        0     7  300 MiB of 8 GiB  48 MiB of 2 GiB     38 GiB  240 MiB
                  2  0.1.0    3 d 4 h        0     7  300 MiB of 8 GiB  48 MiB of 2 GiB     38 GiB  240 MiB
        "#]]
        .assert_eq(&machine);
    }

    #[test]
    fn counters_and_refusals_of_all_replicas_stand_side_by_side() {
        let mut first = report(0);
        first.counters = [("enters".to_owned(), 12)].into();
        first.rejects = [("busy".to_owned(), 3)].into();
        let answers = [Ok(first), down(), Ok(report(2)), Ok(report(3))];
        let text = counter_table(&testing::config(4), &answers);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2 + Counter::ALL.len());
        expect![[r#"
            counter                   r0  r1  r2  r3  what it counts
            enters                    12   -   -   -  Calls of io_uring_enter.
            rejects busy               3   -   0   0  What was refused for this reason."#]]
        .assert_eq(&[lines[0], lines[1], lines[lines.len() - 1]].join("\n"));
    }

    #[test]
    fn json_has_enumerations() {
        let config = testing::config(4);
        let mut reads = report(2);
        (reads.takes, reads.declines) = (Takes::Reads, Some(Declines::Disk));
        let answers = [Ok(report(0)), Ok(report(1)), Ok(reads), down()];
        let roots = Roots::of(&answers);
        let text = json(&config, &answers, &Verdict::of(&config, &answers, &roots), &roots).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let replicas = value.as_object_mut().unwrap().remove("replicas").unwrap();
        expect![[r#"
            {
              "can_progress": true,
              "findings": [
                {
                  "kind": "declines",
                  "replica": 2,
                  "takes": "reads",
                  "why": "disk"
                },
                {
                  "kind": "silent",
                  "linked": [
                    0,
                    1,
                    2
                  ],
                  "replica": 3,
                  "silence": "unreachable"
                }
              ],
              "obstacle": null,
              "primary": 0,
              "quorum": 3,
              "roots": "equal",
              "takes": "writes",
              "tolerates": 0,
              "verdict": "degraded",
              "view": 0,
              "voting": 3
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(
            (&replicas[3]["answer"], &replicas[3]["report"]),
            (&"unreachable".into(), &serde_json::Value::Null)
        );
        let told = &replicas[2]["report"];
        assert_eq!(
            (&told["role"], &told["takes"], &told["declines"]),
            (&"voter".into(), &"reads".into(), &"disk".into())
        );
        assert_eq!(told["activity"]["kind"], "idle");
    }

    #[test]
    fn times_and_sizes_are_short() {
        assert_eq!([5, 65, 3_700, 273_600].map(uptime), ["5 s", "1 min 5 s", "1 h 1 min", "3 d 4 h"]);
        assert_eq!([0, 5_000, 20 << 20, 12 << 30].map(size), ["0 KiB", "4 KiB", "20 MiB", "12 GiB"]);
    }
}
