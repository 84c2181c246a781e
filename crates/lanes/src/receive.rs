//! Taking batches from the origins of their lanes, and choosing between chains when an origin sends two.
//!
//! An origin that was restarted may abandon a tail of its lane that it has lost (DESIGN section 5), so it may come to
//! send another batch at a position that is taken. The newest chain on its own link wins (DESIGN section 4,
//! "Acknowledging", a), with two exceptions.
//!
//! - An executed batch is never replaced.
//! - A batch that a quorum is known to hold is not replaced: a correct primary names it at once, and replicas that no
//!   longer held it would suspect that primary for what the origin did. Nobody is stuck with such a chain: either it is
//!   committed, and the origin continues it, or the others turn out to hold another one, and then it loses its quorum.
//!   The newer chain is held meanwhile and not acknowledged.
//!
//! A batch that an accepted header names gets no protection beyond that, and needs none. What is replaced is set aside,
//! durable as it is: it is still served, execution still has it, and a commit brings it back without a fetch. A rule
//! that protected it would have to be undone when its view fails, or a lane might never move again.

use crate::batch::Batch;
use crate::lanes::{Lanes, Output, Reject};
use quorate_types::{LinkId, ReplicaId};
use quorate_wire::{BatchHead, Frame, FrameRef, LaneTip, batch};
use std::sync::Arc;

/// The batches beside its present chain over which a lane takes no further fork, so that looking through them is cheap.
const FORKED_BATCHES_MAX: usize = 1024;
/// How often an origin may make its lane change its chain in one retransmission time: it costs a look at all that
/// changes places.
const SWITCHES_MAX: usize = 8;

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
        let lane = &self.share_on(head.lane, link)?.lane;
        let tip = lane.tip();
        if head.number <= tip.upto {
            let known = lane.batch(head.number);
            if known.is_none_or(|batch| batch.frame().payload() == frame.payload) {
                return Ok(());
            }
            if head.number <= lane.executed() {
                return Err(Reject::Fork);
            }
        }
        if (head.number.previous(), head.previous) != (tip.upto, tip.chain) {
            return self.on_fork(from, &head, frame, out);
        }
        if lane.unexecuted_bytes() + frame.payload.len() > held_max || self.is_disk_behind() {
            return Err(Reject::Budget);
        }
        let batch = Batch::read(Frame::keep(frame))?;
        self.throttles.took(head.lane, batch.bundles().len());
        self.append_unchecked(Arc::new(batch), out);
        Ok(())
    }

    /// Takes a batch that does not continue the present chain.
    fn on_fork(
        &mut self,
        from: ReplicaId,
        head: &BatchHead,
        frame: FrameRef<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        let (held_max, quorum) = (self.lane_bytes_held_max(), self.config().quorums().quorum);
        let is_disk_behind = self.is_disk_behind();
        let share = self.share_on(head.lane, head.lane.link)?;
        let lane = &share.lane;
        let parent = LaneTip { lane: head.lane, upto: head.number.previous(), chain: head.previous };
        let branch = lane.branch(&parent).filter(|branch| *branch >= lane.executed());
        let known = lane.aside_with(head.number, frame.payload).map(|batch| batch.tip());
        let over = lane.unexecuted_bytes() + frame.payload.len() > held_max
            || lane.forked() >= FORKED_BATCHES_MAX
            || is_disk_behind;
        let gap = head.number > lane.tip().upto.next();
        let Some(branch) = branch else {
            // Frames were lost: the origin learns from a full acknowledgement what to send again.
            if let Some(state) = self.links.get_mut(&head.lane.link) {
                state.gaps.insert(from);
            }
            return Err(if gap { Reject::Gap } else { Reject::Fork });
        };
        let tip = match known {
            Some(tip) => tip,
            None if over => return Err(Reject::Budget),
            None => {
                let batch = Arc::new(Batch::read(Frame::keep(frame))?);
                let tip = batch.tip();
                self.throttles.took(head.lane, batch.bundles().len());
                self.set_aside_unchecked(batch, out);
                tip
            }
        };
        let share = self.share_on(head.lane, head.lane.link)?;
        if share.switches >= SWITCHES_MAX || share.lane.is_quorums(branch.next(), quorum) {
            return Err(Reject::Fork);
        }
        share.switches += 1;
        let reached = share.lane.reaches(&tip);
        assert!(reached, "a chain that branches off above the executed tip is reached");
        Ok(())
    }
}
