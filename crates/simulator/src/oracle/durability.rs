//! Durable before send (DESIGN section 5): what leaves a replica never says more than what its disk holds.
//!
//! Only what a core was told to be durable counts, so a replica that guesses right is still found.

use super::Violation;
use super::agreement::Agreement;
use crate::ledger::Ledger;
use quorate_journal::{CONSENSUS_JOURNAL, Record};
use quorate_types::{Digest, JournalId, LaneId, LaneNumber, Lsn, ReplicaId, ReplicaSet, Seq, View, Why};
use quorate_wire::message::{Commit, Prepare};
use quorate_wire::{LaneTip, Position};
use std::collections::{BTreeMap, BTreeSet};

const ORACLE: &str = "durable before send";
const KEPT: &str = "what was durable is there after a restart";

/// What a record says, without its bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A batch is held, and why.
    Batch(Digest, Why),
    /// A header was accepted, and perhaps it may be voted for.
    Accept(View, Position, bool),
    /// A slot is prepared.
    Prepared(View, Position),
    /// A checkpoint is certified.
    Checkpoint(Seq),
    /// All views below are left.
    ViewState(View),
    /// A view begins at a slot.
    EnterView(View, Position),
    /// What trimmed facts leave behind: what was voted for up to where in a view, and what is stable.
    Promised(View, Seq, Seq),
}

impl Fact {
    /// The fact in a record, which is noted in the ledger too.
    pub fn of(record: &Record, ledger: &mut Ledger) -> Result<Self, Violation> {
        Ok(match record {
            Record::Batch(frame, why) => {
                let noted = ledger.note_batch(frame);
                let noted =
                    noted.map_err(|error| Violation::new(ORACLE, format!("wrote a batch: {error}")))?;
                Self::Batch(noted.chain, *why)
            }
            Record::Accept { view, header, voted } => {
                let digest = ledger.note_header(header);
                Self::Accept(*view, Position { seq: header.seq, digest }, *voted)
            }
            Record::Prepared { view, position, .. } => Self::Prepared(*view, *position),
            Record::Checkpoint(certificate) => Self::Checkpoint(certificate.position.seq),
            Record::ViewState { view } => Self::ViewState(*view),
            Record::EnterView { view, head, .. } => Self::EnterView(*view, *head),
            Record::Promised { view, voted, stable } => {
                Self::Promised(*view, voted.map_or(Seq(0), |voted| voted.seq), stable.seq)
            }
        })
    }

    /// The lowest view in which its writer may still speak.
    fn view(&self) -> View {
        match self {
            Self::ViewState(view) | Self::EnterView(view, _) => *view,
            _ => View(0),
        }
    }
}

/// What a replica finds on its disk when it starts.
#[derive(Debug, Default)]
pub struct Restart {
    /// What the logs hold.
    pub facts: Vec<(JournalId, Lsn, Fact)>,
    /// The end of each journal.
    pub ends: BTreeMap<JournalId, Lsn>,
    /// The slot of the checkpoint that it goes on from.
    pub checkpoint: Option<Position>,
    /// The slot of one whose state cannot be read.
    pub broken: Option<Position>,
    /// Whether the disk was damaged while it was down.
    pub damaged: bool,
    /// Whether that costs nothing but pages and batches, ever.
    pub keeps_votes: bool,
    /// The batches that have gone bad.
    pub rotten: BTreeSet<(JournalId, Lsn)>,
}

/// What one replica has on disk.
#[derive(Debug, Default)]
struct Disk {
    /// Appended, and not known to be durable.
    written: BTreeMap<(JournalId, Lsn), Fact>,
    /// Durable and not trimmed.
    journaled: BTreeMap<(JournalId, Lsn), Fact>,
    /// Up to where the replica knows its journals to be durable.
    told: BTreeMap<JournalId, Lsn>,
    batches: BTreeSet<Digest>,
    /// Accepted headers that may be voted for.
    accepts: BTreeSet<(View, Digest)>,
    /// The batches on chains that were ever acknowledged to others: a fact that no restart takes back.
    said: BTreeSet<Digest>,
    prepared: BTreeMap<(View, Seq), Digest>,
    stable: Seq,
    /// The checkpoints of the own state, ascending.
    checkpoints: BTreeMap<Seq, Position>,
    /// The highest view up to which all lower ones are left.
    left: View,
    /// The views that were entered, with their heads.
    entered: BTreeMap<View, Seq>,
    /// Headers whose batches, and those of all ancestors above stable, were found durable.
    covered: BTreeSet<Digest>,
    /// Lane tips whose chain was found durable.
    chains: BTreeSet<Digest>,
    /// Whether it was ever damaged: batches that its checkpoint covers may be missing.
    damaged: bool,
    /// Whether votes were lost: then its replica is a learner.
    forgotten: bool,
}

