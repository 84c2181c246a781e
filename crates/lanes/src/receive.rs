//! Taking batches from the origins of their lanes, however they fork them.
//!
//! What comes on the origin's own link is held and acknowledged beside whatever else is held of the lane: which chain is
//! executed is not for a link role to guess. Two limits make an origin that forks hurt its own lane alone: so many chains of
//! a lane, and so many bytes, are taken from it. What f+1 others have acknowledged, and what headers name, is fetched beyond
//! both.

use crate::batch::Batch;
use crate::held::Held;
use crate::lanes::{Lanes, Output, Reject};
use quorate_types::{LaneId, LinkId, Mark, ReplicaId, Why};
use quorate_wire::{Frame, FrameRef, batch};
use std::sync::Arc;

/// F: the chains of one lane that are taken from its origin. An honest one forks its lane once with each restart that
/// loses a tail, until one of the chains is executed.
pub(crate) const FORKS_MAX: usize = 8;
/// The batches beside its main chain over which a lane takes no further fork from its origin, so that looking through
/// them is cheap.
const FORKED_BATCHES_MAX: usize = 1024;

impl Lanes {
    /// Takes a batch from the origin of its lane.
    ///
    /// It is appended and acknowledged at once, as what clients signed does not matter to that, and held with the
    /// verdicts on their signatures at the end of the tick.
    pub fn on_batch(
        &mut self,
        from: ReplicaId,
        link: LinkId,
        frame: FrameRef<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        let head = batch::parse_head(frame.payload)?;
        if head.lane.origin != from {
            return Err(Reject::ForeignLane);
        }
        self.throttles.admit(head.lane)?;
        let held_max = self.lane_bytes_held_max();
        let is_disk_behind = self.is_disk_behind();
        let held = &mut self.share_on(head.lane, link)?.lane.held;
        let executed = held.executed();
        let parent = Mark { upto: head.number.previous(), chain: head.previous };
        if head.number <= executed.upto {
            let known = held.main_at(head.number).and_then(|mark| held.get(mark));
            let same = known.is_none_or(|known| known.batch.frame().payload() == frame.payload);
            return if same { Ok(()) } else { Err(Reject::Fork) };
        }
        if !held.contains(parent) {
            // Frames were lost: the origin learns from a full acknowledgement what to send again.
            let gap = held.tip().upto < parent.upto;
            if let Some(state) = self.links.get_mut(&link) {
                state.gaps.insert(from);
            }
            return Err(if gap { Reject::Gap } else { Reject::Fork });
        }
        if let Some(known) = child_with(held, parent, frame.payload) {
            return self.vouch(known, head.lane, out);
        }
        // The origin vouches for what lies before its batch.
        let named = held.named_up_to(parent);
        if held.own_link_bytes() + bytes_of(held, &named) + held.cost(frame.payload.len()) > held_max
            || is_disk_behind
        {
            return Err(Reject::Budget);
        }
        let continues = parent == held.tip() && held.end() == parent;
        if !continues && is_one_fork_too_many(held, parent) {
            return Err(Reject::Fork);
        }
        let batch = Arc::new(Batch::read(Frame::keep(frame))?);
        self.throttles.took(head.lane, batch.bundles().len());
        self.raise(head.lane, parent, Why::OwnLink, out);
        self.append_unchecked(batch, Why::OwnLink, out);
        Ok(())
    }

    /// The origin sends what is held already: that is a better reason than that somebody has named it.
    fn vouch(&mut self, known: Mark, lane: LaneId, out: &mut Vec<Output>) -> Result<(), Reject> {
        let held_max = self.lane_bytes_held_max();
        let held = &mut self.share_on(lane, lane.link)?.lane.held;
        let named = held.named_up_to(known);
        if named.is_empty() {
            return Ok(());
        }
        if held.own_link_bytes() + bytes_of(held, &named) > held_max {
            return Err(Reject::Budget);
        }
        let from = held.sayable(known);
        if is_one_fork_too_many(held, from) {
            return Err(Reject::Fork);
        }
        self.raise(lane, known, Why::OwnLink, out);
        Ok(())
    }
}

fn bytes_of(held: &Held, marks: &[Mark]) -> usize {
    marks.iter().filter_map(|mark| held.get(*mark)).map(|node| held.cost(node.batch.bytes())).sum()
}

fn child_with(held: &Held, parent: Mark, payload: &[u8]) -> Option<Mark> {
    let same = |mark: &Mark| held.get(*mark).is_some_and(|node| node.batch.frame().payload() == payload);
    held.children(parent).find(same)
}

/// Whether a batch of the origin behind `parent` would begin one chain more than are taken from it.
fn is_one_fork_too_many(held: &mut Held, parent: Mark) -> bool {
    if held.forked() >= FORKED_BATCHES_MAX {
        return true;
    }
    let from_origin = |mark: Mark| held.get(mark).is_some_and(|node| node.why == Why::OwnLink);
    let continues = from_origin(parent) && !held.children(parent).any(from_origin);
    !continues && held.is_full(FORKS_MAX)
}
