//! The chain of headers that this replica has accepted, and how far it is prepared and committed.

use quorate_types::{After, Digest, Lsn, Nanoseconds, ReplicaId, Seq, View};
use quorate_wire::message::{PrePrepare, Prepare};
use quorate_wire::{Header, Position};
use std::collections::VecDeque;
use std::sync::Arc;

/// One accepted header.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) header: Arc<Header>,
    pub(crate) digest: Digest,
    /// The signed proposal of the present view, to relay; absent when the header came otherwise.
    pub(crate) proposal: Option<Arc<PrePrepare>>,
    /// Where the journal has it.
    pub(crate) lsn: Lsn,
    /// What must be durable before a PREPARE for this slot or a descendant.
    pub(crate) after: After,
    pub(crate) prepared: bool,
    /// Whether the journal says that this slot may be voted for in the present view.
    pub(crate) voted: bool,
    /// The bytes of the batches that it names, where they were looked at: nothing for a header that came with a new view,
    /// from recovery or as a committed one, whose batches may come later.
    pub(crate) bytes: u64,
    /// The sum of these from the beginning up to this slot; the chain fills it in.
    pub(crate) bytes_upto: u64,
}

impl Slot {
    /// A header that came otherwise than as a proposal of the present view.
    pub(crate) fn new(header: Arc<Header>, digest: Digest, lsn: Lsn, after: After) -> Self {
        let (proposal, prepared, voted, bytes, bytes_upto) = (None, false, false, 0, 0);
        Self { header, digest, proposal, lsn, after, prepared, voted, bytes, bytes_upto }
    }
}

/// The highest slot for which q PREPAREs are known, with the votes. Never collected, even below the stable
/// checkpoint: a view change needs it (DESIGN section 4, view change 6).
#[derive(Clone, Debug)]
pub(crate) struct PreparedCertificate {
    pub(crate) view: View,
    pub(crate) position: Position,
    pub(crate) votes: Vec<(ReplicaId, Arc<Prepare>)>,
    /// Whether the journal has it.
    pub(crate) recorded: bool,
}

impl PreparedCertificate {
    /// Its rank: view first, then slot.
    pub(crate) fn rank(&self) -> (View, Seq) {
        (self.view, self.position.seq)
    }

    /// As it travels.
    pub(crate) fn to_wire(&self) -> quorate_wire::PreparedCertificate {
        let votes = self.votes.iter().map(|(signer, vote)| (*signer, Prepare::clone(vote))).collect();
        quorate_wire::PreparedCertificate { view: self.view, position: self.position, votes }
    }
}

/// Accepted headers above `floor`, consecutive and linked.
#[derive(Debug)]
pub(crate) struct Chain {
    floor: Position,
    /// The time of the header at the floor.
    floor_timestamp: Nanoseconds,
    /// The bytes that slots up to the floor name.
    floor_bytes: u64,
    slots: VecDeque<Slot>,
    committed: Position,
}

impl Chain {
    /// Nothing above `floor`, which is committed.
    pub(crate) fn new(floor: Position, floor_timestamp: Nanoseconds) -> Self {
        Self { floor, floor_timestamp, floor_bytes: 0, slots: VecDeque::new(), committed: floor }
    }

    /// The time of the highest accepted header.
    pub(crate) fn timestamp(&self) -> Nanoseconds {
        self.slots.back().map_or(self.floor_timestamp, |slot| slot.header.timestamp)
    }

    /// The chain begins at a committed position above the present one. Slots that do not extend it are taken off.
    pub(crate) fn install(&mut self, position: Position, timestamp: Nanoseconds) -> Vec<Slot> {
        assert!(position.seq > self.committed.seq, "what is committed is never installed again");
        let mut dropped = Vec::new();
        if self.contains(position) {
            while self.floor.seq < position.seq
                && let Some(slot) = self.slots.pop_front()
            {
                self.floor = Position { seq: slot.header.seq, digest: slot.digest };
                self.floor_bytes = slot.bytes_upto;
            }
        } else {
            dropped.extend(self.slots.drain(..));
        }
        self.floor = position;
        self.floor_timestamp = timestamp;
        self.committed = position;
        dropped
    }

