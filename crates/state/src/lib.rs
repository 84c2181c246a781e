//! The replicated key-value state: an ordered, authenticated tree, the sessions of clients, and the
//! operations (DESIGN section 6).
//!
//! [`State`] is a deterministic machine: equal histories of [`State::execute`] and the `note_…` calls give
//! equal roots, whenever roots were computed, copies frozen or replicas restarted. There is no clock, no
//! random source, no thread and no I/O. Users' keys and the system's own records live in one tree, so one
//! root covers everything.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod block;
mod block_writer;
mod builder;
mod cache;
mod checkpoint;
mod entries;
mod execute;
mod forest;
mod frozen;
mod kept;
mod leaf;
mod load;
mod manifest;
mod node;
mod page;
mod recency;
mod records;
mod registration;
mod reply;
mod restart;
mod results;
mod salvage;
mod scrub;
mod serve;
mod session;
mod state;
mod store;
mod system;
mod totals;
mod transfer;
mod tree;
mod walk;
mod window;

pub use block::{ADDRESS_BYTES, Address, BLOCK_BYTES_MAX, BLOCK_HEAD_BYTES, BlockFault, FILE_HEAD_BYTES};
pub use cache::FileNumber;
pub use checkpoint::{Checkpoint, PageWrite, Progress, Undo};
pub use entries::Entries;
pub use forest::Forest;
pub use frozen::Frozen;
pub use leaf::VersionedRef;
pub use load::{LoadError, LoadFigures, ReadPages, is_of_the_medium, verify};
pub use manifest::{
    CheckpointHead, ExecutedTip, FileEntry, MANIFEST_BYTES_MAX, Manifest, ManifestFault, RootEntry,
    root_digest,
};
pub use page::PageFault;
pub use reply::{Outcome, Reply, SkipReason};
pub use restart::{Known, Restored};
pub use salvage::{NotWhole, Salvage};
pub use scrub::{Scrub, Stored};
pub use serve::{PageAnswer, PageRequest};
pub use state::{BundleInput, Context, State};
pub use store::{PageStore, Removal, StoreOptions};
pub use system::HeaderRecord;
pub use transfer::{BadAnswer, Received, Transfer, TransferOptions};
