//! Chained PBFT as a pure state machine: accept, prepare, commit, checkpoint votes and catch-up
//! (DESIGN section 4).
//!
//! [`Consensus`] takes verified messages, the lanes' progress and the time, and answers with [`Output`]s. It
//! owns no storage and no transport: what it appends gets a log position at once, and what depends on it
//! carries that position in an [`quorate_types::After`] for the caller to honour.
//!
//! This form is the normal case in view 0. What a view change needs is kept from the start: the highest
//! prepared certificate with its votes, the view of every vote, and the highest COMMIT of every peer.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod board;
mod chain;
mod checkpoint;
mod consensus;
mod output;
mod resend;
mod sync;
mod verified;
mod votes;

pub use board::Board;
pub use consensus::{Consensus, Positions};
pub use output::{Destination, Fact, Outgoing, Output, Reject};
pub use quorate_types::{BoardEntry, LaneUpdate};
pub use verified::{Keyring, Verified};
