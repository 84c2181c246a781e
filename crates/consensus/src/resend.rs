//! Who sends what again: Status, and the answers to it (DESIGN section 4, table "Who re-sends what").

use crate::consensus::Consensus;
use crate::header_fetches::bytes_about;
use crate::output::{Destination, Outgoing, Output};
use crate::proposals::Waiting;
use crate::voting::last_slot;
use quorate_types::{After, Nanoseconds, ReplicaId};
use quorate_wire::message::Status;
use std::sync::Arc;

/// The number of proposals that one Status brings from the primary; others relay fewer, as they are only
/// needed when the primary's own link is down.
const PROPOSALS_RESENT: usize = 32;
const PROPOSALS_RELAYED: usize = 4;

impl Consensus {
    fn status(&self) -> Status {
        let positions = self.positions();
        Status {
            view: self.view(),
            entered: self.has_entered(),
            stable: positions.stable,
            accepted: positions.accepted,
            prepared: positions.prepared,
            committed: positions.committed,
            executed: positions.executed,
        }
    }

    fn send_to(&self, to: Destination, message: Outgoing, out: &mut Vec<Output>) {
        out.push(Output::Send { to, message, after: After::nothing() });
    }

    /// Whether anything is open that a lost message could keep open for ever.
    fn is_open(&self) -> bool {
        let positions = self.positions();
        positions.accepted.seq > positions.committed.seq
            || self.checkpoints.is_open()
            || self.has_pending()
            || self.is_behind()
            || self.lacks_a_proposal()
            || !self.has_entered()
            || self.has_suspected()
            || self.candidate.is_some()
            || self.lacks_a_view()
    }

    /// Whether a connected peer is in a higher view, or already in the one that this replica waits for: its
    /// beginning was lost on the way here, and this replica's Status brings it again.
    fn lacks_a_view(&self) -> bool {
        let (view, entered) = (self.view(), self.has_entered());
        self.votes.peers().any(|(_, peer)| {
            let status = peer.status.as_ref().filter(|_| peer.connected);
            status.is_some_and(|status| {
                status.view > view || (status.view == view && status.entered && !entered)
            })
        })
    }

    /// Whether a connected peer of this view has accepted more: what it has was lost on the way here, and this
    /// replica's Status brings it again.
    fn lacks_a_proposal(&self) -> bool {
        let accepted = self.chain.accepted().seq;
        self.votes.peers().any(|(_, peer)| {
            peer.connected
                && peer
                    .status
                    .as_ref()
                    .is_some_and(|status| self.shares_view(status) && status.accepted.seq > accepted)
        })
    }

    /// Status goes out every T_retx while anything is open, else every T_idle.
    pub(crate) fn status_on_time(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let period = if self.is_open() { self.tuning.retransmit } else { self.tuning.idle };
        if now >= self.status_due {
            self.status_due = now.plus(period.0);
            self.send_to(Destination::Others, Outgoing::Status(self.status()), out);
            self.resend_claims(out);
        } else {
            self.status_due = self.status_due.min(now.plus(period.0));
        }
    }

    /// What others need to follow to the next view goes again, as long as this replica wants it: its wish to all, and
    /// its view change to the primary that gathers them. Others get that with the next Status that shows them
    /// behind.
    fn resend_claims(&self, out: &mut Vec<Output>) {
        if let Some(own) = self.claims.suspect(self.me)
            && own.view.next() >= self.view()
            && (self.has_suspected() || !self.has_entered())
        {
            self.send_to(Destination::Others, Outgoing::Suspect(own.clone()), out);
        }
        self.resend_view_change(self.config.primary(self.view()), out);
        let lacking = self.lacking.iter().flat_map(|lacking| lacking.values());
        out.extend(lacking.chain(self.missing.values()).map(|tip| Output::Want(*tip)));
        if let Some(Waiting { tip, floor, since }) = self.waits_for
            && self.now.since(since) >= self.tuning.retransmit.0
        {
            let primary = self.config.primary(self.view);
            out.push(Output::WantProposed { tip, floor, primary });
        }
    }

    /// Whether a peer works in the same view as this replica.
    fn shares_view(&self, status: &Status) -> bool {
        self.has_entered() && status.entered && status.view == self.view
    }

