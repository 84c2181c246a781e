//! `quorate bench`: loads a cluster, measures what an operation costs, and says whether all replicas hold the
//! same state.
//!
//! Without a rate the load is a closed loop: each client keeps a fixed number of bundles open and submits the
//! next one when one is complete. So latency is service time under that load and not response time at a given
//! rate; the output says so. With a rate the loop is open: bundles are due on a schedule that is fixed beforehand,
//! response time counts from then, and what is due is never skipped. Latency is per bundle; operations are bundles
//! times their size.
//!
//! Threads of clients ([`load`]) record what they see and hand it over interval by interval ([`recorder`],
//! [`series`]); a controller ([`run()`]) asks the replicas what they have spent, and [`findings`] makes the
//! results of it all.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod arguments;
mod cluster;
mod compare;
mod control;
mod cost;
mod display;
mod environment;
mod files;
mod findings;
mod format;
mod load;
mod pacer;
mod page;
mod progress;
mod recorder;
mod report;
mod run;
mod schedule;
mod series;
mod stages;
mod sweep;
mod text;
mod verdict;
mod workload;

pub use arguments::{BenchArguments, Durability, LoadArguments};
pub use cluster::{Launch, LaunchRequest, RunningCluster, StopProblem};
pub use compare::{CompareArguments, Comparison, compare};
pub use cost::{ClusterCosts, ReplicaCosts};
pub use environment::Environment;
pub use report::{
    AbsentReplica, BenchReport, ClientCosts, LatencyMicroseconds, Range, RunFigures, Spread, Verdict,
};
pub use run::run;
pub use schedule::Arrival;
pub use stages::StageFigures;
pub use sweep::{SweepArguments, SweepReport, SweepStep, sweep};
pub use verdict::{Bottleneck, Generator, OpenLoop};
pub use workload::{Distribution, Mix, ValueSize};
