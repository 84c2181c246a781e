//! Signatures of a view change: checked when the cheap questions are answered, and those of one message together.

use crate::claims::contradict;
use crate::new_view::{Selection, select};
use crate::verified::{Keyring, Verified};
use crate::votes::voted;
use quorate_types::{Digest, ReplicaId};
use quorate_wire::message::{CheckpointCertificate, NewView, Suspect, ViewChange};
use quorate_wire::{Claims, PreparedCertificate, Statement, header};
use std::collections::BTreeSet;

impl Keyring {
    /// A wish for the next view, if `signer` signed it.
    #[must_use]
    pub fn suspect(&self, signer: ReplicaId, message: Suspect) -> Option<Verified<Suspect>> {
        let statement = Statement::suspect(&self.config, message.view, message.reason);
        statement
            .is_signed_by_replica(&self.config, signer, &message.signature)
            .then(|| self.vouch(signer, message))
    }

    /// A view change, if `signer` signed it, and the wishes and proposals in it are genuine too. What it says to be
    /// prepared and stable is not proven by this: see [`Keyring::proves_prepared`] and [`Keyring::proves_stable`].
    #[must_use]
    pub fn view_change(&self, signer: ReplicaId, message: ViewChange) -> Option<Verified<ViewChange>> {
        let mut claims = Claims::new(&self.config);
        let summary = message.summary(header::genesis(self.config.digest()));
        let statement = Statement::view_change(&self.config, message.new_view, &summary);
        claims.add_replica(statement, signer, message.signature);
        for (wisher, suspect) in &message.suspects {
            let statement = Statement::suspect(&self.config, suspect.view, suspect.reason);
            claims.add_replica(statement, *wisher, suspect.signature);
        }
        match &message.proposals[..] {
            [] => {}
            [first, second] if contradict(first, second) => {
                self.claim_pre_prepare(first, &mut claims);
                self.claim_pre_prepare(second, &mut claims);
            }
            _ => return None,
        }
        let lower = message.prepared.as_ref().is_none_or(|prepared| prepared.view < message.new_view);
        let genuine = lower && claims.verdicts().all(|verdict| verdict.holds());
        genuine.then(|| self.vouch(signer, message))
    }

    /// A new view, if the view's primary signed it, whoever relayed it, it has the summaries of exactly q distinct
    /// replicas for this view, signed by them, and the highest of their claims are proven.
    #[must_use]
    pub fn new_view(&self, message: NewView) -> Option<Verified<NewView>> {
        let primary = self.config.primary(message.view);
        // The primary's signature comes first: without it, nobody makes this replica check all the others.
        Statement::new_view(&self.config, message.view, &message.digest())
            .is_signed_by_replica(&self.config, primary, &message.signature)
            .then_some(())?;
        self.selection(&message)?;
        Some(self.vouch(primary, message))
    }

    /// Where a new view begins, if its summaries are genuine and its proofs prove the highest of them.
    fn selection(&self, message: &NewView) -> Option<Selection> {
        let summaries = &message.summaries;
        let ascending = summaries.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !ascending || summaries.len() != self.config.quorums().quorum {
            return None;
        }
        let selection = select(header::genesis(self.config.digest()), summaries)?;
        if selection.prepared.is_some_and(|(view, _)| view >= message.view) {
            return None;
        }
        let mut claims = Claims::new(&self.config);
        for (signer, summary) in summaries {
            let statement = Statement::view_change(&self.config, message.view, summary);
            claims.add_replica(statement, *signer, summary.signature);
        }
        let prepared = message.prepared.as_ref();
        let stable = message.stable.as_ref();
        let fits = prepared.map(|found| (found.view, found.position)) == selection.prepared
            && prepared.is_none_or(|found| self.claim_prepared(found, &mut claims))
            && stable.map(|found| (found.position, found.root)) == selection.stable
            && stable.is_none_or(|found| self.claim_stable(found, &mut claims));
        (fits && claims.verdicts().all(|verdict| verdict.holds())).then_some(selection)
    }

    /// A prepared certificate, if q replicas signed it. Its signer is nobody in particular: this replica stands in.
    #[must_use]
    pub fn prepared(&self, message: PreparedCertificate) -> Option<Verified<PreparedCertificate>> {
        self.proves_prepared(&message).then(|| self.vouch(self.me, message))
    }

    /// Whether a certificate is what it says: q distinct replicas have signed PREPAREs of its view, each of which
    /// names exactly its slot with its digest.
    #[must_use]
    pub fn proves_prepared(&self, certificate: &PreparedCertificate) -> bool {
        let mut claims = Claims::new(&self.config);
        self.claim_prepared(certificate, &mut claims) && claims.verdicts().all(|verdict| verdict.holds())
    }

    /// Whether q distinct replicas have signed a checkpoint.
    #[must_use]
    pub fn proves_stable(&self, certificate: &CheckpointCertificate) -> bool {
        let mut claims = Claims::new(&self.config);
        self.claim_stable(certificate, &mut claims) && claims.verdicts().all(|verdict| verdict.holds())
    }

    /// Asks for the signatures of a certificate; false when it cannot be right whatever they are.
    fn claim_prepared(&self, certificate: &PreparedCertificate, claims: &mut Claims<'_>) -> bool {
        let PreparedCertificate { view, position, votes } = certificate;
        for (signer, vote) in votes {
            self.claim_prepare(*signer, vote, claims);
        }
        let names = |digest: Option<Digest>| digest.is_some_and(|digest| digest == position.digest);
        votes.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && votes.len() >= self.config.quorums().quorum
            && votes.iter().all(|(_, vote)| vote.view == *view && names(voted(vote, position.seq)))
    }

    fn claim_stable(&self, certificate: &CheckpointCertificate, claims: &mut Claims<'_>) -> bool {
        let CheckpointCertificate { position, root, next_config, signatures } = certificate;
        for (signer, signature) in signatures {
            let statement =
                Statement::checkpoint(&self.config, position.seq, &position.digest, root, next_config);
            claims.add_replica(statement, *signer, *signature);
        }
        // In any order: a certificate that somebody has shuffled is kept and passed on by honest replicas.
        let signers: BTreeSet<ReplicaId> = signatures.iter().map(|(signer, _)| *signer).collect();
        signers.len() == signatures.len() && signers.len() >= self.config.quorums().quorum
    }

    /// Signs a wish.
    #[must_use]
    pub fn sign_suspect(&self, mut message: Suspect) -> Verified<Suspect> {
        message.signature = Statement::suspect(&self.config, message.view, message.reason).sign(&self.key);
        self.vouch(self.me, message)
    }

    /// Signs the summary of a view change.
    #[must_use]
    pub fn sign_view_change(&self, mut message: ViewChange) -> Verified<ViewChange> {
        let summary = message.summary(header::genesis(self.config.digest()));
        message.signature = Statement::view_change(&self.config, message.new_view, &summary).sign(&self.key);
        self.vouch(self.me, message)
    }

    /// Signs the beginning of a view.
    #[must_use]
    pub fn sign_new_view(&self, mut message: NewView) -> Verified<NewView> {
        message.signature =
            Statement::new_view(&self.config, message.view, &message.digest()).sign(&self.key);
        self.vouch(self.me, message)
    }
}