/// What all replicas have on disk.
#[derive(Debug)]
pub struct Durability {
    disks: Vec<Disk>,
}

impl Durability {
    /// Empty disks; those of liars need hold nothing.
    #[must_use]
    pub fn new(replicas: usize, lying: ReplicaSet) -> Self {
        let mut disks: Vec<Disk> = (0..replicas).map(|_| Disk::default()).collect();
        lying.iter().for_each(|liar| disks[liar.index()].forgotten = true);
        Self { disks }
    }

    /// A record is on its way to the disk.
    pub fn on_append(
        &mut self,
        replica: ReplicaId,
        journal: JournalId,
        lsn: Lsn,
        fact: Fact,
    ) -> Result<(), Violation> {
        let disk = &mut self.disks[replica.index()];
        if let Fact::Accept(view, position, true) = fact
            && position.seq <= disk.stable
        {
            let text =
                format!("accepts {position:?} in {view:?} to vote for it, {:?} is stable", disk.stable);
            return Err(Violation::new("nothing is accepted at or below stable", text));
        }
        disk.written.insert((journal, lsn), fact);
        Ok(())
    }

    /// A replica is told that a journal is durable up to a position. Returns what is news by it.
    pub fn on_durable(&mut self, replica: ReplicaId, journal: JournalId, upto: Lsn) -> Vec<Fact> {
        let disk = &mut self.disks[replica.index()];
        let told = disk.told.entry(journal).or_default();
        *told = (*told).max(upto);
        let durable: Vec<(JournalId, Lsn)> =
            disk.written.range((journal, Lsn(0))..=(journal, upto)).map(|(key, _)| *key).collect();
        let facts: Vec<Fact> = durable.iter().filter_map(|key| disk.written.remove(key)).collect();
        for (key, fact) in durable.into_iter().zip(&facts) {
            disk.journaled.insert(key, *fact);
            disk.apply(*fact);
        }
        facts
    }

    /// The slot of the newest certificate that a replica has on disk.
    #[must_use]
    pub fn stable(&self, replica: ReplicaId) -> Seq {
        self.disks[replica.index()].stable
    }

    /// A replica is told that its state after a slot is durable.
    pub fn on_checkpointed(&mut self, ledger: &Ledger, replica: ReplicaId, position: Position) {
        let disk = &mut self.disks[replica.index()];
        disk.checkpoints.insert(position.seq, position);
        disk.chains.extend(ledger.tips_at(position).into_values().map(|tip| tip.chain));
    }

    /// A replica gives up its durable states but those after these slots, and later ones.
    pub fn on_states_needed(&mut self, replica: ReplicaId, needed: &[Seq]) {
        let disk = &mut self.disks[replica.index()];
        disk.checkpoints.retain(|seq, _| needed.last() < Some(seq) || needed.contains(seq));
    }

    /// The process is gone: what was not durable may be, or not.
    pub fn on_crash(&mut self, replica: ReplicaId) {
        self.disks[replica.index()].written.clear();
    }

    /// The disk is gone.
    pub fn on_loss(&mut self, replica: ReplicaId) {
        self.disks[replica.index()] = Disk { forgotten: true, damaged: true, ..Disk::default() };
    }

    /// Votes are lost.
    pub fn on_learner(&mut self, replica: ReplicaId) {
        self.disks[replica.index()].forgotten = true;
    }

