//! The daemon: drives the roles of a replica on reactors.
//!
//! One thread per configured core runs a [`Driver`](driver): it feeds what its reactor brings to a
//! [`quorate_replica::Core`] and carries out the effects. Nothing is decided here; what cannot be undone is
//! guarded in the pure parts. [`run`] starts the threads and returns when the replica was told to stop.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod accounts;
mod backlog;
pub mod ban;
mod certified_state;
pub mod checkpointer;
mod clients;
mod clock;
mod config;
mod connection;
mod data_directory;
mod descriptors;
mod disk;
mod driver;
mod dump;
mod effects;
mod evidence;
mod half_open;
mod identity;
pub mod inspect;
mod log_driver;
mod log_error;
mod log_reader;
pub mod memory;
mod memory_bounds;
pub mod never_spoken;
pub mod page_folder;
mod peers;
mod recover;
mod refused;
mod report;
mod run;
mod segment_files;
mod shared;
mod space;
mod sync_probe;
mod view_log;

pub use certified_state::{CertifiedState, NoCertifiedState};
pub use config::{
    ConfigError, Durability, HistogramConfig, HistogramFile, NodeConfig, NodeFile, check_plaintext,
    read_cluster, read_key,
};
pub use data_directory::{
    DataDirectory, DirectoryError, FormatError, check_unused, create_durably, examine, format,
    format_learner, format_with_key, format_with_state, make_directory, open, sync_directory, write_durably,
};
pub use descriptors::TooFew;
pub use identity::{Identity, Role};
pub use log_error::LogError;
pub use memory_bounds::MemoryBounds;
pub use run::{Outcome, StartError, examine_start, run};
