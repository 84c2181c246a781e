//! `quorate kv`: single operations on a cluster.

use crate::cluster_arguments::ClusterArguments;
use crate::failure::Failure;
use crate::output;
use anyhow::Context;
use clap::{Args, Subcommand};
use quorate_client::{Client, ClientOptions};
use quorate_types::{
    ClusterConfig, Condition, KeyValue, Operation, OperationResult, ReplicaId, SigningKey, Versioned, limits,
};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const AFTER_HELP: &str = "\
Every operation is ordered by the cluster and answered by f + 1 replicas alike. Keys have up to 1 KiB, values up to \
256 KiB. A value given as `-` is read from standard input. Each command is signed with the key of a client.

Exit codes: 0 done, 1 the answer is no (an absent key for get, exists and mget, a condition that did not hold for \
set) or the operation failed, 2 wrong usage.

Examples:
  quorate kv set greeting hello
  quorate kv get greeting
  quorate kv get greeting --versions         prints the version, a tab and the value
  quorate kv set greeting hi --version 12    only if nobody has written it since version 12
  quorate kv incr visits 5
  quorate kv mset a 1 b 2
  quorate kv scan --prefix user: --limit 10
  quorate kv set -- -key -value              keys and values that begin with a hyphen
  quorate kv set photo - < photo.jpg; quorate kv get --raw photo > copy.jpg";

/// Read and write keys.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct KvArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How long to wait for the connections, and then for the answer, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// The replica that gets the request first. When it does not answer, the next one gets it.
    #[arg(long, global = true, value_name = "REPLICA", default_value_t = 0)]
    home: u8,
    /// Print the version, which is the seq of the header that wrote the key, and a tab before each value.
    #[arg(long, global = true)]
    versions: bool,
    #[command(subcommand)]
    command: KvCommand,
}

