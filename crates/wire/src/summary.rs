//! What a view change says in short, so that a new view can be checked by everybody without carrying all of it:
//! one signed summary for each of q replicas, and proof of the highest claims alone (DESIGN section 4, view
//! change 3). An honest replica's summary is true; the highest of them is proven; so nobody can hide what was
//! committed, nor make up what was not.
#![allow(
    missing_debug_implementations,
    reason = "the archives and resolvers that rkyv derives inside a macro"
)]

use crate::Position;
use crate::message::Prepare;
use quorate_types::{Digest, Domain, ReplicaId, Signature, View};
use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// Why a replica wants the next view.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
#[repr(u8)]
pub enum SuspectReason {
    /// A lane's tip with q acknowledgements is named by no accepted header.
    Unnamed = 1,
    /// An accepted header stays uncommitted.
    Uncommitted = 2,
    /// Batches that the primary named cannot be had.
    Unavailable = 3,
    /// The primary of the view has not begun it.
    NoNewView = 4,
    /// So many others want it that one of them is honest, or the primary is proven to be at fault.
    Joined = 5,
    /// It is the view's primary and has restarted.
    Restarted = 6,
}

impl fmt::Display for SuspectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unnamed => "no header names a batch that a quorum has acknowledged",
            Self::Uncommitted => "a header stays uncommitted",
            Self::Unavailable => "batches that its primary has named cannot be had",
            Self::NoNewView => "its primary has not begun it",
            Self::Joined => "so many others want it, or its primary is proven at fault",
            Self::Restarted => "its primary has restarted",
        })
    }
}

/// The highest prepared slot of a replica with the votes that prove it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PreparedCertificate {
    /// The view of the votes.
    pub view: View,
    /// The slot.
    pub position: Position,
    /// PREPAREs of the view that name the slot, with their signers, ascending.
    pub votes: Vec<(ReplicaId, Prepare)>,
}

/// The length of a summary in signed bytes.
pub(crate) const SUMMARY_BYTES: usize = 8 + 32 + 32 + 1 + 8 + 8 + 32;

/// What a replica has when it leaves all views below one, signed by it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ViewChangeSummary {
    /// Its highest slot with a checkpoint certificate; the genesis before the first.
    pub stable: Position,
    /// The root of the state after it; zero for the genesis.
    pub root: Digest,
    /// The view and slot of its highest prepared certificate, if it has one.
    pub prepared: Option<(View, Position)>,
    /// The signature of the replica over the new view and all of the above.
    pub signature: Signature,
}

impl ViewChangeSummary {
    /// Appends the fixed layout that is signed, with zeros where nothing is prepared.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let position = |out: &mut Vec<u8>, position: &Position| {
            out.extend_from_slice(&position.seq.0.to_le_bytes());
            out.extend_from_slice(&position.digest.0);
        };
        position(out, &self.stable);
        out.extend_from_slice(&self.root.0);
        out.push(u8::from(self.prepared.is_some()));
        let (view, prepared) = self.prepared.unwrap_or_default();
        out.extend_from_slice(&view.0.to_le_bytes());
        position(out, &prepared);
    }
}

/// The digest of the summaries that begin `view`, with their signers: what the primary signs, and what tells two
/// beginnings of one view apart.
#[must_use]
pub fn digest(view: View, summaries: &[(ReplicaId, ViewChangeSummary)]) -> Digest {
    let mut writer = Digest::writer(Domain::NewView);
    writer.u64(view.0).u64(summaries.len() as u64);
    let mut bytes = Vec::with_capacity(SUMMARY_BYTES);
    for (signer, summary) in summaries {
        bytes.clear();
        summary.write(&mut bytes);
        writer.u64(u64::from(signer.0)).bytes(&bytes).bytes(&summary.signature.0);
    }
    writer.finish()
}
