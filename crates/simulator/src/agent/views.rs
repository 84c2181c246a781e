//! A liar in view changes: what it shows as prepared depends on whom it talks to, and the views that it leads begin on other
//! view changes for each.
//!
//! It shows nothing, an old certificate, that of the longest chain, or a certificate that proves nothing. What it makes
//! others vote for twice is no worse: two beginnings of a view are both on top of all that was committed.

use super::{Agent, Leaving, at_once};
use quorate_types::{Digest, LinkId, ReplicaId, Signature};
use quorate_wire::message::{CheckpointCertificate, Message, NewView, PrePrepare, ViewChange};
use quorate_wire::signing::Statement;
use quorate_wire::{Frame, Kind, PreparedCertificate, ViewChangeSummary, header};
use std::collections::BTreeMap;

/// Of the certificates that a liar has heard of it keeps so many of each sort: the first ones, and the last.
const CERTIFICATES_MAX: usize = 16;

/// What a liar knows of view changes.
#[derive(Debug, Default)]
pub(super) struct Views {
    prepared: Vec<PreparedCertificate>,
    stable: Vec<CheckpointCertificate>,
    /// The newest view change of each.
    changes: BTreeMap<ReplicaId, ViewChange>,
}

impl Views {
    fn note(&mut self, from: ReplicaId, change: ViewChange) {
        note(&mut self.prepared, change.prepared.as_ref());
        note(&mut self.stable, change.stable.as_ref());
        if self.changes.get(&from).is_none_or(|known| known.new_view <= change.new_view) {
            self.changes.insert(from, change);
        }
    }
}

fn note<T: Clone + PartialEq>(known: &mut Vec<T>, certificate: Option<&T>) {
    let Some(certificate) = certificate.filter(|certificate| !known.contains(certificate)) else { return };
    if known.len() == CERTIFICATES_MAX {
        known.pop();
    }
    known.push(certificate.clone());
}

impl Agent {
    /// What others tell it.
    pub fn hear(&mut self, from: ReplicaId, frame: &Frame) {
        if frame.kind() == Kind::ViewChange
            && let Ok(change) = ViewChange::decode(frame.payload())
        {
            self.views.note(from, change);
        }
        if frame.kind() == Kind::PrePrepare
            && let Ok(proposal) = PrePrepare::decode(frame.payload())
        {
            self.view = self.view.max(proposal.view);
        }
    }

    /// What a peer is told in the place of a view change.
    pub(super) fn change_view(&mut self, to: ReplicaId, link: LinkId, frame: Frame) -> Vec<Leaving> {
        let Ok(change) = ViewChange::decode(frame.payload()) else { return vec![at_once(to, link, frame)] };
        self.views.note(self.liar.replica, change.clone());
        if self.random.percent(15) {
            return Vec::new();
        }
        vec![at_once(to, link, self.distort_change(change).encode())]
    }

    /// What a peer is told in the place of the beginning of a view.
    pub(super) fn begin_view(&mut self, to: ReplicaId, link: LinkId, frame: Frame) -> Vec<Leaving> {
        let begun = NewView::decode(frame.payload()).ok();
        let own = begun.filter(|begun| self.config.primary(begun.view) == self.liar.replica);
        let otherwise = own.and_then(|begun| self.begin_otherwise(&begun));
        match self.random.below(10) {
            0 => Vec::new(),
            1..=3 => vec![at_once(to, link, frame)],
            _ => vec![at_once(to, link, otherwise.map_or(frame, |otherwise| otherwise.encode()))],
        }
    }

    fn distort_change(&mut self, mut change: ViewChange) -> ViewChange {
        match self.random.below(10) {
            0 | 1 => return change,
            2 | 3 => (change.prepared, change.stable) = (None, None),
            4 | 5 => {
                let longest = self.views.prepared.iter().max_by_key(|found| found.position.seq);
                change.prepared = longest.cloned().or(change.prepared);
            }
            6 => (change.prepared, change.stable) = (self.views.prepared.first().cloned(), None),
            7 if !self.views.stable.is_empty() => {
                let index = self.random.index(self.views.stable.len());
                change.stable = Some(self.views.stable[index].clone());
            }
            8 => {
                // It says more than its votes prove.
                if let Some(prepared) = &mut change.prepared {
                    prepared.position.seq = prepared.position.seq.next();
                    prepared.position.digest = self.any_digest();
                }
            }
            _ => {
                if let Some(stable) = &mut change.stable {
                    stable.root = self.any_digest();
                }
            }
        }
        let genesis = header::genesis(self.config.digest());
        let summary = change.summary(genesis);
        let statement = Statement::view_change(&self.config, change.new_view, &summary);
        change.signature = statement.sign(&self.key);
        change
    }

    /// A beginning of a view that it leads, over view changes of its choice: at times it proves less than they claim.
    fn begin_otherwise(&mut self, begun: &NewView) -> Option<NewView> {
        let (view, quorum) = (begun.view, self.config.quorums().quorum);
        let known = self.views.changes.iter().filter(|(_, change)| change.new_view == view);
        let mut chosen: Vec<(ReplicaId, ViewChange)> =
            known.map(|(signer, change)| (*signer, change.clone())).collect();
        if chosen.len() < quorum {
            return None;
        }
        while chosen.len() > quorum {
            chosen.remove(self.random.index(chosen.len()));
        }
        for (signer, change) in &mut chosen {
            if *signer == self.liar.replica {
                *change = self.distort_change(change.clone());
            }
        }
        let genesis = header::genesis(self.config.digest());
        let summaries: Vec<(ReplicaId, ViewChangeSummary)> =
            chosen.iter().map(|(signer, change)| (*signer, change.summary(genesis))).collect();
        let prepared = chosen.iter().filter_map(|(_, change)| change.prepared.clone());
        let prepared = prepared.max_by_key(|found| (found.view, found.position.seq));
        let stable = chosen.iter().filter_map(|(_, change)| change.stable.clone());
        let stable = stable.max_by_key(|found| found.position.seq);
        let prepared = prepared.filter(|_| !self.random.percent(10));
        let mut message = NewView { view, summaries, prepared, stable, signature: Signature([0; 64]) };
        let statement = Statement::new_view(&self.config, view, &message.digest());
        message.signature = statement.sign(&self.key);
        Some(message)
    }

    /// The digest of nothing.
    pub(super) fn any_digest(&mut self) -> Digest {
        Digest(std::array::from_fn(|_| self.random.bits().to_le_bytes()[0]))
    }
}
