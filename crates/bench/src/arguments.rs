//! The flags of `quorate bench`, and their check.

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use quorate_types::limits;
use serde::Serialize;
use std::path::PathBuf;

/// The bytes of every key.
pub(crate) const KEY_BYTES: usize = 16;
/// More than an archived SET adds to its key and value.
const OPERATION_BYTES: usize = 64;
const CLIENTS_MAX: usize = 1024;
const KEYS_MAX: u64 = 1 << 40;

/// What `quorate bench` may be told. Without `--cluster` it starts a local cluster of its own.
#[derive(Args, Clone, Debug, Serialize)]
pub struct BenchArguments {
    /// Number of clients, each with a session of its own. Their home replicas are spread over the cluster.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub clients: usize,
    /// Number of bundles that each client keeps open. 1 with `--clients 1 --bundle 1` measures latency.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub depth: usize,
    /// Number of operations in each bundle; they are signed together.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub bundle: usize,
    /// How long to measure, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// How long to load before measuring, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub warmup: f64,
    /// Length of the values that are written, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub value_size: usize,
    /// Number of different keys, each 16 bytes; all are equally likely.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub keys: u64,
    /// Share of operations that are GETs, from 0 to 1. The others are SETs. Keys are not written beforehand.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub read_ratio: f64,
    /// What an acknowledgement promises on the local cluster.
    #[arg(long, value_enum, default_value_t = Durability::Memory, conflicts_with = "cluster")]
    pub durability: Durability,
    /// Seed of keys and values: the same seed and clients give the same operations.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Writes the results to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
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
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Nothing is on disk: what f+1 replicas that stop together held is lost.
    Memory,
}

impl Durability {
    /// The word in configuration files and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
        }
    }
}

impl BenchArguments {
    /// Refuses what cannot work; each message names the flag, the value and the remedy.
    pub fn check(&self) -> anyhow::Result<()> {
        within("--clients", self.clients, CLIENTS_MAX)?;
        within("--depth", self.depth, limits::OPEN_BUNDLES_MAX)?;
        within("--bundle", self.bundle, limits::BUNDLE_OPERATIONS_MAX)?;
        within("--replicas", self.replicas, limits::REPLICAS_MAX)?;
        within("--threads", self.threads, self.clients).context("a thread needs at least one client")?;
        ensure!(
            self.value_size <= limits::VALUE_BYTES_MAX,
            "--value-size {}: use at most {} bytes",
            self.value_size,
            limits::VALUE_BYTES_MAX
        );
        let bytes = self.bundle * (OPERATION_BYTES + KEY_BYTES + self.value_size);
        ensure!(
            bytes <= limits::BUNDLE_BYTES_MAX,
            "--bundle {} with --value-size {} makes bundles of up to {bytes} bytes; the limit is {}: use a smaller \
             bundle or value",
            self.bundle,
            self.value_size,
            limits::BUNDLE_BYTES_MAX
        );
        ensure!((1..=KEYS_MAX).contains(&self.keys), "--keys {}: use 1 to {KEYS_MAX}", self.keys);
        ensure!((0.0..=1.0).contains(&self.read_ratio), "--read-ratio {}: use 0 to 1", self.read_ratio);
        seconds("--duration", self.duration, 0.1)?;
        seconds("--warmup", self.warmup, 0.0)
    }
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
        assert_eq!((arguments.bundle, arguments.value_size, arguments.replicas), (100, 100, 4));
        for argument in Command::command().get_arguments() {
            assert!(argument.get_help().is_some(), "{argument}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_flag_value_and_remedy() {
        assert!(complaint("--clients 0").contains("--clients 0: use 1 to 1024"));
        assert!(complaint("--depth 65").contains("--depth 65: use 1 to 64"));
        assert!(complaint("--bundle 10001").contains("--bundle 10001: use 1 to 10000"));
        assert!(complaint("--replicas 101").contains("--replicas 101: use 1 to 100"));
        assert!(complaint("--threads 5").contains("--threads 5: use 1 to 4"));
        assert!(complaint("--value-size 262145").contains("--value-size 262145"));
        assert!(complaint("--value-size 20000").contains("use a smaller bundle or value"));
        assert!(complaint("--keys 0").contains("--keys 0"));
        assert!(complaint("--read-ratio 1.5").contains("--read-ratio 1.5: use 0 to 1"));
        assert!(complaint("--read-ratio NaN").contains("--read-ratio NaN"));
        assert!(complaint("--duration 0").contains("--duration 0: use 0.1 to"));
        assert!(complaint("--warmup=-1").contains("--warmup -1: use 0 to"));
    }

    #[test]
    fn a_running_cluster_needs_a_key_and_has_its_own_size() {
        assert!(parse("--cluster c.toml --key a --key b").unwrap().check().is_ok());
        assert!(parse("--cluster c.toml").is_err());
        assert!(parse("--key a").is_err());
        assert!(parse("--cluster c.toml --key a --replicas 7").is_err());
        assert!(parse("--durability sync").is_err());
    }
}
