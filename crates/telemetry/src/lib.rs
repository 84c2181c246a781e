//! Counters and histograms of one replica, recorded per core without locks, and the report that a replica gives
//! about itself.
//!
//! Each core writes its own [`CoreCounters`] and [`CoreHistograms`]; whoever reads sums over the cores. [`ReplicaReport`]
//! is the JSON that `quorate status` and `quorate bench` read; [`HistogramLog`] and [`percentiles`] write files that
//! other tools read.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod counters;
mod encoding;
mod histograms;
mod log;
mod report;
mod standing;

pub use counters::{CoreCounters, Counter, Counters};
pub use encoding::{HistogramError, decode, difference, encode};
pub use histograms::{CoreHistograms, Histograms, Measure, Unit};
pub use log::{HistogramLog, LOG_COMMENTS, base_time, log_name, percentiles, percentiles_name};
pub use report::{Costs, PeerReport, ReplicaReport};
pub use standing::{Activity, Declines, Role, Takes};
