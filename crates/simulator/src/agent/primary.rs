//! A primary that names forks of its lane, what nobody has acknowledged, and what no origin has made; and at times not the
//! same to all. Its headers are one chain all the same: what it has said once it says again, and goes on from there.

use super::forks::{Fork, make_batch};
use super::{Agent, LaneTip};
use crate::ledger::Ledger;
use crate::liars::Habit;
use quorate_types::{Digest, LaneId, LaneNumber, ReplicaId, View};
use quorate_wire::message::{Message, PrePrepare};
use quorate_wire::signing::Statement;
use quorate_wire::{BatchView, Frame, Position};
use std::collections::BTreeMap;

/// What a liar has named as a primary.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// What it says in the place of what its core has proposed, and whether not to all.
    instead: BTreeMap<(View, Digest), (PrePrepare, bool)>,
    /// Bundles that clients have signed: a short one, and a long one.
    bundle: Vec<u8>,
    long_bundle: Vec<u8>,
}

impl Named {
    /// Remembers a bundle of a batch, if it is shorter than all before, or longer.
    pub(super) fn keep_bundle(&mut self, view: &BatchView<'_>) {
        let shortest = view.bundles.iter().map(|bundle| bundle.bytes).min_by_key(|bytes| bytes.len());
        if let Some(bytes) =
            shortest.filter(|bytes| self.bundle.is_empty() || bytes.len() < self.bundle.len())
        {
            self.bundle = bytes.to_vec();
        }
        let longest = view.bundles.iter().map(|bundle| bundle.bytes).max_by_key(|bytes| bytes.len());
        if let Some(bytes) = longest.filter(|bytes| bytes.len() > self.long_bundle.len()) {
            self.long_bundle = bytes.to_vec();
        }
    }

    /// A long bundle.
    pub(super) fn long_bundle(&self) -> &[u8] {
        &self.long_bundle
    }

    /// A short bundle.
    pub(super) fn bundle(&self) -> &[u8] {
        &self.bundle
    }
}

impl Agent {
    /// What a peer is told in the place of a proposal.
    pub(super) fn propose(&mut self, ledger: &Ledger, to: ReplicaId, frame: Frame) -> Frame {
        let Ok(message) = PrePrepare::decode(frame.payload()) else { return frame };
        if !self.liar.has(Habit::NamesAnything) || self.config.primary(message.view) != self.liar.replica {
            return frame;
        }
        let key = (message.view, message.header.digest());
        let (instead, splits) = match self.named.instead.get(&key) {
            Some(known) => known.clone(),
            None => {
                let made = (self.distort(ledger, message), self.random.percent(10));
                self.named.instead.insert(key, made.clone());
                made
            }
        };
        if splits && to.0.is_multiple_of(2) { frame } else { instead.encode() }
    }

    fn distort(&mut self, ledger: &Ledger, message: PrePrepare) -> PrePrepare {
        let PrePrepare { view, mut header, .. } = message;
        // It goes on from what it has said.
        if let Some((before, _)) = self.named.instead.get(&(view, header.parent)) {
            header.parent = before.header.digest();
        }
        if self.random.percent(35) {
            let parent = Position { seq: header.seq.previous(), digest: header.parent };
            if let Some(tip) = self.choose(ledger, parent, &header.cut) {
                header.cut.retain(|other| other.lane != tip.lane);
                header.cut.push(tip);
                header.cut.sort_unstable();
            }
        }
        let statement = Statement::pre_prepare(&self.config, view, header.seq, &header.digest());
        PrePrepare { view, header, signature: statement.sign(&self.key) }
    }

    /// What it names that no honest primary would.
    fn choose(&mut self, ledger: &Ledger, parent: Position, cut: &[LaneTip]) -> Option<LaneTip> {
        let own: Vec<LaneTip> =
            cut.iter().filter(|tip| tip.lane.origin == self.liar.replica).copied().collect();
        match self.random.below(4) {
            0 | 1 => self.make_up(ledger, parent),
            2 => {
                let lanes: Vec<LaneId> = self.config.lanes().collect();
                let link = self.random.pick(&lanes).link;
                self.some_tip(link)
            }
            _ => own.iter().flat_map(|tip| self.forks.beside(tip)).map(Fork::tip).next_back(),
        }
    }

    /// The next batch of somebody else's lane.
    fn make_up(&mut self, ledger: &Ledger, parent: Position) -> Option<LaneTip> {
        if self.named.bundle.is_empty() {
            return None;
        }
        let others: Vec<LaneId> =
            self.config.lanes().filter(|lane| lane.origin != self.liar.replica).collect();
        let lane = *self.random.pick(&others);
        let nothing = LaneTip { lane, upto: LaneNumber(0), chain: Digest::ZERO };
        let before = ledger.tips_at(parent).get(&lane).copied().unwrap_or(nothing);
        let bundle = self.named.bundle.clone();
        let (tip, frame) = make_batch(&before, &[&bundle, &bundle]);
        self.note_made(tip, before, frame);
        Some(tip)
    }
}
