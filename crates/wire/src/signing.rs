//! Canonical signing bytes: domain tag ‖ cluster id ‖ epoch ‖ configuration digest ‖ kind ‖ a fixed
//! little-endian layout (DESIGN section 4). A bundle's have neither epoch nor configuration: the verdict on it must
//! not depend on where it is checked.
//!
//! A statement is built anew from the fields of a message by signer and verifier alike; the bytes of the
//! message itself are never what is signed.

use crate::BundleHead;
use crate::summary::{self, SuspectReason, ViewChangeSummary};
use quorate_types::signatures::{self, Claim};
use quorate_types::{
    BundleNumber, ClusterConfig, Digest, PublicKey, ReplicaId, Seq, SessionId, Signature, SigningKey, View,
};
use smallvec::SmallVec;

const TAG: &[u8; 16] = b"quorate-signed-1";
/// A tag of its own, as epoch, configuration and kind do not follow.
const BUNDLE_TAG: &[u8; 16] = b"quorate-bundle-1";

/// What a statement is about. Bundles have a tag instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StatementKind {
    /// The listener's half of a handshake.
    HandshakeListener = 1,
    /// The dialer's half of a handshake.
    HandshakeDialer = 2,
    /// A proposal.
    PrePrepare = 4,
    /// A PREPARE range.
    Prepare = 5,
    /// A checkpoint vote.
    Checkpoint = 6,
    /// A wish for the next view.
    Suspect = 7,
    /// The summary of a view change.
    ViewChange = 8,
    /// The beginning of a view.
    NewView = 9,
}

/// As long as a PREPARE of four slots; nearly every statement is shorter.
const STATEMENT_BYTES: usize = 256;

/// The bytes that a signature covers.
#[derive(Clone, Debug)]
pub struct Statement(SmallVec<[u8; STATEMENT_BYTES]>);

impl Statement {
    fn new(config: &ClusterConfig, kind: StatementKind) -> Self {
        let mut bytes = SmallVec::new();
        bytes.extend_from_slice(TAG);
        bytes.extend_from_slice(config.cluster_id());
        bytes.extend_from_slice(&config.epoch().0.to_le_bytes());
        bytes.extend_from_slice(&config.digest().0);
        bytes.push(kind as u8);
        Self(bytes)
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// One side's half of a handshake: `transcript` is the digest of all that both sides said.
    #[must_use]
    pub fn handshake(config: &ClusterConfig, kind: StatementKind, transcript: &Digest) -> Self {
        Self::new(config, kind).bytes(&transcript.0)
    }

    /// A bundle, its operations by digest.
    #[must_use]
    pub fn bundle(
        config: &ClusterConfig,
        client: &[u8; 32],
        session: SessionId,
        number: BundleNumber,
        body: &Digest,
    ) -> Self {
        let mut statement = Self(SmallVec::new());
        statement.0.extend_from_slice(BUNDLE_TAG);
        statement.0.extend_from_slice(config.cluster_id());
        statement.bytes(client).bytes(&session.to_bytes()).u64(number.0).bytes(&body.0)
    }

    /// A proposal, its header by digest.
    #[must_use]
    pub fn pre_prepare(config: &ClusterConfig, view: View, seq: Seq, header: &Digest) -> Self {
        Self::new(config, StatementKind::PrePrepare).u64(view.0).u64(seq.0).bytes(&header.0)
    }

    /// A PREPARE range: the chain digests of slots `lo` and following.
    #[must_use]
    pub fn prepare(config: &ClusterConfig, view: View, lo: Seq, digests: &[Digest]) -> Self {
        let start = Self::new(config, StatementKind::Prepare).u64(view.0).u64(lo.0).u64(digests.len() as u64);
        digests.iter().fold(start, |statement, digest| statement.bytes(&digest.0))
    }

    /// A checkpoint vote.
    #[must_use]
    pub fn checkpoint(
        config: &ClusterConfig,
        seq: Seq,
        chain: &Digest,
        root: &Digest,
        next_config: &Digest,
    ) -> Self {
        Self::new(config, StatementKind::Checkpoint)
            .u64(seq.0)
            .bytes(&chain.0)
            .bytes(&root.0)
            .bytes(&next_config.0)
    }

    /// A wish for the view after `view`.
    #[must_use]
    pub fn suspect(config: &ClusterConfig, view: View, reason: SuspectReason) -> Self {
        Self::new(config, StatementKind::Suspect).u64(view.0).bytes(&[reason as u8])
    }

    /// The summary of a view change: what proves it, and why it happened, is left out.
    #[must_use]
    pub fn view_change(config: &ClusterConfig, new_view: View, summary: &ViewChangeSummary) -> Self {
        let mut bytes = Vec::with_capacity(summary::SUMMARY_BYTES);
        summary.write(&mut bytes);
        Self::new(config, StatementKind::ViewChange).u64(new_view.0).bytes(&bytes)
    }

    /// The beginning of a view, its summaries by digest.
    #[must_use]
    pub fn new_view(config: &ClusterConfig, view: View, summaries: &Digest) -> Self {
        Self::new(config, StatementKind::NewView).u64(view.0).bytes(&summaries.0)
    }

    /// The signature of `key` over the statement.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Signature {
        key.sign(&self.0)
    }

