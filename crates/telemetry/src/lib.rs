//! Counters of one replica, recorded per core without locks, and the report that a replica gives about itself.
//!
//! Each core writes its own [`CoreCounters`]; whoever reads sums over the cores. [`ReplicaReport`] is the JSON
//! that `quorate status` and `quorate bench` read.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod counters;
mod encoding;
mod report;

pub use counters::{CoreCounters, Counter, Counters};
pub use encoding::{HistogramError, decode, difference, encode};
pub use report::{Costs, PeerReport, ReplicaReport};
