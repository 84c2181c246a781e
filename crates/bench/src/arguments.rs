//! The flags of `quorate bench` and of its subcommands, and their check.

use crate::schedule::{Arrival, Rate};
use crate::workload::{APPEND_BYTES_MAX, OperationKind, SCAN_ENTRIES};
use crate::{Distribution, Mix, ValueSize};
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use quorate_types::limits;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The bytes of every key.
pub(crate) const KEY_BYTES: usize = 16;
/// More than an archived SET adds to its key and value, and a result to its value.
const OPERATION_BYTES: usize = 64;
const CLIENTS_MAX: usize = 1024;
const KEYS_MAX: u64 = 1 << 40;
const RATE_MAX: f64 = 1e9;
const RUNS_MAX: usize = 1000;
/// As many intervals as are kept in memory; each is a row of the time series.
const INTERVALS_MAX: f64 = 10_000.0;
/// The bundles that a client of a closed loop keeps open by default.
const DEPTH_CLOSED: usize = 16;

/// How to load which cluster. Without `--cluster` a local one is started.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadArguments {
    /// Number of clients, each with a session of its own. Their home replicas are spread over the cluster.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub clients: usize,
    /// Number of bundles that each client has open at most. A closed loop always has so many open, by default
    /// 16; 1 with `--clients 1 --bundle 1` measures latency. With a rate, what is due beyond that waits in the
    /// client; the default is then 64, as many as a session may have.
    #[arg(long, value_name = "N")]
    pub depth: Option<usize>,
    /// Number of operations in each bundle; they are signed together.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub bundle: usize,
    /// How long to measure, in seconds; for a sweep, how long at each rate.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// How long to load before measuring, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub warmup: f64,
    /// Length of a row of the time series and of the steps in which progress is shown, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub interval: f64,
    /// Length of the values that are written, in bytes or with a unit, as in `16K`; a range as in `64..1K` makes all of
    /// it equally likely.
    #[arg(long, value_name = "BYTES", default_value = "100")]
    pub value_size: ValueSize,
    /// Number of different keys, each 16 bytes. They are not written beforehand.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub keys: u64,
    /// Which of the keys are likely.
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub distribution: Distribution,
    /// Weights of the kinds of operations, as in `set=50,get=40,incr=5,append=1,del=2,scan=2`. INCR has keys of
    /// its own, APPEND adds at most 64 bytes, and SCAN asks for 10 entries.
    #[arg(long, value_name = "KIND=WEIGHT,…", default_value = "set=100")]
    pub mix: Mix,
    /// How bundles arrive when there is a rate; without one they arrive when others are complete.
    #[arg(long, value_enum, default_value_t = Arrival::Constant)]
    pub arrival: Arrival,
    /// What an acknowledgement promises on the local cluster.
    #[arg(long, value_enum, default_value_t = Durability::Sync, conflicts_with = "cluster")]
    pub durability: Durability,
    /// Seed of keys, values and arrivals: the same seed and clients give the same operations.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Number of replicas of the local cluster.
    #[arg(long, value_name = "N", default_value_t = 4, conflicts_with = "cluster")]
    pub replicas: usize,
    /// Loads the running cluster that this `cluster.toml` describes.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cluster: Option<PathBuf>,
    /// Secret key of a client of that cluster; may be given more than once, and clients take turns.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub key: Vec<PathBuf>,
    /// Number of threads that generate load. One is enough for about a million operations in bundles of 100.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// CPUs to which the load threads are pinned in turn, as in `2,3`. By default the kernel places them.
    #[arg(long, value_name = "CPU,…", value_delimiter = ',')]
    pub client_cores: Vec<usize>,
    /// Number of replicas that may be down or not report without failing the run; it says which were.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub allow_down: usize,
    /// Writes everything that was measured into this directory, among it a page for the browser.
    #[arg(long, value_name = "DIRECTORY")]
    pub out: Option<PathBuf>,
}

/// What `quorate bench` may be told.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchArguments {
    /// How to load which cluster.
    #[command(flatten)]
    #[serde(flatten)]
    pub load: LoadArguments,
    /// Open loop: operations per second of all clients together, sent on a schedule that is fixed beforehand.
    /// Latency then counts from when a bundle should have been sent. Without a rate the loop is closed.
    #[arg(long, value_name = "OPERATIONS/S")]
    pub rate: Option<f64>,
    /// How often to measure, one after the other; the results have each run, and least, median and most.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub runs: usize,
    /// Writes the results to this file as JSON, as in `summary.json` of `--out`.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// What is acknowledged is on the disks of a quorum.
    Sync,
    /// Nothing waits for a disk: a loss of power may cost what was acknowledged last.
    Async,
}

impl Durability {
    /// The word in configuration files and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }
}

