//! Lanes: how bundles of operations reach every replica before consensus orders them by a few dozen bytes.
//!
//! [`Lanes`] is one link role's share: the lanes of its links, one per origin and link. It batches admitted
//! bundles, disseminates each batch in one encoding, holds what others disseminate, acknowledges it
//! cumulatively once durable, re-sends what a peer's frontier lacks, and fetches backwards along the chain. Holding,
//! acknowledging and being eligible are three things, and three types: docs/lanes.md (DESIGN sections 3, 4 and 6). It
//! has no clock and no I/O; bytes held are bounded per lane.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod acknowledged;
mod admission;
mod batch;
mod checks;
mod eligible;
mod fetch;
mod frontiers;
mod held;
mod lane;
mod lanes;
mod own;
mod receive;
mod recovery;
mod retention;
mod serve;
mod strays;
mod throttle;

pub use batch::{Batch, Bundle};
pub use lanes::{Destination, Lanes, Output, Reject};
pub use own::Sender;
pub use recovery::Recovered;
