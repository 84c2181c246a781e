//! The ordering role: consensus, with its messages decoded and verified.

use crate::interface::Reject;
use crate::report::OrderingReport;
use crate::timeline::Timeline;
use quorate_consensus::{Consensus, Outgoing, Output};
use quorate_types::{ClusterConfig, Nanoseconds, ReplicaId, SigningKey};
use quorate_wire::message::{
    Checkpoint, CheckpointCertificate, Commit, FetchHeaders, FetchedHeaders, Message, PrePrepare, Prepare,
    Status,
};
use quorate_wire::{DecodeError, FrameRef, Kind};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The ordering role of a replica.
#[derive(Debug)]
pub(crate) struct OrderingRole {
    config: Arc<ClusterConfig>,
    me: ReplicaId,
    pub(crate) consensus: Consensus,
    pub(crate) timeline: Timeline,
    /// The newest Status and question for headers of each peer in this tick. Both are small and their answers
    /// large, so each peer gets one of each a tick.
    statuses: BTreeMap<ReplicaId, Status>,
    questions: BTreeMap<ReplicaId, FetchHeaders>,
}

impl OrderingRole {
    pub(crate) fn new(config: Arc<ClusterConfig>, me: ReplicaId, key: SigningKey) -> Self {
        let consensus = Consensus::new(Arc::clone(&config), me, key, quorate_journal::CONSENSUS_JOURNAL);
        Self {
            config,
            me,
            consensus,
            timeline: Timeline::default(),
            statuses: BTreeMap::new(),
            questions: BTreeMap::new(),
        }
    }

    /// Takes a consensus frame of a peer: decoded, asked for whether it says anything new, and only then
    /// verified.
    pub(crate) fn on_frame(
        &mut self,
        now: Nanoseconds,
        from: ReplicaId,
        frame: FrameRef<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        let consensus = &mut self.consensus;
        match frame.kind {
            Kind::PrePrepare => {
                let message = PrePrepare::from_frame(frame)?;
                if consensus.wants_pre_prepare(&message) {
                    let verified = consensus.keyring().pre_prepare(message);
                    consensus.on_pre_prepare(verified.ok_or(Reject::ConsensusSignature)?, out);
                }
            }
            Kind::Prepare => {
                let message = Prepare::from_frame(frame)?;
                if consensus.wants_prepare(from, &message) {
                    let verified = consensus.keyring().prepare(from, message);
                    consensus.on_prepare(verified.ok_or(Reject::ConsensusSignature)?, out);
                }
            }
            Kind::Commit => consensus.on_commit(from, &Commit::from_frame(frame)?, out),
            Kind::Checkpoint => {
                let message = Checkpoint::from_frame(frame)?;
                if consensus.wants_checkpoint(from, &message) {
                    let verified = consensus.keyring().checkpoint(from, message);
                    consensus.on_checkpoint(verified.ok_or(Reject::ConsensusSignature)?, out);
                }
            }
            Kind::CheckpointCertificate => {
                let message = CheckpointCertificate::from_frame(frame)?;
                if consensus.wants_certificate(&message) {
                    let verified = consensus.keyring().certificate(message);
                    consensus.on_certificate(verified.ok_or(Reject::ConsensusSignature)?, out);
                }
            }
            Kind::Status => {
                self.statuses.insert(from, Status::from_frame(frame)?);
            }
            Kind::FetchHeaders => {
                self.questions.insert(from, FetchHeaders::from_frame(frame)?);
            }
            Kind::FetchedHeaders => {
                consensus.on_fetched_headers(now, from, FetchedHeaders::from_frame(frame)?, out);
            }
            other => return Err(DecodeError::Misplaced(other).into()),
        }
        Ok(())
    }

    /// The burst of inputs is over: answers what peers have shown and asked in it.
    pub(crate) fn answer(&mut self, out: &mut Vec<Output>) {
        for (from, status) in std::mem::take(&mut self.statuses) {
            self.consensus.on_status(from, &status, out);
        }
        for (from, question) in std::mem::take(&mut self.questions) {
            self.consensus.on_fetch_headers(from, &question, out);
        }
    }

    /// Takes an own message back, now that all it depends on is durable: own votes count like any others.
    pub(crate) fn on_own(&mut self, message: &Outgoing, out: &mut Vec<Output>) {
        let consensus = &mut self.consensus;
        match message {
            Outgoing::Prepare(prepare) => {
                let own = consensus.keyring().own(Prepare::clone(prepare));
                consensus.on_prepare(own, out);
            }
            Outgoing::Commit(commit) => consensus.on_commit(self.me, commit, out),
            Outgoing::Checkpoint(checkpoint) => {
                let own = consensus.keyring().own(checkpoint.clone());
                consensus.on_checkpoint(own, out);
            }
            Outgoing::PrePrepare(_)
            | Outgoing::CheckpointCertificate(_)
            | Outgoing::Status(_)
            | Outgoing::FetchHeaders(_)
            | Outgoing::FetchedHeaders(_) => {}
        }
    }

    pub(crate) fn report(&self) -> OrderingReport {
        let positions = self.consensus.positions();
        let view = self.consensus.view();
        let peers = self.config.replica_ids().filter(|replica| *replica != self.me);
        OrderingReport {
            view,
            primary: self.config.primary(view),
            accepted: positions.accepted,
            prepared: positions.prepared,
            committed: positions.committed,
            stable: positions.stable,
            peers_committed: peers.map(|peer| (peer, self.consensus.claim_of(peer))).collect(),
            waiting: self.consensus.waiting(),
        }
    }
}
