//! Messages whose signature was checked, as a type: nothing else counts as a vote.

use quorate_types::{ClusterConfig, ReplicaId, SigningKey};
use quorate_wire::message::{Checkpoint, CheckpointCertificate, PrePrepare, Prepare};
use quorate_wire::{Claims, Statement, Verdict};
use std::sync::Arc;

/// A message with the replica whose key signed it. Only a [`Keyring`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    signer: ReplicaId,
    message: T,
}

impl<T> Verified<T> {
    /// Who signed.
    #[must_use]
    pub fn signer(&self) -> ReplicaId {
        self.signer
    }

    /// What was signed.
    #[must_use]
    pub fn message(&self) -> &T {
        &self.message
    }

    /// Takes the message out.
    #[must_use]
    pub fn into_message(self) -> T {
        self.message
    }
}

/// Checks and makes the signatures of consensus messages.
#[derive(Clone, Debug)]
pub struct Keyring {
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) me: ReplicaId,
    pub(crate) key: SigningKey,
}

impl Keyring {
    /// The keyring of replica `me`, whose secret is `key`.
    #[must_use]
    pub fn new(config: Arc<ClusterConfig>, me: ReplicaId, key: SigningKey) -> Self {
        Self { config, me, key }
    }

    /// A proposal, if the primary of its view signed it; whoever relayed it.
    #[must_use]
    pub fn pre_prepare(&self, message: PrePrepare) -> Option<Verified<PrePrepare>> {
        let mut claims = Claims::new(&self.config);
        self.claim_pre_prepare(&message, &mut claims);
        self.judged_pre_prepare(message, claims.verdicts().next()?)
    }

    /// A PREPARE, if `signer` signed it.
    #[must_use]
    pub fn prepare(&self, signer: ReplicaId, message: Prepare) -> Option<Verified<Prepare>> {
        let mut claims = Claims::new(&self.config);
        self.claim_prepare(signer, &message, &mut claims);
        self.judged_prepare(signer, message, claims.verdicts().next()?)
    }

    /// Asks whether the primary of its view signed a proposal, whoever relayed it.
    pub fn claim_pre_prepare(&self, message: &PrePrepare, claims: &mut Claims<'_>) {
        let signer = self.config.primary(message.view);
        claims.add_replica(self.pre_prepare_statement(message), signer, message.signature);
    }

    /// A proposal, if the verdict on what [`Keyring::claim_pre_prepare`] asked about it is good.
    #[must_use]
    pub fn judged_pre_prepare(&self, message: PrePrepare, verdict: Verdict) -> Option<Verified<PrePrepare>> {
        let signer = self.config.primary(message.view);
        verdict.holds().then_some(Verified { signer, message })
    }

    /// Asks whether `signer` signed a PREPARE.
    pub fn claim_prepare(&self, signer: ReplicaId, message: &Prepare, claims: &mut Claims<'_>) {
        let statement = Statement::prepare(&self.config, message.view, message.lo, &message.digests);
        claims.add_replica(statement, signer, message.signature);
    }

    /// A PREPARE, if the verdict on what [`Keyring::claim_prepare`] asked about it is good.
    #[must_use]
    pub fn judged_prepare(
        &self,
        signer: ReplicaId,
        message: Prepare,
        verdict: Verdict,
    ) -> Option<Verified<Prepare>> {
        verdict.holds().then_some(Verified { signer, message })
    }

    /// A checkpoint vote, if `signer` signed it.
    #[must_use]
    pub fn checkpoint(&self, signer: ReplicaId, message: Checkpoint) -> Option<Verified<Checkpoint>> {
        self.checkpoint_statement(&message)
            .is_signed_by_replica(&self.config, signer, &message.signature)
            .then_some(Verified { signer, message })
    }

    /// A certificate, if q distinct replicas signed it. Its signer is nobody in particular: this replica
    /// stands in.
    #[must_use]
    pub fn certificate(&self, message: CheckpointCertificate) -> Option<Verified<CheckpointCertificate>> {
        self.proves_stable(&message).then_some(Verified { signer: self.me, message })
    }

    /// Signs a proposal.
    #[must_use]
    pub fn sign_pre_prepare(&self, mut message: PrePrepare) -> Verified<PrePrepare> {
        message.signature = self.pre_prepare_statement(&message).sign(&self.key);
        Verified { signer: self.me, message }
    }

    /// Signs a PREPARE.
    #[must_use]
    pub fn sign_prepare(&self, mut message: Prepare) -> Verified<Prepare> {
        message.signature =
            Statement::prepare(&self.config, message.view, message.lo, &message.digests).sign(&self.key);
        Verified { signer: self.me, message }
    }

    /// Signs a checkpoint vote.
    #[must_use]
    pub fn sign_checkpoint(&self, mut message: Checkpoint) -> Verified<Checkpoint> {
        message.signature = self.checkpoint_statement(&message).sign(&self.key);
        Verified { signer: self.me, message }
    }

    /// A message that this replica signed itself and gets back once it is durable.
    #[must_use]
    pub fn own<T>(&self, message: T) -> Verified<T> {
        Verified { signer: self.me, message }
    }

    /// A message whose signature was just checked or made.
    pub(crate) fn vouch<T>(&self, signer: ReplicaId, message: T) -> Verified<T> {
        Verified { signer, message }
    }

    fn pre_prepare_statement(&self, message: &PrePrepare) -> Statement {
        Statement::pre_prepare(&self.config, message.view, message.header.seq, &message.header.digest())
    }

    fn checkpoint_statement(&self, message: &Checkpoint) -> Statement {
        let position = message.position;
        Statement::checkpoint(
            &self.config,
            position.seq,
            &position.digest,
            &message.root,
            &message.next_config,
        )
    }
}