    /// A replica starts again: all that it knew to be durable is there, if nobody has damaged it. Returns what it finds.
    pub fn on_restart(
        &mut self,
        ledger: &Ledger,
        replica: ReplicaId,
        restart: Restart,
    ) -> Result<Vec<Fact>, Violation> {
        let disk = &mut self.disks[replica.index()];
        let Restart { facts, ends, checkpoint, broken, damaged, keeps_votes, rotten } = restart;
        disk.damaged |= damaged;
        let found: BTreeMap<(JournalId, Lsn), Fact> =
            facts.iter().map(|(journal, lsn, fact)| ((*journal, *lsn), *fact)).collect();
        if !disk.damaged || keeps_votes {
            let end = |journal: &JournalId| ends.get(journal).copied().unwrap_or_default();
            if let Some((journal, told)) = disk.told.iter().find(|(journal, told)| end(journal) < **told) {
                let text = format!("{journal:?} ends at {:?}, {told:?} was durable", end(journal));
                return Err(Violation::new(KEPT, text));
            }
            if let Some((key, fact)) = disk
                .journaled
                .iter()
                .find(|(key, fact)| found.get(*key) != Some(*fact) && !rotten.contains(key))
            {
                return Err(Violation::new(KEPT, format!("{fact:?} was durable at {key:?} and is gone")));
            }
        }
        if !disk.damaged {
            let newest = disk.checkpoints.range(..=disk.stable).next_back().map(|(_, position)| *position);
            if newest.map(|newest| newest.seq) > checkpoint.map(|found| found.seq) {
                let text =
                    format!("goes on from {checkpoint:?}, though {newest:?} was durable and certified");
                return Err(Violation::new(KEPT, text));
            }
            let certified = facts.iter().filter_map(|(_, _, fact)| match fact {
                Fact::Checkpoint(seq) => Some(*seq),
                _ => None,
            });
            let certified = certified.max().unwrap_or_default();
            if let Some(ahead) = checkpoint.filter(|found| found.seq > certified && !disk.forgotten) {
                let text = format!("goes on from {ahead:?}, but no certificate is known above {certified:?}");
                return Err(Violation::new(KEPT, text));
            }
        }
        disk.checkpoints.retain(|seq, _| checkpoint.is_some_and(|found| *seq <= found.seq));
        disk.told = ends;
        disk.journaled = found;
        disk.written.clear();
        disk.batches.clear();
        disk.covered.clear();
        disk.chains.clear();
        for (_, _, fact) in &facts {
            disk.apply(*fact);
        }
        if let Some(position) = broken {
            // It knows where the lanes stood, and that all before was executed.
            disk.chains.extend(ledger.tips_at(position).into_values().map(|tip| tip.chain));
        }
        if let Some(position) = checkpoint {
            self.on_checkpointed(ledger, replica, position);
        }
        Ok(facts.into_iter().map(|(_, _, fact)| fact).collect())
    }

    /// A replica says that a journal is not needed any more up to a position.
    pub fn on_trim(
        &mut self,
        ledger: &Ledger,
        agreement: &Agreement,
        replica: ReplicaId,
        journal: JournalId,
        upto: Lsn,
    ) -> Result<(), Violation> {
        let disk = &mut self.disks[replica.index()];
        let newest = disk.checkpoints.range(..=disk.stable).next_back().map(|(_, position)| *position);
        let gone = disk.facts(journal, Lsn(0), upto);
        let stays = disk.facts(journal, upto.next(), Lsn(u64::MAX));
        let lost = if journal == CONSENSUS_JOURNAL {
            // Who never votes again may forget what it has voted.
            lost_votes(&gone, &stays).filter(|_| !disk.forgotten)
        } else {
            let tips = newest.map(|newest| ledger.tips_at(newest)).unwrap_or_default();
            let decided = ledger.tips_at(agreement.committed(replica));
            let is_needed = |chain: Digest, why: Why| {
                // Old ones may have been appended again, so that a lane that stands still keeps no other.
                let stays = stays.iter().any(|fact| matches!(fact, Fact::Batch(other, _) if *other == chain));
                !stays
                    && follows(ledger, &tips, chain)
                    && !is_dead(ledger, &decided, chain)
                    && (why > Why::Named
                        || disk.said.contains(&chain)
                        || disk.is_named(ledger, agreement, newest, chain))
            };
            // What does not connect to the state any more, as something before it is damaged, comes from others.
            let mut batches = gone.iter().filter(|_| !disk.damaged);
            batches.find(|fact| matches!(fact, Fact::Batch(chain, why) if is_needed(*chain, *why))).copied()
        };
        if let Some(fact) = lost {
            let text = format!(
                "{journal:?} up to {upto:?} with {fact:?}, though the own state is durable and certified at {newest:?}"
            );
            return Err(Violation::new("trimming", text));
        }
        disk.journaled.retain(|(other, lsn), _| *other != journal || *lsn > upto);
        Ok(())
    }

