//! `quorate kv`: single operations on a cluster.

mod answer;
mod pages;
mod printer;
mod text;

use crate::cluster_arguments::ClusterArguments;
use crate::failure::{Failure, NO};
use crate::output;
use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand, ValueEnum};
use pages::Range;
use printer::{FormatArguments, Printer};
use quorate_client::{Client, ClientOptions};
use quorate_types::{Condition, KeyValue, Operation, OperationError, ReplicaId, limits};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::time::Duration;

const AFTER_HELP: &str = "\
Every operation is ordered by the cluster and answered by f + 1 replicas alike. Keys have up to 1 KiB, values \
up to 256 KiB. A value given as `-` is read from standard input, byte for byte. Each command is signed with \
the key of a client.

A version is the number of a write in the order of all writes: each write gets its own, and none is given \
twice. What was read with version 12 is overwritten by `set --version 12` only while it is still there.

On a terminal, keys and values are printed escaped (\\t, \\n, \\r, \\\\ and \\xHH), so that they can do \
nothing to it; into a pipe or a file they go as they are. Where keys may hold tabs or newlines, use --escape, \
-0 or --json. `--input escaped` and `--input base64` take keys and values as --escape and --json print them.

`scan` and `mget` go on, page by page, until all is printed. What one answer holds (1 MiB, 10000 entries, 1024 \
keys) is read at one moment; between two pages others may write.

Exit codes:
  0  done, and the answer is yes
  1  this program failed: no io_uring, output that cannot be written
  2  wrong usage or configuration; nothing was sent
  4  the answer is no: a key is absent (get, mget, exists), a condition does not hold (set)
  5  not done, and it will not be, for the reason given: no integer, too long, no room
  6  unknown: sent, but not answered alike in time, or the answer is gone; a write may be done, or be done later
  7  unreachable: no quorum was connected, or it opened no session; nothing was done

Examples:
  quorate kv set greeting hello
  quorate kv get greeting
  quorate kv get greeting --versions         prints the version, a tab and the value
  quorate kv set greeting hi --version 12    only if nobody has written it since version 12
  quorate kv incr visits 5
  quorate kv mset a 1 b 2
  quorate kv scan --prefix user: --limit 10
  quorate kv scan --prefix user: --after user:17
  quorate kv scan --json > all.jsonl         every key, one object a line
  quorate kv scan -0 | xargs -0 -n 2 echo    for keys and values with spaces or newlines
  quorate kv --input escaped set 'a\\tb' 'two\\nlines'
  quorate kv set -- -key -value              keys and values that begin with a hyphen
  quorate kv set photo - < photo.jpg; quorate kv get --raw photo > copy.jpg
  quorate kv get lock; case $? in 0) echo taken;; 4) echo free;; *) echo ask again;; esac";

/// Read and write keys.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct KvArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How long to wait for the connections, and then for each answer, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// The replica that gets the request first. When it does not answer, the next one gets it.
    #[arg(long, global = true, value_name = "REPLICA", default_value_t = 0)]
    home: u8,
    /// How keys and values are written on the command line.
    #[arg(long, global = true, value_name = "FORM", value_enum, default_value_t = Input::Plain)]
    input: Input,
    #[command(flatten)]
    format: FormatArguments,
    #[command(subcommand)]
    command: KvCommand,
}

/// How keys and values are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Input {
    /// As they are.
    Plain,
    /// With \t, \n, \r, \\ and \xHH for bytes that are hard to type, as --escape prints them.
    Escaped,
    /// In base64, as --json prints what is not UTF-8.
    Base64,
}

#[derive(Subcommand, Debug)]
enum KvCommand {
    /// Print the value of a key. Exit code 4 when the key is absent.
    Get {
        /// The key.
        key: OsString,
    },
    /// Write a key. Exit code 4 when a condition was given and did not hold.
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
        /// Write only if the key has exactly this version: nobody has written it since.
        #[arg(long, value_name = "VERSION", group = "condition")]
        version: Option<u64>,
    },
    /// Remove keys and print how many there were.
    Del {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Print how many of the keys exist. Exit code 4 unless all do.
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
    /// Print the values of several keys, each after its key and a tab. Exit code 4 when one is absent.
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
        /// Only keys above this one: where a scan with --limit ended.
        #[arg(long, value_name = "KEY")]
        after: Option<OsString>,
        /// The key after the last. [default: to the end]
        #[arg(long, value_name = "KEY")]
        end: Option<OsString>,
        /// The most entries to print. [default: all]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
}

