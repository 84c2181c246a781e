//! What travels between replicas and clients: frames, messages, canonical signing bytes and the handshake.
//!
//! Decoders are total: any bytes give a message or a [`DecodeError`], never a panic, and never an allocation
//! that the bytes themselves do not pay for. Signed bytes and digests have fixed little-endian layouts
//! ([`signing`], [`header`], [`bundle`]); everything else is an rkyv archive, unaligned and little-endian.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod batch;
pub mod bundle;
pub mod frame;
pub mod handshake;
pub mod header;
pub mod message;
pub mod reply;
pub mod signing;
pub mod summary;
pub mod testing;

mod error;

pub use batch::{BatchHead, BatchView};
pub use bundle::{BundleHead, BundleView};
pub use error::DecodeError;
pub use frame::{Assembler, Frame, FrameRef, Kind};
pub use header::{Header, LaneTip, Position};
pub use reply::ReplyView;
pub use signing::{Claims, Statement, StatementKind, Verdict, Verdicts};
pub use summary::{PreparedCertificate, SuspectReason, ViewChangeSummary};
