//! The mistakes of DESIGN section 4 that lanes can make, each so that the honest replicas of a walk make it: in what
//! reaches the real lanes, in what becomes of what they put out, or in the rules of the model around them.

use super::World;
use quorate_types::{LaneId, Lsn, Mark, ReplicaId, Support, Why};
use quorate_wire::message::{LaneAcks, Message};
use quorate_wire::{BatchView, Frame, Kind, LaneTip};
use std::collections::BTreeSet;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// An acknowledgement takes the place of the one before it, of whatever chain that was.
    ReplacedAcknowledgement,
    /// A tip is awaited while nothing is named at or beyond its number, also when it is dead.
    DeadTipAwaited,
    /// Who has acknowledged more is not asked, and says nothing of what lies below.
    UncountableAcknowledgement,
    /// What headers name is refused by a lane over its budget.
    CertifiedDroppedForBudget,
    /// What has left memory is not read back from the journal.
    NotServedFromJournal,
    /// A cut is accepted whoever has acknowledged it.
    AcknowledgementlessCut,
    /// A restart drops what is intact behind a batch that went bad.
    IntactDropped,
    /// A restart forgets why a batch was held.
    ReasonForgotten,
    /// Learning rests while behind, and does not go on.
    RestsForEver,
}

impl World {
    pub(crate) fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// What of the batches on its disk a replica finds again.
    pub(super) fn found(&self, batches: Vec<(Lsn, Frame, Why)>, tips: &[LaneTip]) -> Vec<(Lsn, Frame, Why)> {
        let mut batches = batches;
        if self.makes(Mistake::ReasonForgotten) {
            batches.iter_mut().for_each(|(.., why)| *why = Why::OwnLink);
        }
        if self.makes(Mistake::IntactDropped) {
            let mut connected: BTreeSet<Mark> = tips.iter().map(LaneTip::mark).collect();
            connected.insert(Mark::default());
            batches
                .sort_by_key(|(_, frame, _)| BatchView::parse(frame.payload()).expect("a batch").head.number);
            batches.retain(|(_, frame, _)| {
                let view = BatchView::parse(frame.payload()).expect("a batch");
                let parent = Mark { upto: view.head.number.previous(), chain: view.head.previous };
                let connects = connected.contains(&parent);
                if connects {
                    connected.insert(Mark { upto: view.head.number, chain: view.chain() });
                }
                connects
            });
            batches.sort_by_key(|(lsn, ..)| *lsn);
        }
        batches
    }

    /// What is sent in the place of a frame.
    pub(super) fn distort(&self, frame: Frame) -> Option<Frame> {
        if !self.makes(Mistake::UncountableAcknowledgement) {
            return Some(frame);
        }
        match frame.kind() {
            Kind::AskLanes => None,
            Kind::LaneAcks => {
                let acks = LaneAcks::decode(frame.payload()).expect("own messages");
                let lies_below = |tip: &LaneTip| {
                    let same = |other: &&LaneTip| other.lane == tip.lane && other.mark() != tip.mark();
                    acks.tips
                        .iter()
                        .filter(same)
                        .any(|other| self.extends(tip.lane, other.mark(), tip.mark()))
                };
                let tips = acks.tips.iter().filter(|tip| !lies_below(tip)).copied().collect();
                Some(LaneAcks { full: acks.full, tips }.encode())
            }
            _ => Some(frame),
        }
    }

    /// Whether an answer to a fetch is dropped.
    pub(super) fn is_refused(&self, at: usize, frame: &Frame) -> bool {
        let held_max = self.config.tuning().lane_bytes_held_max();
        let held = self.machines[at].node.as_ref().map_or(0, |node| node.lanes.held_bytes());
        self.makes(Mistake::CertifiedDroppedForBudget)
            && frame.kind() == Kind::FetchedBatches
            && held + frame.payload().len() > held_max
    }

    /// Notes what a peer has acknowledged last.
    pub(super) fn note_last(&mut self, at: usize, from: ReplicaId, acks: &LaneAcks) {
        if self.makes(Mistake::ReplacedAcknowledgement) {
            let last = &mut self.machines[at].last;
            acks.tips.iter().for_each(|tip| {
                last.insert((from, tip.lane), tip.mark());
            });
        }
    }

    /// Counts the last acknowledgement of each replica alone.
    pub(super) fn count_last(&mut self, at: usize, lane: LaneId) {
        if !self.makes(Mistake::ReplacedAcknowledgement) {
            return;
        }
        let quorums = self.config.quorums();
        let count = |mark: Mark| self.last_holders(at, lane, mark).count();
        let Some(board) = self.machines[at].boards.get(&lane) else { return };
        let supports: Vec<(Mark, Option<Support>)> = board
            .known
            .keys()
            .map(|mark| match count(*mark) {
                count if count >= quorums.quorum => (*mark, Some(Support::Quorum)),
                count if count >= quorums.weak => (*mark, Some(Support::Weak)),
                _ => (*mark, None),
            })
            .collect();
        let board = self.machines[at].boards.entry(lane).or_default();
        for (mark, support) in supports {
            if let Some(known) = board.known.get_mut(&mark) {
                known.support = support;
            }
        }
    }

    fn last_holders(&self, at: usize, lane: LaneId, mark: Mark) -> impl Iterator<Item = ReplicaId> {
        let last = self.machines[at].last.iter().filter(move |((_, of), _)| *of == lane);
        last.filter(move |(_, last)| self.extends(lane, **last, mark)).map(|((from, _), _)| *from)
    }
}
