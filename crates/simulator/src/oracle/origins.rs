//! What is ordered of an honest origin's lane is what that origin has sealed, whoever leads.

use super::Violation;
use super::agreement::Agreement;
use crate::ledger::Ledger;
use quorate_types::{Digest, LaneId, LaneNumber, ReplicaSet, Seq};
use quorate_wire::{LaneTip, Position};
use std::collections::{BTreeMap, BTreeSet};

const ORACLE: &str = "origins";

/// What origins have sealed, and up to where the order was compared with that.
#[derive(Debug)]
pub struct Origins {
    lying: ReplicaSet,
    sealed: BTreeSet<Digest>,
    checked: Seq,
    tips: BTreeMap<LaneId, LaneNumber>,
}

impl Origins {
    /// Nothing is sealed yet.
    #[must_use]
    pub fn new(lying: ReplicaSet) -> Self {
        Self { lying, sealed: BTreeSet::new(), checked: Seq(0), tips: BTreeMap::new() }
    }

    /// An origin writes down a batch of its own lane.
    pub fn on_sealed(&mut self, chain: Digest) {
        self.sealed.insert(chain);
    }

    /// Somebody has committed up to a slot.
    pub fn on_committed(
        &mut self,
        ledger: &Ledger,
        agreement: &Agreement,
        committed: Position,
    ) -> Result<(), Violation> {
        while self.checked < committed.seq {
            let seq = self.checked.next();
            let header = agreement.decided(seq).and_then(|position| ledger.header(&position.digest));
            let Some(header) = header else { return Ok(()) };
            self.checked = seq;
            header.cut.iter().try_for_each(|tip| self.check(ledger, seq, tip))?;
        }
        Ok(())
    }

    fn check(&mut self, ledger: &Ledger, seq: Seq, tip: &LaneTip) -> Result<(), Violation> {
        let above = self.tips.insert(tip.lane, tip.upto).unwrap_or_default();
        if self.lying.contains(tip.lane.origin) {
            return Ok(());
        }
        let (mut number, mut chain) = (tip.upto, tip.chain);
        while number > above {
            if !self.sealed.contains(&chain) {
                let text = format!(
                    "{number:?}:{chain:?} of lane {} is ordered at {seq:?}, and was never sealed",
                    tip.lane
                );
                return Err(Violation::new(ORACLE, text));
            }
            // Whoever has sealed a batch has written down what it names.
            let Some(batch) = ledger.batch(&chain) else { return Ok(()) };
            (number, chain) = (number.previous(), batch.previous);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{Epoch, LinkId, Nanoseconds, ReplicaId};
    use quorate_wire::Header;
    use std::sync::Arc;

    #[test]
    fn what_no_origin_has_sealed_is_seen_and_what_a_liar_has_made_is_not() {
        let genesis = Position { seq: Seq(0), digest: Digest([9; 32]) };
        let lane = |origin| LaneId { origin: ReplicaId(origin), link: LinkId(0) };
        let judge = |origin: u8, sealed: bool| {
            let chain = Digest([5; 32]);
            let cut = vec![LaneTip { lane: lane(origin), upto: LaneNumber(1), chain }];
            let header = Header {
                epoch: Epoch(0),
                seq: Seq(1),
                parent: genesis.digest,
                timestamp: Nanoseconds(1),
                cut,
            };
            let mut ledger = Ledger::default();
            let position = Position { seq: Seq(1), digest: ledger.note_header(&Arc::new(header)) };
            let mut agreement = Agreement::new(4, genesis);
            agreement.on_committed(&ledger, ReplicaId(0), position).unwrap();
            let mut origins = Origins::new(ReplicaSet::only(ReplicaId(2)));
            if sealed {
                origins.on_sealed(chain);
            }
            origins.on_committed(&ledger, &agreement, position)
        };
        assert!(judge(1, true).is_ok() && judge(2, false).is_ok());
        assert_eq!(judge(1, false).unwrap_err().oracle, ORACLE);
    }
}
