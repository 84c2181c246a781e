//! How the roles of a replica come to life from what its disk gives back (DESIGN section 5).
//!
//! A driver scans the logs and reads the checkpoint that goes with them; what follows from both is decided here, alike
//! in production and in the simulator. The state says what is executed, the batches above it go back to their lanes,
//! and the consensus records say what was voted and in which view. What is executed beyond the checkpoint is executed
//! again as soon as it is known to be committed.

use crate::core::{Layout, ReplicaSetup};
use quorate_consensus::{Fact, Voting};
use quorate_journal::{CONSENSUS_JOURNAL, LostBatch, Record, batch_journal};
use quorate_state::{Forest, Known, Restored, Salvage, State};
use quorate_types::mistakes::is_made;
use quorate_types::{
    CoreId, Digest, JournalId, LaneId, LaneNumber, Lsn, Mistake, Nanoseconds, Seq, StateLimits, Why,
};
use quorate_wire::message::CheckpointCertificate;
use quorate_wire::{Frame, LaneTip, Position, batch, header};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A checkpoint whose pages cannot all be read. Where it stands is known, so that the logs lead on from there; the state
/// itself is taken over from others.
#[derive(Debug)]
pub struct Broken {
    /// The slot.
    pub position: Position,
    /// The timestamp of its header.
    pub timestamp: Nanoseconds,
    /// Where the lanes stand.
    pub tips: Vec<LaneTip>,
}

/// What a disk gives back.
#[derive(Debug, Default)]
pub struct Found {
    /// The state of the newest checkpoint that goes with [`Found::known`]; none before the first.
    pub state: Option<State>,
    /// That checkpoint, if its state cannot be read.
    pub broken: Option<Broken>,
    /// What is intact of damaged checkpoints.
    pub salvage: Option<Arc<Salvage>>,
    /// What a transfer of a newer state had received.
    pub part: Option<Forest>,
    /// The records of all logs that are not trimmed, those of each journal in order; of batches, those that
    /// [`Found::needs_batch`].
    pub records: Vec<(JournalId, Lsn, Record)>,
    /// The batches that the logs name and cannot give back.
    pub lost: Vec<LostBatch>,
    /// The last record of each journal, trimmed ones included.
    pub ends: BTreeMap<JournalId, Lsn>,
    /// Why the replica must not vote, in words; nothing when it may.
    pub learner: Option<String>,
    /// Whether the cluster began with the state of a backup: its configuration names the root of that, which is as good as
    /// a certificate.
    pub is_restored: bool,
}

impl Found {
    /// Up to which slot a checkpoint may have been certified, as far as the logs know: the state that goes with them is
    /// the newest up to there. Others may need what led to a newer one, and trimmed logs lead on from here only.
    ///
    /// The newest of all is best where it is not known what trimmed logs lead on from, and for a replica that does not
    /// vote, as nobody depends on it.
    #[must_use]
    pub fn known(&self) -> Known {
        let certificate = self.certificate();
        let unknown = if self.is_trimmed() { Seq(u64::MAX) } else { Seq(0) };
        let is_free = self.learner.is_some() || is_made(Mistake::UncertifiedFloor);
        let upto = if is_free { Seq(u64::MAX) } else { certificate.unwrap_or(unknown) };
        Known { certificate: certificate.or(self.is_restored.then_some(Seq(0))), upto }
    }

    /// Takes what checkpoints have given back. Returns the slot and the root of the whole one.
    pub fn take(&mut self, restored: Restored) -> Option<(Position, Digest)> {
        let whole = restored.whole.map(|(manifest, frozen)| {
            self.state = Some(State::from_frozen(&frozen, StateLimits::default()));
            (Position { seq: manifest.head.seq, digest: manifest.head.digest }, manifest.root)
        });
        self.broken = restored.broken.map(|manifest| Broken {
            position: Position { seq: manifest.head.seq, digest: manifest.head.digest },
            timestamp: manifest.head.timestamp,
            tips: (manifest.tips.iter())
                .map(|tip| LaneTip { lane: tip.lane, upto: tip.upto, chain: tip.chain })
                .collect(),
        });
        self.salvage = restored.salvage;
        self.part = restored.part.map(|(_, forest)| forest);
        whole
    }