impl LoadArguments {
    fn check(&self) -> anyhow::Result<()> {
        within("--clients", self.clients, CLIENTS_MAX)?;
        within("--depth", self.depth.unwrap_or(1), limits::OPEN_BUNDLES_MAX)?;
        within("--bundle", self.bundle, limits::BUNDLE_OPERATIONS_MAX)?;
        within("--replicas", self.replicas, limits::REPLICAS_MAX)?;
        within("--threads", self.threads, self.clients).context("a thread needs at least one client")?;
        ensure!((1..=KEYS_MAX).contains(&self.keys), "--keys {}: use 1 to {KEYS_MAX}", self.keys);
        self.mix.check_appends()?;
        self.check_bundle()?;
        self.check_cores()?;
        seconds("--duration", self.duration, 0.1)?;
        seconds("--warmup", self.warmup, 0.0)?;
        seconds("--interval", self.interval, 0.1)
    }

    /// Neither a bundle nor its results may be longer than is allowed.
    fn check_bundle(&self) -> anyhow::Result<()> {
        let (bundle, size) = (self.bundle, self.value_size);
        ensure!(
            size.most <= limits::VALUE_BYTES_MAX,
            "--value-size {size}: use at most {} bytes",
            limits::VALUE_BYTES_MAX
        );
        let one = OPERATION_BYTES + KEY_BYTES + size.most;
        let bytes = bundle * one;
        ensure!(
            bytes <= limits::BUNDLE_BYTES_MAX,
            "--bundle {bundle} with --value-size {size} makes bundles of up to {bytes} bytes; the limit is {}: use \
             a smaller bundle or value",
            limits::BUNDLE_BYTES_MAX
        );
        let scans = self.scans_max();
        // A value may have been appended to a few times.
        let entry = one + 4 * APPEND_BYTES_MAX;
        let results = scans * SCAN_ENTRIES as usize * entry + (bundle - scans) * one;
        ensure!(
            scans == 0 || results <= limits::RESULTS_BYTES_MAX,
            "--bundle {bundle} with --value-size {size} and --mix {} makes results of up to {results} bytes; the \
             limit is {}: use a smaller bundle or value, or fewer scans",
            self.mix,
            limits::RESULTS_BYTES_MAX
        );
        Ok(())
    }

    /// As many SCANs as practically never come in one bundle: eight standard deviations above the mean.
    fn scans_max(&self) -> usize {
        let mean = self.bundle as f64 * self.mix.share(OperationKind::Scan);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and a small multiple of the bundle"
        )]
        let most = (mean + 8.0 * mean.sqrt()).ceil() as usize;
        most.min(self.bundle)
    }

    fn check_cores(&self) -> anyhow::Result<()> {
        for cpu in &self.client_cores {
            ensure!(
                *cpu < rustix::thread::CpuSet::MAX_CPU,
                "--client-cores {cpu}: use numbers of CPUs of this machine, as in /proc/cpuinfo"
            );
        }
        Ok(())
    }
}

impl BenchArguments {
    /// Refuses what cannot work; each message names the flag, the value and the remedy.
    pub fn check(&self) -> anyhow::Result<()> {
        self.load.check()?;
        within("--runs", self.runs, RUNS_MAX)?;
        if let Some(rate) = self.rate {
            check_rate("--rate", rate)?;
        }
        let intervals = self.load.duration / self.load.interval * self.runs as f64;
        ensure!(
            intervals <= INTERVALS_MAX,
            "--interval {} makes {intervals:.0} rows; the limit is {INTERVALS_MAX}: use a longer interval",
            self.load.interval
        );
        Ok(())
    }

    /// The same with what depends on other flags filled in.
    #[must_use]
    pub(crate) fn resolved(&self) -> Self {
        let mut resolved = self.clone();
        resolved.load.depth = Some(self.depth());
        resolved
    }

    /// How many bundles a client has open at most.
    pub(crate) fn depth(&self) -> usize {
        let default = if self.rate.is_some() { limits::OPEN_BUNDLES_MAX } else { DEPTH_CLOSED };
        self.load.depth.unwrap_or(default)
    }

    /// The arrivals of an open loop.
    pub(crate) fn arrivals(&self) -> Option<Rate> {
        let load = &self.load;
        let (arrival, bundle, clients, seed) = (load.arrival, load.bundle, load.clients, load.seed);
        self.rate.map(|operations_per_s| Rate { arrival, operations_per_s, bundle, clients, seed })
    }
}

pub(crate) fn check_rate(flag: &str, rate: f64) -> anyhow::Result<()> {
    ensure!((0.001..=RATE_MAX).contains(&rate), "{flag} {rate}: use 0.001 to {RATE_MAX} operations/s");
    Ok(())
}

fn within(flag: &str, value: usize, limit: usize) -> anyhow::Result<()> {
    ensure!((1..=limit).contains(&value), "{flag} {value}: use 1 to {limit}");
    Ok(())
}

