//! Chained PBFT as a pure state machine: accept, prepare, commit, view changes, checkpoint votes and catch-up
//! (DESIGN section 4).
//!
//! [`Consensus`] takes verified messages, the lanes' progress and the time, and answers with [`Output`]s. It
//! owns no storage and no transport: what it appends gets a log position at once, and what depends on it
//! carries that position in an [`quorate_types::After`] for the caller to honour.
//!
//! A replica works in one view ([`Consensus::has_entered`]) or has left it and waits for a higher one to begin. What
//! carries decisions from one view to the next is the highest prepared certificate of every replica, which is never
//! collected.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod board;
mod chain;
mod checkpoint;
mod claims;
mod consensus;
mod header_fetches;
mod new_view;
mod output;
mod promises;
mod proofs;
mod proposals;
mod recovery;
mod resend;
mod spare;
mod suspicion;
mod sync;
mod verified;
mod view_change;
mod votes;
mod voting;

pub use board::Board;
pub use consensus::{Consensus, Positions};
pub use output::{Destination, Fact, Outgoing, Output, Reject};
pub use quorate_types::{BoardEntry, LaneUpdate, Mark, Support, Why};
pub use recovery::{Recovered, Voting};
pub use verified::{Keyring, Verified};
