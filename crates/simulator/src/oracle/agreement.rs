//! Agreement: one header per slot, one root per checkpoint, and nobody goes back.

use super::Violation;
use crate::ledger::Ledger;
use quorate_types::{Digest, ReplicaId, ReplicaSet, Seq};
use quorate_wire::Position;
use std::collections::BTreeMap;

const ORACLE: &str = "agreement";

/// What one replica has committed and executed.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    committed: Position,
    executed: Position,
}

/// What all replicas have committed, executed and computed.
#[derive(Debug)]
pub struct Agreement {
    genesis: Position,
    progress: Vec<Progress>,
    /// The chain digest of every slot, and who committed it first.
    decided: BTreeMap<Seq, (Digest, ReplicaId)>,
    /// The root of the state after a slot, and who computed it first.
    roots: BTreeMap<Seq, (Digest, ReplicaId)>,
}

impl Agreement {
    /// Nobody of `replicas` has decided anything yet.
    #[must_use]
    pub fn new(replicas: usize, genesis: Position) -> Self {
        let start = Progress { committed: genesis, executed: genesis };
        let (progress, decided, roots) = (vec![start; replicas], BTreeMap::new(), BTreeMap::new());
        Self { genesis, progress, decided, roots }
    }

    /// A replica says how far it has committed; says whether that is news.
    pub fn on_committed(
        &mut self,
        ledger: &Ledger,
        replica: ReplicaId,
        committed: Position,
    ) -> Result<bool, Violation> {
        let before = self.progress[replica.index()].committed;
        self.advance(ledger, replica, "committed", before, committed)?;
        self.progress[replica.index()].committed = committed;
        Ok(committed != before)
    }

    /// A replica says how far it has executed; says whether that is news.
    pub fn on_executed(
        &mut self,
        ledger: &Ledger,
        replica: ReplicaId,
        executed: Position,
    ) -> Result<bool, Violation> {
        let before = self.progress[replica.index()].executed;
        self.advance(ledger, replica, "executed", before, executed)?;
        self.progress[replica.index()].executed = executed;
        Ok(executed != before)
    }

    /// A replica starts again, from whatever its disk gives back.
    pub fn on_restart(&mut self, replica: ReplicaId) {
        self.progress[replica.index()] = Progress { committed: self.genesis, executed: self.genesis };
    }

    fn advance(
        &mut self,
        ledger: &Ledger,
        replica: ReplicaId,
        what: &str,
        before: Position,
        after: Position,
    ) -> Result<(), Violation> {
        if after == before {
            return Ok(());
        }
        if after.seq <= before.seq {
            let (from, to) = (describe(before), describe(after));
            return Err(Violation::new(ORACLE, format!("{what} went from {from} to {to}")));
        }
        let Some(headers) = ledger.headers_down(after, before.seq) else {
            let to = describe(after);
            return Err(Violation::new(ORACLE, format!("{what} {to}, a chain that nobody wrote down")));
        };
        for (position, _) in &headers {
            self.decide(replica, what, *position)?;
        }
        let bottom = headers.last().map(|(_, header)| header.parent);
        if bottom != Some(before.digest) {
            let (from, to) = (describe(before), describe(after));
            return Err(Violation::new(ORACLE, format!("{what} {to}, which does not extend its own {from}")));
        }
        Ok(())
    }

    fn decide(&mut self, replica: ReplicaId, what: &str, position: Position) -> Result<(), Violation> {
        let (digest, first) = self.decided.entry(position.seq).or_insert((position.digest, replica));
        if *digest != position.digest {
            let other = describe(Position { seq: position.seq, digest: *digest });
            let message = format!("{what} {}, while replica {first} has {other}", describe(position));
            return Err(Violation::new(ORACLE, message));
        }
        Ok(())
    }

    /// A replica says which root the state has after a slot.
    pub fn on_root(&mut self, replica: ReplicaId, seq: Seq, root: Digest) -> Result<(), Violation> {
        let (digest, first) = self.roots.entry(seq).or_insert((root, replica));
        if *digest != root {
            let message = format!("root {root:?} after {seq:?}, while replica {first} has {digest:?}");
            return Err(Violation::new("equal roots", message));
        }
        Ok(())
    }

    /// The highest slot that any replica has executed.
    #[must_use]
    pub fn executed_highest(&self) -> Position {
        let highest = self.progress.iter().map(|progress| progress.executed).max_by_key(|at| at.seq);
        highest.unwrap_or(self.genesis)
    }

