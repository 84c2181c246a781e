//! The daemon: drives the roles of a replica on reactors.
//!
//! One thread per configured core runs a [`Driver`](driver): it feeds what its reactor brings to a
//! [`quorate_replica::Core`] and carries out the effects. Nothing is decided here; what cannot be undone is
//! guarded in the pure parts. [`run`] starts the threads and returns when the replica was told to stop.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod checkpointer;
mod clock;
mod config;
mod connection;
mod driver;
mod dump;
mod effects;
mod hasher;
pub mod page_folder;
mod peers;
mod report;
mod run;
mod shared;

pub use config::{ConfigError, HistogramConfig, HistogramFile, NodeConfig, NodeFile, read_cluster, read_key};
pub use run::{Outcome, StartError, run};
