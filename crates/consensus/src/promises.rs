//! What a replica is bound by when it accepts (DESIGN section 5, "Retention").
//!
//! Whoever votes in a view follows one chain there: a vote for a slot is one against every other chain through the
//! slots below. A running replica has that chain. One that has restarted may not, as its checkpoint is damaged and the
//! headers below it are trimmed everywhere. So what it has voted for is remembered beside the chain, survives trimming
//! as a record of its own, and nothing is accepted before the own chain has passed it; the same goes for what is
//! certified.

use crate::consensus::Consensus;
use crate::output::{Fact, Output};
use quorate_types::Seq;
use quorate_wire::{Header, Position};
use std::sync::Arc;

impl Consensus {
    /// The slot that the own chain must have reached before a proposal is accepted: a certificate covers all up to
    /// there, or votes of this view are cast.
    pub(crate) fn bound(&self) -> Seq {
        let voted = self.ballot.map_or(Seq(0), |ballot| ballot.seq);
        self.checkpoints.stable().seq.max(voted).max(self.promised)
    }

    /// Whether everything that binds this replica lies on its own chain, so that it may accept the next slot.
    pub(crate) fn is_above_its_promises(&self) -> bool {
        self.chain.accepted().seq >= self.bound() && !self.lacks_a_certified_slot()
    }

    /// What is certified and was proposed here is committed at once, rather than accepted slot by slot or fetched from
    /// others.
    pub(crate) fn adopt_certified_proposals(&mut self, out: &mut Vec<Output>) {
        if !self.lacks_a_certified_slot() {
            return;
        }
        let (stable, committed) = (self.checkpoints.stable(), self.chain.committed());
        let mut headers: Vec<Arc<Header>> = Vec::new();
        let mut at = stable;
        while at.seq > committed.seq && !self.chain.contains(at) {
            let Some(proposal) = self.pending.get(&at.seq) else { return };
            let header = &proposal.message().header;
            if header.digest() != at.digest {
                return;
            }
            at = Position { seq: at.seq.previous(), digest: header.parent };
            headers.push(Arc::new(header.clone()));
        }
        // A chain that contradicts what is committed here is for whoever fetches headers to tell.
        if self.chain.contains(at) {
            headers.reverse();
            self.adopt(at.seq, headers, out);
        }
    }

    /// Writes down what outlives the headers and votes that are about to be trimmed.
    pub(crate) fn record_promises(&mut self, out: &mut Vec<Output>) {
        let (view, voted, stable) = (self.view, self.ballot, self.checkpoints.stable());
        self.append(Fact::Promised { view, voted, stable }, out);
    }
}