    /// Whether `signature` is one of `key` over the statement.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey, signature: &Signature) -> bool {
        key.verify(&self.0, signature)
    }

    /// Whether `signature` is one of replica `signer` over the statement.
    #[must_use]
    pub fn is_signed_by_replica(
        &self,
        config: &ClusterConfig,
        signer: ReplicaId,
        signature: &Signature,
    ) -> bool {
        config.member(signer).is_some_and(|member| self.is_signed_by(&member.key, signature))
    }

    /// The bytes themselves, for tests.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Signatures that are gathered over a tick, to be checked together: many cost a third of what they cost alone.
#[derive(Debug)]
pub struct Claims<'a> {
    config: &'a ClusterConfig,
    claims: Vec<(Statement, Option<&'a PublicKey>, Signature)>,
}

/// The verdict on one claim. Only [`Claims::verdicts`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict(bool);

impl Verdict {
    /// Whether the signature is one of the signer over the statement.
    #[must_use]
    pub fn holds(self) -> bool {
        self.0
    }
}

/// The verdicts in the order in which the claims were added.
pub type Verdicts = std::vec::IntoIter<Verdict>;

impl<'a> Claims<'a> {
    /// No claims yet. Does not allocate.
    #[must_use]
    pub fn new(config: &'a ClusterConfig) -> Self {
        Self { config, claims: Vec::new() }
    }

    /// That the client which a bundle names signed it and is one of the cluster's.
    pub fn add_bundle(&mut self, head: &BundleHead) {
        let statement = Statement::bundle(self.config, &head.client, head.session, head.number, &head.body);
        self.claims.push((statement, self.config.client(&head.client), head.signature));
    }

    /// That replica `signer` signed a statement.
    pub fn add_replica(&mut self, statement: Statement, signer: ReplicaId, signature: Signature) {
        let key = self.config.member(signer).map(|member| &member.key);
        self.claims.push((statement, key, signature));
    }

    /// The number of claims.
    #[must_use]
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Checks all of them: the same verdicts as checking each alone gives.
    #[must_use]
    pub fn verdicts(self) -> Verdicts {
        let with_keys = self.claims.iter().filter_map(|(statement, key, signature)| {
            Some(Claim { key: (*key)?, message: &statement.0, signature })
        });
        let checked = signatures::verdicts(&with_keys.collect::<Vec<_>>());
        let mut checked = checked.into_iter();
        let mut verdict =
            |key: Option<_>| key.is_some() && checked.next().expect("invariant: one for each key");
        self.claims.iter().map(|(_, key, _)| Verdict(verdict(*key))).collect::<Vec<_>>().into_iter()
    }
}