    /// The header of a slot, if somebody has committed it.
    #[must_use]
    pub fn decided(&self, seq: Seq) -> Option<Position> {
        self.decided.get(&seq).map(|(digest, _)| Position { seq, digest: *digest })
    }

    /// How far a replica has executed.
    #[must_use]
    pub fn executed(&self, replica: ReplicaId) -> Position {
        self.progress[replica.index()].executed
    }

    /// How far a replica has committed.
    #[must_use]
    pub fn committed(&self, replica: ReplicaId) -> Position {
        self.progress[replica.index()].committed
    }

    /// Whether all replicas but those in `stopped` have executed the same, and all that anybody committed.
    #[must_use]
    pub fn is_level(&self, stopped: ReplicaSet) -> bool {
        let highest = self.executed_highest();
        let level = |progress: &Progress| progress.executed == highest && progress.committed == highest;
        let mut moving = ReplicaSet::all(self.progress.len());
        stopped.iter().for_each(|replica| moving.remove(replica));
        moving.iter().all(|replica| level(&self.progress[replica.index()]))
    }

    /// The number of roots that were compared.
    #[must_use]
    pub fn roots(&self) -> usize {
        self.roots.len()
    }
}

fn describe(position: Position) -> String {
    format!("{:?}:{:?}", position.seq, position.digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{Epoch, Nanoseconds};
    use quorate_wire::Header;
    use std::sync::Arc;

    fn genesis() -> Position {
        Position { seq: Seq(0), digest: Digest([9; 32]) }
    }

    /// Adds a header on `parent` and returns its position.
    fn extend(ledger: &mut Ledger, parent: Position, timestamp: u64) -> Position {
        let header = Header {
            epoch: Epoch(0),
            seq: parent.seq.next(),
            parent: parent.digest,
            timestamp: Nanoseconds(timestamp),
            cut: Vec::new(),
        };
        let seq = header.seq;
        Position { seq, digest: ledger.note_header(&Arc::new(header)) }
    }

    #[test]
    fn two_headers_at_one_slot_are_seen_even_below_the_tip() {
        let mut ledger = Ledger::default();
        let left = extend(&mut ledger, genesis(), 1);
        let right = extend(&mut ledger, genesis(), 2);
        let right_child = extend(&mut ledger, right, 3);
        let mut agreement = Agreement::new(2, genesis());
        assert_eq!(agreement.on_committed(&ledger, ReplicaId(0), left), Ok(true));
        assert_eq!(agreement.on_committed(&ledger, ReplicaId(0), left), Ok(false));
        let violation = agreement.on_committed(&ledger, ReplicaId(1), right_child).unwrap_err();
        assert!(violation.message.contains("while replica 0 has s1"), "{violation:?}");
    }

    #[test]
    fn going_back_or_aside_is_seen() {
        let mut ledger = Ledger::default();
        let left = extend(&mut ledger, genesis(), 1);
        let left_child = extend(&mut ledger, left, 2);
        let mut agreement = Agreement::new(1, genesis());
        agreement.on_executed(&ledger, ReplicaId(0), left_child).unwrap();
        assert!(agreement.on_executed(&ledger, ReplicaId(0), left).is_err());
        let unknown = Position { seq: Seq(3), digest: Digest([1; 32]) };
        assert!(agreement.on_executed(&ledger, ReplicaId(0), unknown).is_err());
    }

    #[test]
    fn two_roots_after_one_slot_are_seen() {
        let mut agreement = Agreement::new(2, genesis());
        agreement.on_root(ReplicaId(0), Seq(4), Digest([1; 32])).unwrap();
        agreement.on_root(ReplicaId(1), Seq(4), Digest([1; 32])).unwrap();
        assert_eq!(
            agreement.on_root(ReplicaId(1), Seq(4), Digest([2; 32])).unwrap_err().oracle,
            "equal roots"
        );
    }

    #[test]
    fn level_means_that_all_executed_all_that_is_committed() {
        let mut ledger = Ledger::default();
        let first = extend(&mut ledger, genesis(), 1);
        let mut agreement = Agreement::new(2, genesis());
        let stopped = ReplicaSet::only(ReplicaId(1));
        assert!(agreement.is_level(ReplicaSet::EMPTY));
        agreement.on_committed(&ledger, ReplicaId(0), first).unwrap();
        assert!(!agreement.is_level(stopped));
        agreement.on_executed(&ledger, ReplicaId(0), first).unwrap();
        assert!(agreement.is_level(stopped));
        assert!(!agreement.is_level(ReplicaSet::EMPTY));
    }
}