fn seconds(flag: &str, value: f64, least: f64) -> anyhow::Result<()> {
    const MOST: f64 = 86_400.0;
    ensure!((least..=MOST).contains(&value), "{flag} {value}: use {least} to {MOST} seconds");
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser, Debug)]
    pub(crate) struct Command {
        #[command(flatten)]
        pub(crate) arguments: BenchArguments,
    }

    pub(crate) fn parse(line: &str) -> Result<BenchArguments, clap::Error> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Ok(Command::try_parse_from(words)?.arguments)
    }

    fn complaint(line: &str) -> String {
        format!("{:#}", parse(line).unwrap().check().unwrap_err())
    }

    #[test]
    fn the_defaults_are_the_main_job_and_every_flag_is_documented() {
        Command::command().debug_assert();
        let arguments = parse("").unwrap();
        arguments.check().unwrap();
        assert!(arguments.arrivals().is_none(), "a closed loop");
        let load = &arguments.load;
        assert_eq!((load.bundle, load.value_size.to_string(), load.replicas), (100, "100".to_owned(), 4));
        for argument in Command::command().get_arguments() {
            assert!(argument.get_help().is_some(), "{argument}");
        }
    }

    #[test]
    fn the_depth_depends_on_the_kind_of_loop() {
        assert_eq!(parse("").unwrap().resolved().load.depth, Some(16));
        assert_eq!(parse("--rate 5").unwrap().resolved().load.depth, Some(64));
        assert_eq!(parse("--rate 5 --depth 3").unwrap().depth(), 3);
    }

    #[test]
    fn what_cannot_work_is_refused_with_flag_value_and_remedy() {
        assert!(complaint("--clients 0").contains("--clients 0: use 1 to 1024"));
        assert!(complaint("--depth 65").contains("--depth 65: use 1 to 64"));
        assert!(complaint("--bundle 10001").contains("--bundle 10001: use 1 to 10000"));
        assert!(complaint("--replicas 101").contains("--replicas 101: use 1 to 100"));
        assert!(complaint("--threads 5").contains("--threads 5: use 1 to 4"));
        assert!(complaint("--value-size 262145").contains("--value-size 262145"));
        assert!(complaint("--value-size 64..20000").contains("use a smaller bundle or value"));
        assert!(complaint("--mix scan=1 --value-size 1000").contains("or fewer scans"));
        assert!(complaint("--mix append=1").contains("without bound"));
        assert!(complaint("--keys 0").contains("--keys 0"));
        assert!(complaint("--rate 0").contains("--rate 0: use 0.001 to"));
        assert!(complaint("--rate NaN").contains("--rate NaN"));
        assert!(complaint("--runs 0").contains("--runs 0: use 1 to 1000"));
        assert!(complaint("--duration 0").contains("--duration 0: use 0.1 to"));
        assert!(complaint("--warmup=-1").contains("--warmup -1: use 0 to"));
        assert!(complaint("--interval 0.01").contains("--interval 0.01: use 0.1 to"));
        assert!(complaint("--interval 0.1 --duration 2000").contains("makes 20000 rows"));
        assert!(complaint("--client-cores 0,5000").contains("--client-cores 5000"));
        assert!(parse("--mix put=1").unwrap_err().to_string().contains("there is no kind `put`"));
        assert!(parse("--value-size 9..3").is_err());
    }

    /// Both ends of each range that a refusal names are accepted.
    #[test]
    fn what_is_advised_is_taken() {
        let others = [("--value-size", "1"), ("--interval", "100")];
        for wrong in [
            ("--clients", "0"),
            ("--depth", "65"),
            ("--bundle", "10001"),
            ("--replicas", "101"),
            ("--threads", "5"),
            ("--keys", "0"),
            ("--runs", "0"),
            ("--rate", "0"),
            ("--duration", "0"),
            ("--warmup", "-1"),
            ("--interval", "0.01"),
        ] {
            let flag = wrong.0;
            let beside = others.iter().filter(|(other, _)| *other != flag);
            let beside: String = beside.map(|(other, value)| format!(" {other}={value}")).collect();
            let told = complaint(&format!("{flag}={}{beside}", wrong.1));
            let (least, most) = told.split_once(": use ").unwrap().1.split_once(" to ").unwrap();
            for advised in [least, most.split(' ').next().unwrap()] {
                let line = format!("{flag}={advised}{beside}");
                parse(&line).unwrap().check().unwrap_or_else(|error| panic!("{line}: {error:#}"));
            }
        }
    }

    #[test]
    fn the_mix_of_all_kinds_works_with_ordinary_bundles() {
        let line = "--mix set=50,get=40,incr=5,append=1,del=2,scan=2 --value-size 64..1024";
        parse(line).unwrap().check().unwrap();
    }

    #[test]
    fn a_running_cluster_needs_a_key_and_has_its_own_size() {
        assert!(parse("--cluster c.toml --key a --key b").unwrap().check().is_ok());
        assert!(parse("--cluster c.toml").is_err());
        assert!(parse("--key a").is_err());
        assert!(parse("--cluster c.toml --key a --replicas 7").is_err());
        assert!(parse("--durability memory").is_err());
    }

    #[test]
    fn arguments_survive_their_json() {
        let line = "--rate 1000 --arrival poisson --mix get=1,set=2 --value-size 64..128 --client-cores 0,1";
        let arguments = parse(line).unwrap().resolved();
        let text = serde_json::to_string(&arguments).unwrap();
        assert_eq!(serde_json::from_str::<BenchArguments>(&text).unwrap(), arguments);
    }
}