/// What a command asks of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Work {
    /// One operation.
    One(Operation),
    /// An operation on each of several keys, which says whether the key existed; the name of their number.
    Each(&'static str, Vec<Operation>),
    /// Values of keys.
    Read(Vec<Vec<u8>>),
    /// Entries of a range; nothing if no key can be in it.
    Scan(Option<Range>),
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
    let work = arguments.command.work(arguments.input)?;
    let time = Duration::from_secs(arguments.timeout);
    let options = ClientOptions {
        home: ReplicaId(arguments.home),
        connect_deadline: time,
        answer_deadline: time,
        ..ClientOptions::default()
    };
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())
        .context("io_uring cannot be used; `quorate doctor` says why")?;
    let mut printer = Printer::to_stdout(arguments.format);
    let yes = runtime.block_on(async {
        let client = Client::connect(config, key, options).await.map_err(Failure::of_client)?;
        let done = carry_out(&client, work, &mut printer).await;
        client.close().await;
        done
    })?;
    Ok(if yes { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

/// Does what was asked and prints what came of it; whether the answer is a yes.
async fn carry_out<W: Write>(client: &Client, work: Work, printer: &mut Printer<W>) -> Result<bool, Failure> {
    let mut yes = true;
    match work {
        Work::One(operation) => {
            let results = answer::execute(client, vec![operation.clone()]).await?;
            if let Some(no) = answer::print_one(&operation, &results, printer)? {
                yes = false;
                note(&no);
            }
        }
        Work::Each(name, operations) => {
            let must_exist = matches!(operations.first(), Some(Operation::Exists { .. }));
            let results = answer::execute(client, operations).await?;
            yes = answer::print_existed(name, &results, printer)? || !must_exist;
        }
        Work::Read(keys) => {
            let found = pages::read(client, keys, printer).await?;
            yes = found.absent.is_empty();
            for key in &found.absent {
                note(&format!("the key {} does not exist", text::escape(key)));
            }
            if found.pages > 1 {
                note(&format!("the values are of {} moments: one answer does not hold all", found.pages));
            }
        }
        Work::Scan(None) => {}
        Work::Scan(Some(range)) => {
            if let Some(last) = pages::scan(client, range, printer).await? {
                note(&format!("more entries follow; raise --limit, or go on with {}", after(&last)));
            }
        }
    }
    printer.flush()?;
    Ok(yes)
}

fn note(text: &str) {
    output::note(&format!("quorate: {text}"));
}

/// The flags with which a scan goes on above a key, as they are typed.
fn after(key: &[u8]) -> String {
    let escaped = text::escape(key);
    let input = if escaped.as_bytes() == key { "" } else { "--input escaped " };
    format!("{input}--after={}", text::shell_word(&escaped))
}

impl KvCommand {
    fn work(&self, input: Input) -> Result<Work, Failure> {
        let key = |text: &OsString| input.key(text);
        let keys = |texts: &[OsString]| texts.iter().map(key).collect::<Result<Vec<_>, _>>();
        Ok(match self {
            Self::Get { key: name } => Work::One(Operation::Get { key: key(name)? }),
            Self::Set { key: name, value, nx, xx, version } => Work::One(Operation::Set {
                key: key(name)?,
                value: input.value(value)?,
                condition: match (nx, xx, version) {
                    (true, _, _) => Condition::Absent,
                    (_, true, _) => Condition::Present,
                    (_, _, Some(version)) => Condition::Version(*version),
                    _ => Condition::Always,
                },
            }),
            Self::Del { keys: names } => {
                let delete = |key| Operation::Delete { key };
                Work::Each("removed", keys(names)?.into_iter().map(delete).collect())
            }
            Self::Exists { keys: names } => {
                let exists = |key| Operation::Exists { key };
                Work::Each("existing", keys(names)?.into_iter().map(exists).collect())
            }
            Self::Incr { key: name, by } => Work::One(Operation::IncrementBy { key: key(name)?, by: *by }),
            Self::Append { key: name, value } => {
                Work::One(Operation::Append { key: key(name)?, value: input.value(value)? })
            }
            Self::Mget { keys: names } => Work::Read(keys(names)?),
            Self::Mset { pairs } => Work::One(Operation::MultiSet { entries: input.entries(pairs)? }),
            Self::Scan { prefix, start, after, end, limit } => {
                let given = |text: &Option<OsString>| text.as_ref().map(key).transpose();
                let range = match given(prefix)? {
                    Some(prefix) => Range::of_prefix(prefix),
                    None => Range {
                        start: given(start)?.unwrap_or_default(),
                        end: given(end)?.unwrap_or_default(),
                        limit: None,
                    },
                };
                let range = Range { limit: *limit, ..range };
                Work::Scan(match given(after)? {
                    Some(after) => range.above(&after),
                    None => Some(range),
                })
            }
        })
    }
}

impl Input {
    fn bytes(self, text: &OsString) -> Result<Vec<u8>, Failure> {
        let given = text.clone().into_vec();
        let decoded = match self {
            Self::Plain => return Ok(given),
            Self::Escaped => text::unescape(&given),
            Self::Base64 => STANDARD.decode(&given).map_err(|error| format!("it is no base64: {error}")),
        };
        decoded.map_err(|problem| {
            let given = text::escape(&given);
            Failure::usage(format!("{given}: {problem}; without --input it is taken as it stands"))
        })
    }

    /// A key. One that is too long is refused here, before other operations of the command are done.
    fn key(self, text: &OsString) -> Result<Vec<u8>, Failure> {
        let key = self.bytes(text)?;
        if key.len() > limits::KEY_BYTES_MAX {
            return Err(Failure::NotDone(OperationError::KeyTooLong { bytes: key.len() as u64 }.to_string()));
        }
        Ok(key)
    }

    /// The value as given, or standard input for `-`; one byte over the limit is enough to be refused.
    fn value(self, text: &OsString) -> Result<Vec<u8>, Failure> {
        if text != "-" {
            return self.bytes(text);
        }
        let mut value = Vec::new();
        let most = limits::VALUE_BYTES_MAX as u64 + 1;
        std::io::stdin()
            .take(most)
            .read_to_end(&mut value)
            .context("cannot read the value from standard input")?;
        Ok(value)
    }

    fn entries(self, pairs: &[OsString]) -> Result<Vec<KeyValue>, Failure> {
        if !pairs.len().is_multiple_of(2) {
            let count = pairs.len();
            let problem = format!("mset: {count} arguments are no pairs; give a value after each key");
            return Err(Failure::usage(problem));
        }
        if pairs.iter().skip(1).step_by(2).filter(|value| *value == "-").count() > 1 {
            let problem = "mset: more than one value is `-`, and standard input is read once";
            return Err(Failure::usage(problem.to_owned()));
        }
        let entry =
            |pair: &[OsString]| Ok(KeyValue { key: self.key(&pair[0])?, value: self.value(&pair[1])? });
        pairs.chunks_exact(2).map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        arguments: KvArguments,
    }

    fn parse(line: &str) -> Result<KvArguments, clap::Error> {
        let words = std::iter::once("kv").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.arguments)
    }

    fn work(line: &str) -> Result<Work, Failure> {
        let arguments = parse(line).unwrap();
        arguments.command.work(arguments.input)
    }

    fn one(line: &str) -> Operation {
        let Ok(Work::One(operation)) = work(line) else { panic!("{line}: one operation") };
        operation
    }

    fn range(line: &str) -> Option<Range> {
        let Ok(Work::Scan(range)) = work(line) else { panic!("{line}: a range") };
        range
    }

    #[test]
    fn conditions_exclude_each_other_and_negative_numbers_are_no_flags() {
        let two_conditions = ["set k v --nx --xx", "set k v --nx --version 3"];
        let two_starts = ["scan --prefix a --start b", "scan --prefix a --end b", "scan --limit 0"];
        let two_forms = ["get k --json --raw", "get k -0 --escape"];
        for wrong in two_conditions.iter().chain(&two_starts).chain(&two_forms) {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("mset a 1 b -2 --timeout 3").is_ok());
        let expected =
            Operation::Set { key: b"k".to_vec(), value: b"-v".to_vec(), condition: Condition::Absent };
        assert_eq!(one("set k --nx -v"), expected);
        assert_eq!(one("incr k -5"), Operation::IncrementBy { key: b"k".to_vec(), by: -5 });
        assert!(matches!(
            one("set k v --version 3"),
            Operation::Set { condition: Condition::Version(3), .. }
        ));
        assert!(matches!(work("mset a 1 b"), Err(Failure::Usage(_))));
        assert!(matches!(work("mset a - b -"), Err(Failure::Usage(_))));
    }

    #[test]
    fn keys_and_values_may_be_given_escaped_or_in_base64() {
        let expected = Operation::Get { key: b"a\tb\xff".to_vec() };
        assert_eq!(one(r"--input escaped get a\tb\xff"), expected);
        assert_eq!(one("get --input base64 YQli/w=="), expected);
        assert_eq!(one(r"get a\tb"), Operation::Get { key: br"a\tb".to_vec() });
        for wrong in [r"--input escaped get a\q", "--input base64 get a", "--input base64 set YQ== !"] {
            assert!(matches!(work(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn a_key_that_is_too_long_stops_the_whole_command() {
        let line = format!("del a {}", "k".repeat(limits::KEY_BYTES_MAX + 1));
        assert!(matches!(work(&line), Err(Failure::NotDone(reason)) if reason.contains("1025 bytes")));
    }

    #[test]
    fn a_scan_goes_on_with_what_it_said() {
        assert_eq!(after(b"user:1"), "--after='user:1'");
        assert_eq!(after(b"a\tb'"), r"--input escaped --after='a\tb'\'''");
        let rest = range("scan --prefix user: --after user:1 --limit 7").unwrap();
        assert_eq!((rest.start, rest.end, rest.limit), (b"user:1\0".to_vec(), b"user;".to_vec(), Some(7)));
        assert_eq!(range("scan --end b --after c"), None);
    }
}