    /// The lowest journal position of the slots above `seq`.
    pub(crate) fn lowest_lsn_above(&self, seq: Seq) -> Option<Lsn> {
        self.slots.iter().filter(|slot| slot.header.seq > seq).map(|slot| slot.lsn).min()
    }

    pub(crate) fn accepted(&self) -> Position {
        self.slots.back().map_or(self.floor, |slot| Position { seq: slot.header.seq, digest: slot.digest })
    }

    pub(crate) fn committed(&self) -> Position {
        self.committed
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        usize::try_from(seq.0.checked_sub(self.floor.seq.0)?.checked_sub(1)?).ok()
    }

    pub(crate) fn slot(&self, seq: Seq) -> Option<&Slot> {
        self.slots.get(self.index(seq)?)
    }

    pub(crate) fn slot_mut(&mut self, seq: Seq) -> Option<&mut Slot> {
        let index = self.index(seq)?;
        self.slots.get_mut(index)
    }

    /// The chain digest at `seq`, when it is still kept.
    pub(crate) fn digest(&self, seq: Seq) -> Option<Digest> {
        if seq == self.floor.seq {
            return Some(self.floor.digest);
        }
        self.slot(seq).map(|slot| slot.digest)
    }

    pub(crate) fn contains(&self, position: Position) -> bool {
        self.digest(position.seq) == Some(position.digest)
    }

    fn bytes_upto(&self) -> u64 {
        self.slots.back().map_or(self.floor_bytes, |slot| slot.bytes_upto)
    }

    /// The bytes of batches that the slots above `seq` name.
    pub(crate) fn bytes_above(&self, seq: Seq) -> u64 {
        let below = if seq >= self.accepted().seq {
            self.bytes_upto()
        } else {
            self.slot(seq).map_or(self.floor_bytes, |slot| slot.bytes_upto)
        };
        self.bytes_upto() - below
    }

    /// Appends the next slot.
    pub(crate) fn push(&mut self, mut slot: Slot) {
        let tip = self.accepted();
        assert_eq!(slot.header.seq, tip.seq.next(), "headers are accepted in order");
        assert_eq!(slot.header.parent, tip.digest, "an accepted header links to its parent");
        slot.bytes_upto = self.bytes_upto().saturating_add(slot.bytes);
        self.slots.push_back(slot);
    }

    /// Takes uncommitted slots above `seq` off and returns them, highest first.
    pub(crate) fn truncate(&mut self, seq: Seq) -> Vec<Slot> {
        assert!(seq >= self.committed.seq, "a committed slot is never dropped from the top");
        let mut dropped = Vec::new();
        while self.accepted().seq > seq {
            dropped.extend(self.slots.pop_back());
        }
        dropped
    }

    /// A new view begins: what was proposed and prepared in the one before counts no longer.
    pub(crate) fn forget_view(&mut self) {
        for slot in &mut self.slots {
            slot.proposal = None;
            slot.prepared = false;
            slot.voted = false;
        }
    }

    /// The header at a position of this chain, if it is kept.
    pub(crate) fn header(&self, position: Position) -> Option<&Arc<Header>> {
        self.slot(position.seq).filter(|slot| slot.digest == position.digest).map(|slot| &slot.header)
    }

    /// Commits the next slot and returns it.
    pub(crate) fn commit_next(&mut self) -> (Arc<Header>, Position) {
        let seq = self.committed.seq.next();
        let slot = self.slot(seq).expect("invariant: only accepted slots are committed");
        let position = Position { seq, digest: slot.digest };
        let header = Arc::clone(&slot.header);
        self.committed = position;
        (header, position)
    }

    /// Forgets slots up to `seq`, which must be committed.
    pub(crate) fn trim(&mut self, seq: Seq) {
        assert!(seq <= self.committed.seq, "an uncommitted slot is never dropped from the bottom");
        while self.floor.seq < seq
            && let Some(slot) = self.slots.pop_front()
        {
            self.floor = Position { seq: slot.header.seq, digest: slot.digest };
            self.floor_timestamp = slot.header.timestamp;
            self.floor_bytes = slot.bytes_upto;
        }
    }

    pub(crate) fn floor(&self) -> Position {
        self.floor
    }

    /// The number of headers kept.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}
