//! The replicated key-value state: an ordered, authenticated tree, the sessions of clients, and the
//! operations (DESIGN section 6).
//!
//! [`State`] is a deterministic machine: equal histories of [`State::execute`] and the `note_…` calls give
//! equal roots, whenever roots were computed, copies frozen or replicas restarted. There is no clock, no
//! random source, no thread and no I/O. Users' keys and the system's own records live in one tree, so one
//! root covers everything.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod entries;
mod execute;
mod frozen;
mod leaf;
mod node;
mod records;
mod reply;
mod results;
mod session;
mod state;
mod system;
mod totals;
mod tree;
mod window;

pub use entries::Entries;
pub use frozen::Frozen;
pub use leaf::VersionedRef;
pub use reply::{Outcome, Reply, SkipReason};
pub use state::{BundleInput, Context, State};
pub use system::HeaderRecord;