    /// The slot of the newest certificate that the logs hold. A state at least as new can be had from others.
    #[must_use]
    pub fn certificate(&self) -> Option<Seq> {
        let certified = self.records.iter().filter_map(|(_, _, record)| match record {
            Record::Checkpoint(certificate) => Some(certificate.position.seq),
            _ => None,
        });
        certified.max()
    }

    /// Whether a batch is to be executed on the state that was found: the others a driver need not read.
    #[must_use]
    pub fn needs_batch(&self, lane: LaneId, number: LaneNumber) -> bool {
        let executed = match (&self.state, &self.broken) {
            (Some(state), _) => state.lane_tip(lane).map(|(upto, _)| upto),
            (None, Some(broken)) => broken.tips.iter().find(|tip| tip.lane == lane).map(|tip| tip.upto),
            (None, None) => None,
        };
        executed.is_none_or(|upto| number > upto)
    }

    /// Whether the journal of consensus does not begin with its first record any more.
    fn is_trimmed(&self) -> bool {
        let own = |journal: JournalId| journal == CONSENSUS_JOURNAL;
        let first = self.records.iter().find(|(journal, ..)| own(*journal)).map(|(_, lsn, _)| *lsn);
        let end = self.ends.get(&CONSENSUS_JOURNAL).copied().unwrap_or_default();
        end > Lsn(0) && first != Some(Lsn(1))
    }
}

/// What the roles of a replica begin with: see [`crate::Core::recover`].
#[derive(Debug)]
pub struct Recovery {
    pub(crate) state: Option<State>,
    /// The slot after which the state cannot be read, and the timestamp of its header.
    pub(crate) broken: Option<(Position, Nanoseconds)>,
    pub(crate) salvage: Option<Arc<Salvage>>,
    pub(crate) part: Option<Forest>,
    pub(crate) consensus: Option<quorate_consensus::Recovered>,
    pub(crate) voting: Voting,
    pub(crate) ends: BTreeMap<JournalId, Lsn>,
    pub(crate) tips: Vec<LaneTip>,
    /// The slot and the root of the state, of which the others may still wait to hear.
    pub(crate) root: Option<(Position, Digest)>,
    /// The highest certificate.
    pub(crate) stable: Option<Arc<CheckpointCertificate>>,
    batches: BTreeMap<CoreId, Vec<(Lsn, Frame, Why)>>,
    lost: BTreeMap<CoreId, Vec<(Lsn, LaneTip, Why)>>,
}

impl Recovery {
    /// What follows from what was found.
    ///
    /// # Errors
    /// When the logs are those of another number of cores.
    pub fn of(setup: &ReplicaSetup, found: Found) -> Result<Self, MovedBatches> {
        let layout = Layout::new(&setup.config, setup.cores);
        let broken = found.broken.filter(|_| found.state.is_none());
        let tips = match (&found.state, &broken) {
            (Some(state), _) => tips(setup, state),
            (None, broken) => broken.as_ref().map(|broken| broken.tips.clone()).unwrap_or_default(),
        };
        let broken = broken.map(|broken| (broken.position, broken.timestamp));
        let (floor, timestamp) = match found.state.as_ref().and_then(State::header) {
            Some(last) => (Position { seq: last.seq, digest: last.digest }, last.timestamp),
            None => broken.unwrap_or((header::genesis(setup.config.digest()), Nanoseconds(0))),
        };
        let mut consensus = quorate_consensus::Recovered::new(floor, timestamp, tips.iter().copied());
        let mut batches: BTreeMap<CoreId, Vec<(Lsn, Frame, Why)>> = BTreeMap::new();
        let mut stable: Option<Arc<CheckpointCertificate>> = None;
        for (journal, lsn, record) in found.records {
            if let Record::Checkpoint(certificate) = &record
                && stable.as_ref().is_none_or(|known| known.position.seq < certificate.position.seq)
            {
                stable = Some(Arc::clone(certificate));
            }
            match fact(record) {
                Ok(fact) => {
                    assert_eq!(journal, CONSENSUS_JOURNAL, "facts of consensus have a journal of their own");
                    consensus.fold(lsn, fact);
                }
                Err((frame, why)) => {
                    let Some(lane) = lane_of(&frame) else { continue };
                    let core = layout.core_of_link(lane.link);
                    if batch_journal(core) != journal {
                        return Err(MovedBatches { journal, cores: setup.cores });
                    }
                    batches.entry(core).or_default().push((lsn, frame, why));
                }
            }
        }
        let mut lost: BTreeMap<CoreId, Vec<(Lsn, LaneTip, Why)>> = BTreeMap::new();
        for LostBatch { journal, lsn, tip, why } in found.lost {
            let core = layout.core_of_link(tip.lane.link);
            if batch_journal(core) == journal {
                lost.entry(core).or_default().push((lsn, tip, why));
                continue;
            }
            // Like one that is intact: others count on it, and only the core that has its journal can keep its name there.
            let executed = tips.iter().find(|known| known.lane == tip.lane);
            if why != Why::Named && executed.is_none_or(|executed| executed.upto < tip.upto) {
                return Err(MovedBatches { journal, cores: setup.cores });
            }
        }
        let voting = match found.learner {
            Some(_) => Voting::Learner,
            None => Voting::Voter,
        };
        let root = found.state.as_ref().filter(|state| state.header().is_some());
        let root = root.map(|state| (floor, state.freeze().root()));
        // Journals of cores that are no more hold no batches, or there would have been an error.
        let mut ends = found.ends;
        ends.retain(|journal, _| journal.index() <= setup.cores);
        Ok(Self {
            state: found.state,
            broken,
            salvage: found.salvage,
            part: found.part,
            consensus: Some(consensus),
            voting,
            ends,
            tips,
            root,
            stable,
            batches,
            lost,
        })
    }