#[derive(Subcommand, Debug)]
enum KvCommand {
    /// Print the value of a key. Exit code 1 when the key is absent.
    Get {
        /// The key.
        key: OsString,
        /// Print the value alone, without a newline at its end.
        #[arg(long)]
        raw: bool,
    },
    /// Write a key. Exit code 1 when a condition was given and did not hold.
    Set {
        /// The key.
        key: OsString,
        /// The value; `-` reads it from standard input.
        #[arg(allow_hyphen_values = true)]
        value: OsString,
        /// Write only if the key is absent.
        #[arg(long, group = "condition")]
        nx: bool,
        /// Write only if the key exists.
        #[arg(long, group = "condition")]
        xx: bool,
        /// Write only if the key has exactly this version.
        #[arg(long, value_name = "VERSION", group = "condition")]
        version: Option<u64>,
    },
    /// Remove keys and print how many there were.
    Del {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Print how many of the keys exist. Exit code 1 unless all do.
    Exists {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Add to a decimal integer and print the sum. An absent key counts as 0.
    Incr {
        /// The key.
        key: OsString,
        /// What to add; negative numbers subtract.
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Append to a value and print its new length in bytes. An absent key counts as empty.
    Append {
        /// The key.
        key: OsString,
        /// What to append; `-` reads it from standard input.
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// Print the values of several keys at one moment, each after its key and a tab. Exit code 1 when one is absent.
    Mget {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Write several keys, all or none.
    Mset {
        /// Keys and values in turns.
        #[arg(required = true, value_name = "KEY VALUE", allow_negative_numbers = true)]
        pairs: Vec<OsString>,
    },
    /// Print the entries of a range in key order, each value after its key and a tab.
    Scan {
        /// Only keys that begin with this.
        #[arg(long, value_name = "PREFIX", conflicts_with_all = ["start", "end"])]
        prefix: Option<OsString>,
        /// The first key. [default: the first of all]
        #[arg(long, value_name = "KEY")]
        start: Option<OsString>,
        /// The key after the last. [default: to the end]
        #[arg(long, value_name = "KEY")]
        end: Option<OsString>,
        /// The most entries to print, up to 10000.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
}

pub(crate) fn run(arguments: &KvArguments) -> Result<ExitCode, Failure> {
    let (config, key) = arguments.cluster.read()?;
    if config.member(ReplicaId(arguments.home)).is_none() {
        let last = config.members().len() - 1;
        return Err(Failure::usage(format!(
            "--home {}: the cluster has replicas 0 to {last}",
            arguments.home
        )));
    }
    let operations = arguments.command.operations()?;
    let results = execute(config, key, arguments, &operations)?;
    let answer = arguments.command.answer(&operations, &results, arguments.versions);
    output::print(&answer.printed)?;
    answer.notes.iter().for_each(|note| output::note(&format!("quorate: {note}")));
    Ok(if answer.yes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn execute(
    config: Arc<ClusterConfig>,
    key: SigningKey,
    arguments: &KvArguments,
    operations: &Vec<Operation>,
) -> anyhow::Result<Vec<OperationResult>> {
    let time = Duration::from_secs(arguments.timeout);
    let options = ClientOptions {
        home: ReplicaId(arguments.home),
        connect_deadline: time,
        answer_deadline: time,
        ..ClientOptions::default()
    };
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())
        .context("io_uring cannot be used; `quorate doctor` says why")?;
    runtime.block_on(async {
        let client = Client::connect(config, key, options).await?;
        let executed = client.execute(operations).await;
        client.close().await;
        Ok(executed?.1)
    })
}

/// What to print, what to say beside it, and whether the answer is yes.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    printed: Vec<u8>,
    notes: Vec<String>,
    yes: bool,
}

impl KvCommand {
    fn operations(&self) -> Result<Vec<Operation>, Failure> {
        let operation = match self {
            Self::Get { key, .. } => Operation::Get { key: bytes(key) },
            Self::Set { key, value, nx, xx, version } => Operation::Set {
                key: bytes(key),
                value: value_bytes(value)?,
                condition: match (nx, xx, version) {
                    (true, _, _) => Condition::Absent,
                    (_, true, _) => Condition::Present,
                    (_, _, Some(version)) => Condition::Version(*version),
                    _ => Condition::Always,
                },
            },
            Self::Del { keys } => {
                return Ok(keys.iter().map(|key| Operation::Delete { key: bytes(key) }).collect());
            }
            Self::Exists { keys } => {
                return Ok(keys.iter().map(|key| Operation::Exists { key: bytes(key) }).collect());
            }
            Self::Incr { key, by } => Operation::IncrementBy { key: bytes(key), by: *by },
            Self::Append { key, value } => Operation::Append { key: bytes(key), value: value_bytes(value)? },
            Self::Mget { keys } => Operation::MultiGet { keys: keys.iter().map(bytes).collect() },
            Self::Mset { pairs } => Operation::MultiSet { entries: entries(pairs)? },
            Self::Scan { prefix, start, end, limit } => {
                let (start, end) = match prefix {
                    Some(prefix) => prefix_range(bytes(prefix)),
                    None => {
                        let given = |key: &Option<OsString>| key.as_ref().map(bytes).unwrap_or_default();
                        (given(start), given(end))
                    }
                };
                Operation::Scan { start, end, limit: *limit }
            }
        };
        Ok(vec![operation])
    }

    fn answer(&self, operations: &[Operation], results: &[OperationResult], versions: bool) -> Answer {
        let mut answer = Answer { printed: Vec::new(), notes: Vec::new(), yes: true };
        let mut existed = 0;
        for result in results {
            match result {
                OperationResult::Existed(true) => existed += 1,
                other => self.add_result(&mut answer, operations, other, versions),
            }
        }
        if matches!(self, Self::Del { .. } | Self::Exists { .. }) && answer.yes {
            answer.printed = format!("{existed}\n").into_bytes();
            answer.yes = matches!(self, Self::Del { .. }) || existed == results.len();
        }
        answer
    }

    fn add_result(
        &self,
        answer: &mut Answer,
        operations: &[Operation],
        result: &OperationResult,
        versions: bool,
    ) {
        match result {
            OperationResult::Value(Some(found)) => match self {
                Self::Get { raw: true, .. } => answer.printed.extend_from_slice(&found.value),
                _ => answer.line(versions, found.version, &[&found.value]),
            },
            OperationResult::Value(None) => answer.say_no("the key does not exist".to_owned()),
            OperationResult::Written { version } => answer.line(versions, *version, &[b"OK"]),
            OperationResult::NotWritten { version: Some(version) } => {
                answer.say_no(format!("not written: the key exists with version {version}"));
            }
            OperationResult::NotWritten { version: None } => {
                answer.say_no("not written: the key does not exist".to_owned());
            }
            OperationResult::Existed(_) => {}
            OperationResult::Integer { value, version } => {
                answer.line(versions, *version, &[value.to_string().as_bytes()]);
            }
            OperationResult::Length { length, version } => {
                answer.line(versions, *version, &[length.to_string().as_bytes()]);
            }
            OperationResult::Values(values) => answer.add_values(operations, values, versions),
            OperationResult::Entries { entries, more } => {
                for entry in entries {
                    answer.line(versions, entry.version, &[&entry.key, b"\t", &entry.value]);
                }
                if let (true, Some(last)) = (more, entries.last()) {
                    let last = String::from_utf8_lossy(&last.key);
                    answer
                        .notes
                        .push(format!("more entries follow; raise --limit, or go on with --start '{last}'"));
                }
            }
            OperationResult::Error(error) => answer.say_no(error.to_string()),
            OperationResult::Registered => answer.say_no("the cluster answered something else".to_owned()),
        }
    }
}

impl Answer {
    fn line(&mut self, versions: bool, version: u64, parts: &[&[u8]]) {
        if versions {
            self.printed.extend_from_slice(format!("{version}\t").as_bytes());
        }
        parts.iter().for_each(|part| self.printed.extend_from_slice(part));
        self.printed.push(b'\n');
    }

    fn add_values(&mut self, operations: &[Operation], values: &[Option<Versioned>], versions: bool) {
        let Some(Operation::MultiGet { keys }) = operations.first() else { return };
        for (key, value) in keys.iter().zip(values) {
            match value {
                Some(found) => self.line(versions, found.version, &[key, b"\t", &found.value]),
                None => self.say_no(format!("the key {} does not exist", String::from_utf8_lossy(key))),
            }
        }
    }

    fn say_no(&mut self, note: String) {
        self.yes = false;
        self.notes.push(note);
    }
}

fn bytes(text: &OsString) -> Vec<u8> {
    text.clone().into_vec()
}

/// The value as given, or standard input for `-`; one byte over the limit is enough to be refused.
fn value_bytes(text: &OsString) -> anyhow::Result<Vec<u8>> {
    if text != "-" {
        return Ok(bytes(text));
    }
    let mut value = Vec::new();
    let most = limits::VALUE_BYTES_MAX as u64 + 1;
    std::io::stdin()
        .take(most)
        .read_to_end(&mut value)
        .context("cannot read the value from standard input")?;
    Ok(value)
}

fn entries(pairs: &[OsString]) -> Result<Vec<KeyValue>, Failure> {
    if !pairs.len().is_multiple_of(2) {
        let count = pairs.len();
        let problem = format!("mset: {count} arguments are no pairs; give a value after each key");
        return Err(Failure::usage(problem));
    }
    Ok(pairs.chunks_exact(2).map(|pair| KeyValue { key: bytes(&pair[0]), value: bytes(&pair[1]) }).collect())
}

/// From the prefix to the first key behind all that begin with it; an empty end is no end.
fn prefix_range(prefix: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut end = prefix.clone();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    (prefix, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use quorate_types::VersionedEntry;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        arguments: KvArguments,
    }

    fn parse(line: &str) -> Result<KvArguments, clap::Error> {
        let words = std::iter::once("kv").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.arguments)
    }

    fn answer(line: &str, results: &[OperationResult]) -> (String, String, bool) {
        let arguments = parse(line).unwrap();
        let operations = arguments.command.operations().unwrap();
        let answer = arguments.command.answer(&operations, results, arguments.versions);
        (String::from_utf8(answer.printed).unwrap(), answer.notes.join("; "), answer.yes)
    }

    fn found(value: &str, version: u64) -> Versioned {
        Versioned { value: value.into(), version }
    }

    #[test]
    fn a_prefix_is_a_range_also_at_the_end_of_all_keys() {
        assert_eq!(prefix_range(b"ab".to_vec()), (b"ab".to_vec(), b"ac".to_vec()));
        assert_eq!(prefix_range(b"a\xff\xff".to_vec()), (b"a\xff\xff".to_vec(), b"b".to_vec()));
        assert_eq!(prefix_range(b"\xff".to_vec()), (b"\xff".to_vec(), vec![]));
        assert_eq!(prefix_range(vec![]), (vec![], vec![]));
    }

    #[test]
    fn conditions_exclude_each_other_and_negative_numbers_are_no_flags() {
        assert!(parse("set k v --nx --xx").is_err());
        assert!(parse("set k v --nx --version 3").is_err());
        assert!(parse("scan --prefix a --start b").is_err());
        assert!(parse("mset a 1 b -2 --timeout 3").is_ok());
        let operations = parse("set k --nx -v").unwrap().command.operations().unwrap();
        let absent = Condition::Absent;
        let expected = Operation::Set { key: b"k".to_vec(), value: b"-v".to_vec(), condition: absent };
        assert_eq!(operations, [expected]);
        let operations = parse("incr k -5").unwrap().command.operations().unwrap();
        assert_eq!(operations, [Operation::IncrementBy { key: b"k".to_vec(), by: -5 }]);
        let operations = parse("set k v --version 3").unwrap().command.operations().unwrap();
        assert!(matches!(operations[0], Operation::Set { condition: Condition::Version(3), .. }));
        assert!(matches!(parse("mset a 1 b").unwrap().command.operations(), Err(Failure::Usage(_))));
    }

    #[test]
    fn answers_print_values_and_say_no() {
        let value = |found| [OperationResult::Value(found)];
        assert_eq!(answer("get k", &value(Some(found("v", 7)))), ("v\n".into(), String::new(), true));
        assert_eq!(answer("get k --versions", &value(Some(found("v", 7)))).0, "7\tv\n");
        assert_eq!(answer("get k --raw", &value(Some(found("v", 7)))).0, "v");
        assert_eq!(answer("get k", &value(None)), (String::new(), "the key does not exist".into(), false));
        let written = [OperationResult::Written { version: 9 }];
        assert_eq!(answer("--versions set k v", &written).0, "9\tOK\n");
        let refused = answer("set k v --nx", &[OperationResult::NotWritten { version: Some(4) }]);
        assert!(refused.1.contains("version 4") && !refused.2, "{refused:?}");
        let two = [OperationResult::Existed(true), OperationResult::Existed(false)];
        assert_eq!(answer("del a b", &two), ("1\n".into(), String::new(), true));
        assert_eq!(answer("exists a b", &two), ("1\n".into(), String::new(), false));
        let values = [OperationResult::Values(vec![Some(found("1", 2)), None])];
        assert_eq!(answer("mget a b", &values), ("a\t1\n".into(), "the key b does not exist".into(), false));
        let entry = VersionedEntry { key: b"a".to_vec(), value: b"1".to_vec(), version: 2 };
        let entries = [OperationResult::Entries { entries: vec![entry], more: true }];
        let scanned = answer("--versions scan", &entries);
        assert!(scanned.0 == "2\ta\t1\n" && scanned.1.contains("--start 'a'") && scanned.2, "{scanned:?}");
    }
}