    /// A checkpoint vote leaves: the state is durable.
    pub fn before_checkpoint(&self, replica: ReplicaId, position: Position) -> Result<(), Violation> {
        if self.disks[replica.index()].checkpoints.get(&position.seq) != Some(&position) {
            let text = format!("checkpoint vote for {position:?}, whose state is not durable");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }

    /// A PREPARE leaves: its headers are accepted on disk, and so are the batches of them and their ancestors
    /// above the stable checkpoint.
    pub fn before_prepare(
        &mut self,
        ledger: &Ledger,
        replica: ReplicaId,
        message: &Prepare,
    ) -> Result<(), Violation> {
        let disk = &mut self.disks[replica.index()];
        let head = disk.entered.get(&message.view).copied();
        if message.view > View(0) && head.is_none_or(|head| message.lo < head) {
            let (view, lo) = (message.view, message.lo);
            let text = format!("PREPARE from {lo:?} in {view:?}, which begins on disk at {head:?}");
            return Err(Violation::new(ORACLE, text));
        }
        for (offset, digest) in (0..).zip(&message.digests) {
            let seq = message.lo.plus(offset);
            if !disk.accepts.contains(&(message.view, *digest)) {
                let text = format!("PREPARE for {seq:?}:{digest:?}, whose Accept is not durable");
                return Err(Violation::new(ORACLE, text));
            }
            disk.cover(ledger, Position { seq, digest: *digest })?;
        }
        Ok(())
    }

    /// A COMMIT leaves: its certificate is on disk.
    pub fn before_commit(&self, replica: ReplicaId, message: &Commit) -> Result<(), Violation> {
        let position = message.position;
        let held = self.disks[replica.index()].prepared.get(&(message.view, position.seq));
        if held != Some(&position.digest) {
            let (seq, digest) = (position.seq, position.digest);
            let text = format!("COMMIT for {seq:?}:{digest:?}, whose certificate is not durable");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }

    /// A VIEW-CHANGE leaves: what it promises is on disk.
    pub fn before_view_change(&self, replica: ReplicaId, view: View) -> Result<(), Violation> {
        let left = self.disks[replica.index()].left;
        if left < view {
            let text = format!("VIEW-CHANGE to {view:?}, while the disk says {left:?}");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }

    /// A NEW-VIEW leaves a replica, its primary or one that passes it on: the view is entered on disk.
    pub fn before_new_view(&self, replica: ReplicaId, view: View) -> Result<(), Violation> {
        if !self.disks[replica.index()].entered.contains_key(&view) {
            let text = format!("NEW-VIEW of {view:?}, which is not entered on disk");
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }

    /// An acknowledgement leaves: the batch and all before it are on disk.
    pub fn before_acknowledgement(
        &mut self,
        ledger: &Ledger,
        replica: ReplicaId,
        tip: &LaneTip,
    ) -> Result<(), Violation> {
        let disk = &mut self.disks[replica.index()];
        let (mut number, mut chain) = (tip.upto, tip.chain);
        while number > LaneNumber(0) && !disk.chains.contains(&chain) {
            let batch = ledger.batch(&chain).filter(|_| disk.batches.contains(&chain));
            let Some(batch) = batch.filter(|batch| batch.lane == tip.lane && batch.number == number) else {
                let text = format!("acknowledgement of {tip:?}, but batch {number:?} is not durable");
                return Err(Violation::new(ORACLE, text));
            };
            disk.said.insert(chain);
            (number, chain) = (number.previous(), batch.previous);
        }
        disk.chains.insert(tip.chain);
        Ok(())
    }

    /// Something was acknowledged to a client at `position`: q replicas must be unable to forget it. Those that have lost
    /// their votes may have been among them.
    #[must_use]
    pub fn replicas_with_certificate(&self, ledger: &Ledger, position: Position) -> usize {
        let covers = |disk: &Disk| {
            disk.prepared.iter().any(|((_, seq), digest)| {
                let certified = Position { seq: *seq, digest: *digest };
                *seq >= position.seq
                    && ledger.headers_down(certified, position.seq).is_some_and(|headers| {
                        let below = headers.last().map_or(*digest, |(_, header)| header.parent);
                        below == position.digest
                    })
            })
        };
        self.disks.iter().filter(|disk| disk.forgotten || covers(disk)).count()
    }
}

impl Disk {
    fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Batch(chain, _) => {
                self.batches.insert(chain);
            }
            Fact::Accept(view, position, voted) => {
                if voted {
                    self.accepts.insert((view, position.digest));
                }
            }
            Fact::Prepared(view, position) => {
                self.prepared.insert((view, position.seq), position.digest);
            }
            Fact::Checkpoint(seq) => self.stable = self.stable.max(seq),
            Fact::ViewState(view) => self.left = self.left.max(view),
            Fact::EnterView(view, head) => {
                self.left = self.left.max(view);
                self.entered.insert(view, head.seq);
            }
            // It says nothing new while what it stands for is there.
            Fact::Promised(..) => {}
        }
    }

    /// Whether a header that was accepted names a batch above the own state, and no commit has left it out: a batch that
    /// is held for its name alone may go when that is so (DESIGN section 4).
    fn is_named(
        &self,
        ledger: &Ledger,
        agreement: &Agreement,
        state: Option<Position>,
        batch: Digest,
    ) -> bool {
        let floor = state.map_or(Seq(0), |state| state.seq);
        self.accepts.iter().any(|(_, digest)| {
            let Some(header) = ledger.header(digest).filter(|header| header.seq > floor) else {
                return false;
            };
            let names = |tip: &LaneTip| {
                let above = named_before(ledger, tip.lane, &header.parent);
                ledger.batches_between(above, tip).is_some_and(|batches| {
                    batches.iter().skip(1).any(|next| next.previous == batch) || tip.chain == batch
                })
            };
            header.cut.iter().any(names)
                && !is_left_out(ledger, agreement, Position { seq: header.seq, digest: *digest })
        })
    }

    /// What is appended to a journal from `first` to `last`, durable or not.
    fn facts(&self, journal: JournalId, first: Lsn, last: Lsn) -> Vec<Fact> {
        let range = (journal, first)..=(journal, last);
        self.journaled.range(range.clone()).chain(self.written.range(range)).map(|(_, fact)| *fact).collect()
    }

    /// Up to which slot the batches need not be here.
    fn floor(&self) -> Seq {
        let own = self.checkpoints.keys().next_back().copied().unwrap_or_default();
        if self.damaged { self.stable.max(own) } else { self.stable }
    }

    fn cover(&mut self, ledger: &Ledger, tip: Position) -> Result<(), Violation> {
        let mut at = tip;
        let mut fresh = Vec::new();
        while at.seq > self.floor() && !self.covered.contains(&at.digest) {
            let Some(header) = ledger.header(&at.digest) else { break };
            for named in &header.cut {
                self.check_named(ledger, tip, at.seq, named, &header.parent)?;
            }
            fresh.push(at.digest);
            at = Position { seq: at.seq.previous(), digest: header.parent };
        }
        self.covered.extend(fresh);
        Ok(())
    }

    /// All batches of a lane that a header names, down to where its parent chain had left the lane.
    fn check_named(
        &self,
        ledger: &Ledger,
        tip: Position,
        seq: Seq,
        named: &LaneTip,
        parent: &Digest,
    ) -> Result<(), Violation> {
        let above = named_before(ledger, named.lane, parent);
        let Some(batches) = ledger.batches_between(above, named) else {
            let text = format!("PREPARE for {:?} names {named:?}, which nobody wrote down", tip.seq);
            return Err(Violation::new(ORACLE, text));
        };
        let chains = batches.iter().skip(1).map(|batch| batch.previous).chain([named.chain]);
        for (batch, chain) in batches.iter().zip(chains) {
            if !self.batches.contains(&chain) {
                let text = format!(
                    "PREPARE for {:?}, but batch {:?} of {:?}, named by {seq:?}, is not durable",
                    tip.seq, batch.number, batch.lane
                );
                return Err(Violation::new(ORACLE, text));
            }
        }
        Ok(())
    }
}

/// What must not go when `gone` does, unless it is among what `stays`: the highest view, the entry to it, the highest
/// certificates, the highest promise, and what was voted for in the highest view, unless a promise covers it: that there
/// is a newer state is no excuse, as it may be damaged.
fn lost_votes(gone: &[Fact], stays: &[Fact]) -> Option<Fact> {
    let highest = |rank: fn(&Fact) -> Option<(View, Seq)>| {
        let kept = stays.iter().filter_map(rank).max();
        gone.iter().copied().filter(|fact| rank(fact) > kept).max_by_key(rank)
    };
    let view = highest(|fact| (fact.view() > View(0)).then_some((fact.view(), Seq(0))));
    let entry = highest(|fact| match fact {
        // In the first view everybody is from the beginning.
        Fact::EnterView(view, _) if *view > View(0) => Some((*view, Seq(0))),
        _ => None,
    });
    let certificate = highest(|fact| match fact {
        Fact::Prepared(view, position) => Some((*view, position.seq)),
        _ => None,
    });
    let checkpoint = highest(|fact| match fact {
        Fact::Checkpoint(seq) => Some((View(0), *seq)),
        _ => None,
    });
    let promise = highest(|fact| match fact {
        Fact::Promised(view, voted, _) => Some((*view, *voted)),
        _ => None,
    });
    let current = gone.iter().chain(stays).map(Fact::view).max().unwrap_or_default();
    let vote = gone.iter().copied().find(|fact| {
        let Fact::Accept(view, position, true) = fact else { return false };
        *view == current
            && !stays.iter().any(|other| match other {
                Fact::Accept(in_view, at, _) => in_view == view && at == position,
                Fact::Promised(in_view, voted, stable) => {
                    *stable >= position.seq || (in_view == view && *voted >= position.seq)
                }
                _ => false,
            })
    });
    view.or(entry).or(certificate).or(checkpoint).or(promise).or(vote)
}

/// Whether a batch stands beside what these tips have decided of its lane.
fn is_dead(ledger: &Ledger, decided: &BTreeMap<LaneId, LaneTip>, chain: Digest) -> bool {
    let Some(batch) = ledger.batch(&chain) else { return false };
    let Some(tip) = decided.get(&batch.lane) else { return false };
    let down = |mut chain: Digest, from: LaneNumber, to: LaneNumber| {
        for _ in to.0..from.0 {
            chain = ledger.batch(&chain)?.previous;
        }
        Some(chain)
    };
    let meets = batch.number.min(tip.upto);
    match (down(chain, batch.number, meets), down(tip.chain, tip.upto, meets)) {
        (Some(here), Some(decided)) => here != decided,
        _ => false,
    }
}

/// Whether a header or an ancestor of it stands where another was committed.
fn is_left_out(ledger: &Ledger, agreement: &Agreement, mut at: Position) -> bool {
    loop {
        if let Some(decided) = agreement.decided(at.seq) {
            return decided != at;
        }
        let Some(header) = ledger.header(&at.digest) else { return false };
        at = Position { seq: at.seq.previous(), digest: header.parent };
    }
}

/// Whether a batch comes after the tip of its lane, and on a chain that leads on from there: any other will never be
/// executed.
fn follows(ledger: &Ledger, tips: &BTreeMap<LaneId, LaneTip>, mut chain: Digest) -> bool {
    let Some(mut batch) = ledger.batch(&chain) else { return false };
    let (upto, tip) = tips.get(&batch.lane).map_or((LaneNumber(0), None), |tip| (tip.upto, Some(tip.chain)));
    if batch.number <= upto {
        return false;
    }
    while batch.number > upto.next() {
        chain = batch.previous;
        let Some(before) = ledger.batch(&chain) else { return true };
        batch = before;
    }
    tip.is_none_or(|tip| batch.previous == tip)
}

/// Where the chain that ends with `digest` has left a lane.
fn named_before(ledger: &Ledger, lane: LaneId, digest: &Digest) -> LaneNumber {
    let mut at = *digest;
    while let Some(header) = ledger.header(&at) {
        if let Some(tip) = header.cut.iter().find(|tip| tip.lane == lane) {
            return tip.upto;
        }
        at = header.parent;
    }
    LaneNumber(0)
}

#[cfg(test)]
mod tests;
