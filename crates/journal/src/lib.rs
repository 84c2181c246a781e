//! What a replica must not forget, and the gate that holds effects until it is on disk.
//!
//! A role appends a [`Record`] and gets its log sequence number at once; what depends on it carries that
//! number ([`quorate_types::After`]) and passes the [`Gate`] only when every named journal has reported a
//! contiguous durable prefix up to it. Where records go (memory now, segments on disk later) is the driver's
//! business.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod gate;
mod record;

pub use gate::{Gate, Watermarks};
pub use record::{CONSENSUS_JOURNAL, Record, batch_journal};
