//! States on their way between replicas, and to the disk.

use super::{CONSENSUS_LINK, Core};
use crate::execution::Installed;
use crate::interface::{Effect, Reject};
use crate::library::Reader;
use crate::mail::{ExecutionMail, LinkMail, Mail, OrderingMail};
use crate::transfer::ToPeer;
use quorate_state::Frozen;
use quorate_types::{Digest, Nanoseconds, ReplicaId, Seq};
use quorate_wire::message::{FetchPages, FetchedPages, Message};
use quorate_wire::{Frame, FrameRef, Kind, LaneTip, Position};
use std::sync::Arc;

impl Core {
    /// Passes a question for pages of a state, or the answer, on to the execution role.
    pub(super) fn on_pages_frame(
        &mut self,
        peer: ReplicaId,
        frame: FrameRef<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Reject> {
        let mail = if frame.kind == Kind::FetchPages {
            // A question is long: one too many is not read.
            self.link.on_page_question(peer)?;
            let question = FetchPages::from_frame(frame)?;
            ExecutionMail::FetchPages(peer, question)
        } else {
            self.link.on_pages(peer)?;
            ExecutionMail::FetchedPages(peer, Box::new(FetchedPages::from_frame(frame)?))
        };
        self.post(self.layout.execution(), Mail::Execution(mail), effects);
        Ok(())
    }

    pub(super) fn on_checkpointed(&mut self, position: Position, root: Digest, effects: &mut Vec<Effect>) {
        let execution =
            self.execution.as_mut().expect("invariant: only the execution core has states hashed");
        let installed = execution.on_checkpointed(position, root);
        if let Some(Installed { position, timestamp, tips }) = installed {
            self.on_installed(position, timestamp, &tips, effects);
        }
        if position.seq == Seq(0) {
            // What the cluster began with needs no votes.
            return;
        }
        let mail = Mail::Ordering(OrderingMail::Root { position, root });
        self.post(self.layout.ordering(), mail, effects);
    }

    /// A state that came from others is the own one now: the other roles go on from there.
    pub(super) fn on_installed(
        &mut self,
        position: Position,
        timestamp: Nanoseconds,
        tips: &Arc<[LaneTip]>,
        effects: &mut Vec<Effect>,
    ) {
        let mail = OrderingMail::Installed { position, timestamp, tips: Arc::clone(tips) };
        self.post(self.layout.ordering(), Mail::Ordering(mail), effects);
    }

    pub(super) fn post_to_peer(&mut self, peer: ReplicaId, frame: Frame, effects: &mut Vec<Effect>) {
        let core = self.layout.core_of_link(CONSENSUS_LINK);
        self.post(core, Mail::Link(LinkMail::Send { peer, frame }), effects);
    }

    pub(super) fn tell_peers(&mut self, told: Vec<ToPeer>, effects: &mut Vec<Effect>) {
        for one in told {
            match one {
                ToPeer::Ask(peer, question) => self.post_to_peer(peer, question.encode(), effects),
                ToPeer::Keep { position, root, received } => {
                    effects.push(Effect::KeepPart { position, root, received });
                }
                ToPeer::Condemn(peer) => {
                    let core = self.layout.core_of_link(CONSENSUS_LINK);
                    self.post(core, Mail::Link(LinkMail::Condemn(peer)), effects);
                }
            }
        }
    }

    /// Answers what peers and clients have asked, up to a bounded number of bytes.
    pub(super) fn answer_pages(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        let Some(execution) = &mut self.execution else { return };
        for (reader, frame) in execution.answer_pages(now) {
            match reader {
                Reader::Peer(peer) => self.post_to_peer(peer, frame, effects),
                Reader::Client(connection) => {
                    self.post(connection.core, Mail::Link(LinkMail::Reply { connection, frame }), effects);
                }
            }
        }
    }

    /// Takes a certified state over where execution cannot get there by itself, and serves those who do.
    pub(super) fn look_after_transfers(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        let Some(execution) = &mut self.execution else { return };
        let told = execution.look_after_transfers(now);
        let whole = execution.fetched_state();
        let pins = execution.pins(now);
        let following = execution.following();
        self.tell_peers(told, effects);
        match whole {
            Ok(whole) => effects.extend(whole.map(checkpoint)),
            Err(reason) => effects.push(Effect::Halt { reason }),
        }
        for core in self.layout.all() {
            if let Some(following) = following {
                self.post(core, Mail::Link(LinkMail::Following(following)), effects);
            }
            if let Some(tips) = &pins {
                self.post(core, Mail::Link(LinkMail::Pin(tips.clone())), effects);
            }
        }
    }

    /// Once a restart would go on from a state with these tips, nothing that led to it is needed.
    pub(super) fn trim_batches(&mut self, tips: Option<Arc<[LaneTip]>>, effects: &mut Vec<Effect>) {
        let Some(tips) = tips else { return };
        for core in self.layout.all() {
            self.post(core, Mail::Link(LinkMail::Trim(Arc::clone(&tips))), effects);
        }
    }
}

pub(super) fn checkpoint((position, timestamp, state): (Position, Nanoseconds, Frozen)) -> Effect {
    Effect::Checkpoint { position, timestamp, state }
}