    /// The last record of a journal.
    pub(crate) fn end(&self, journal: JournalId) -> Lsn {
        self.ends.get(&journal).copied().unwrap_or_default()
    }

    /// What is found of the lanes of a core.
    pub(crate) fn lanes(&mut self, core: CoreId) -> quorate_lanes::Recovered {
        quorate_lanes::Recovered {
            last_lsn: self.end(batch_journal(core)),
            tips: self.tips.clone(),
            batches: self.batches.remove(&core).unwrap_or_default(),
            lost: self.lost.remove(&core).unwrap_or_default(),
        }
    }
}

/// The logs were written by another number of cores.
#[derive(Debug, thiserror::Error)]
#[error(
    "{journal:?} holds batches that belong to another core: the logs were written with another number of `cores` than \
     {cores}; start with the number of cores that was used before"
)]
pub struct MovedBatches {
    journal: JournalId,
    cores: usize,
}

/// Where every lane stands in a state; lanes that never moved are left out.
pub(crate) fn tips(setup: &ReplicaSetup, state: &State) -> Vec<LaneTip> {
    let tip = |lane: LaneId| state.lane_tip(lane).map(|(upto, chain)| LaneTip { lane, upto, chain });
    setup.config.lanes().filter_map(tip).collect()
}

fn lane_of(frame: &Frame) -> Option<LaneId> {
    batch::parse_head(frame.payload()).ok().map(|head| head.lane)
}

/// A record as consensus knows it, or the batch that it is.
fn fact(record: Record) -> Result<Fact, (Frame, Why)> {
    Ok(match record {
        Record::Batch(frame, why) => return Err((frame, why)),
        Record::Accept { view, header, voted } => Fact::Accepted { view, header, voted },
        Record::Prepared { view, position, votes } => Fact::Prepared { view, position, votes },
        Record::Checkpoint(certificate) => Fact::Stable(certificate),
        Record::ViewState { view } => Fact::ViewState { view },
        Record::EnterView { view, new_view, head } => Fact::EnterView { view, new_view, head },
        Record::Promised { view, voted, stable } => Fact::Promised { view, voted, stable },
    })
}

/// A fact of consensus as it is logged.
pub(crate) fn record(fact: Fact) -> Record {
    match fact {
        Fact::Accepted { view, header, voted } => Record::Accept { view, header, voted },
        Fact::Prepared { view, position, votes } => Record::Prepared { view, position, votes },
        Fact::Stable(certificate) => Record::Checkpoint(certificate),
        Fact::ViewState { view } => Record::ViewState { view },
        Fact::EnterView { view, new_view, head } => Record::EnterView { view, new_view, head },
        Fact::Promised { view, voted, stable } => Record::Promised { view, voted, stable },
    }
}
