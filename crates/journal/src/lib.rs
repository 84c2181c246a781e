//! What a replica must not forget, and the gate that holds effects until it is on disk.
//!
//! A role appends a [`Record`] and gets its log sequence number at once; what depends on it carries that
//! number ([`quorate_types::After`]) and passes the [`Gate`] only when every named journal has reported a
//! contiguous durable prefix up to it. All journals that a core appends to share one physical [`Log`], whose groups go
//! to segments with one write and one sync each. [`Scanner`] reads it back after a stop and tells a torn tail from
//! damage.
//!
//! Nothing here touches a file: the log plans, the driver acts. [`mod@layout`] has the bytes, [`mod@scan`] the rules of
//! recovery.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod layout;
pub mod scan;

mod bytes;
mod chain;
mod damage;
mod describe;
mod gate;
mod log;
mod places;
mod record;
mod scrub;
mod segments;

pub use damage::{Damage, LostRecords, TornTail};
pub use describe::Description;
pub use gate::{Gate, Watermarks};
pub use layout::{BLOCK_BYTES, GroupNumber, JOURNALS_MAX, LogIdentity, SegmentHeader, SegmentNumber};
pub use log::{Log, LogOptions, Write, WriteId};
pub use places::RecordPlace;
pub use record::{CONSENSUS_JOURNAL, Record, RecordError, RecordKind, batch_journal};
pub use scan::{
    Fate, FoundBatch, GroupSummary, LostBatch, RecordState, RecordSummary, Repair, Scan, Scanner,
    SegmentSummary, SegmentsMade, scan,
};
pub use scrub::{Scrubbed, scrub};
pub use segments::SegmentAction;
