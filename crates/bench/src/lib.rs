//! `quorate bench`: loads a cluster, measures what an operation costs, and says whether all replicas hold the
//! same state.
//!
//! The load is a closed loop: each client keeps a fixed number of bundles open and submits the next one when
//! one is complete. So latency is service time under that load and not response time at a given rate; the
//! output says so. Latency is per bundle, from submission to completion; operations are bundles times
//! their size.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod arguments;
mod cluster;
mod control;
mod cost;
mod load;
mod progress;
mod report;
mod run;
mod workload;

pub use arguments::{BenchArguments, Durability};
pub use cluster::{Launch, LaunchRequest, RunningCluster};
pub use cost::ClusterCosts;
pub use report::{BenchReport, ClientCosts, LatencyMicroseconds, Verdict};
pub use run::run;
