//! The roles of a replica as deterministic state machines: no clock, no thread, no I/O.
//!
//! A replica runs one [`Core`] per configured core. Every core has a link role (lanes, clients, signature
//! checks); the first also has the ordering role, the last also the execution role (DESIGN section 3). Roles
//! talk by [`mail::Mail`] alone: a queue on the same core, an effect to another. Whoever drives the cores, the
//! daemon or the simulator, feeds [`Input`]s and carries out [`Effect`]s; what must be durable first is held
//! back inside, so that no driver can get it wrong.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod checks;
mod core;
mod execution;
mod interface;
mod library;
mod link;
pub mod mail;
mod ordering;
pub mod recovery;
pub mod report;
mod reports;
mod timeline;
mod transfer;
mod usage;

pub use crate::core::{Audit, Core, Layout, ReplicaSetup};
pub use checks::Checks;
pub use interface::{Answered, ClientConnection, Effect, Input, Intake, Reject};
pub use quorate_journal::Record;
pub use quorate_state::Frozen;
pub use recovery::{Broken, Found, Recovery};