    /// A peer that has not entered this replica's view learns where it begins, or what this replica waits for.
    fn help_into_view(&mut self, from: ReplicaId, status: &Status, out: &mut Vec<Output>) {
        let behind = status.view < self.view() || (status.view == self.view() && !status.entered);
        let (now, pause) = (self.now, self.tuning.retransmit.0 / 2);
        let peer = self.votes.peer_mut(from);
        if !behind || now < peer.helped_until {
            return;
        }
        peer.helped_until = now.plus(pause);
        if self.has_entered() {
            if let Some(message) = &self.new_view {
                let (message, after) = (Outgoing::NewView(Arc::clone(message)), self.entered_after.clone());
                out.push(Output::Send { to: Destination::One(from), message, after });
            }
        } else if status.view < self.view() {
            self.resend_view_change(from, out);
        }
    }

    /// A connection to a peer stands: it learns at once what this replica has.
    pub fn on_connected(&mut self, peer: ReplicaId, out: &mut Vec<Output>) {
        self.votes.peer_mut(peer).connected = true;
        self.header_fetches.on_connected(peer);
        self.send_to(Destination::One(peer), Outgoing::Status(self.status()), out);
    }

    /// The connection to a peer is gone.
    pub fn on_disconnected(&mut self, peer: ReplicaId) {
        self.votes.peer_mut(peer).connected = false;
        self.header_fetches.on_disconnected(self.now, peer);
    }

    /// Takes a peer's Status. What it lacks is sent by [`Consensus::send_again`].
    pub fn on_status(&mut self, from: ReplicaId, status: Status, out: &mut Vec<Output>) {
        let peer = self.votes.peer_mut(from);
        if status.committed.seq > peer.claim.seq {
            peer.claim = status.committed;
        }
        peer.status = Some(status);
        self.check_claims(out);
    }

    /// Sends a peer what its last Status shows it to lack; says about how many bytes of proposals that is.
    pub fn send_again(&mut self, from: ReplicaId, out: &mut Vec<Output>) -> usize {
        let Some(status) = &self.votes.peer_mut(from).status.clone() else { return 0 };
        if status.stable.seq < self.checkpoints.stable().seq
            && let Some(certificate) = self.checkpoints.certificate()
        {
            let message = Outgoing::CheckpointCertificate(Arc::clone(certificate));
            self.send_to(Destination::One(from), message, out);
        }
        if status.stable.seq <= self.checkpoints.stable().seq
            && self.checkpoints.is_open()
            && let Some(own) = self.checkpoints.own.clone()
        {
            self.send_to(Destination::One(from), Outgoing::Checkpoint(own), out);
        }
        self.help_into_view(from, status, out);
        if self.shares_view(status) { self.resend_votes(from, status, out) } else { 0 }
    }

    /// Votes sent again wait for what they waited for the first time: they may not have left yet.
    fn resend_votes(&self, from: ReplicaId, status: &Status, out: &mut Vec<Output>) -> usize {
        let to = Destination::One(from);
        let positions = self.positions();
        let primary = self.config.primary(self.view) == self.me;
        let limit = if primary { PROPOSALS_RESENT } else { PROPOSALS_RELAYED };
        let (mut seq, mut bytes) = (status.accepted.seq.next(), 0);
        for _ in 0..limit {
            let Some(slot) = self.chain.slot(seq) else { break };
            if let Some(proposal) = &slot.proposal {
                bytes += bytes_about(&proposal.header);
                let (message, after) =
                    (Outgoing::PrePrepare(Arc::clone(proposal)), self.entered_after.clone());
                out.push(Output::Send { to, message, after });
            }
            seq = seq.next();
        }
        if status.prepared.seq < positions.accepted.seq {
            for (prepare, after) in &self.own_prepares {
                if last_slot(prepare) > status.prepared.seq {
                    let (message, after) = (Outgoing::Prepare(Arc::clone(prepare)), after.clone());
                    out.push(Output::Send { to, message, after });
                }
            }
        }
        if let Some((commit, after)) = &self.own_commit
            && status.committed.seq < commit.position.seq
        {
            let (message, after) = (Outgoing::Commit(commit.clone()), after.clone());
            out.push(Output::Send { to, message, after });
        }
        bytes
    }
}
