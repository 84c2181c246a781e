//! Whole clusters from one seed: replicas, clients, network, disks, clocks and faults (DESIGN section 9).
//!
//! One seed is one history. Every choice is drawn from ChaCha8 streams of the seed; time is virtual; events
//! are ordered by time and, where they are simultaneous, by chance. There is no thread, no clock and no
//! unordered map, so a seed always gives the same history, to the last byte.
//!
//! A history has a fault phase and an end phase. Oracles watch all of it; in the end phase the cluster must
//! make progress again, become idle and agree with a model that replays the committed order.
//!
//! Disks hold bytes: the segments of the logs, page files, manifests. Replicas crash after any effect, one, several or
//! all at once, again while they recover, and come back from what their disks give back; at most f of them lose their
//! disks or find them damaged. Blocks of which there are copies go bad under any number of them, while they are down or
//! while they run. Networks lose, double, delay and cut; primaries fail one after the other; disks stall and fill. What would
//! coincide by rare luck alone is drawn as a scene. Mistakes can be made on purpose, and are found ([`quorate_types::Mistake`]).
//! Some replicas lie ([`liars`], [`agent`]): about their lanes, about what they hold, as servers and as primaries.
//! Not here: durability `async`.
#![forbid(unsafe_code)]

pub mod agent;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod event;
pub mod faults;
pub mod host;
pub mod ledger;
pub mod liars;
pub mod model;
pub mod network;
pub mod oracle;
pub mod plan;
pub mod queue;
pub mod random;
pub mod runner;
pub mod scenes;
pub mod sessions;
pub mod trace;
pub mod workload;

pub use oracle::Finding;
pub use plan::Plan;
pub use runner::{Report, run, run_many};
