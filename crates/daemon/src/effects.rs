//! Carrying out what the pure parts decided.

use crate::checkpointer::{Checkpointer, Contents, Job};
use crate::clock::nanoseconds;
use crate::connection::is_small;
use crate::data_directory;
use crate::driver::Driver;
use crate::peers::Untaken;
use crate::shared::Shared;
use crate::view_log;
use quorate_reactor::{Chunk, ConnectionId};
use quorate_replica::mail::{LinkMail, Mail};
use quorate_replica::{Answered, Effect, Input, Record, Reject};
use quorate_telemetry::{Counter, Measure};
use quorate_types::{JournalId, LinkId, Lsn, Nanoseconds, ReplicaId, Stage};
use quorate_wire::{Frame, LaneTip, Position};
use std::path::Path;
use std::time::Instant;
use tracing::{debug, error, info, warn};

/// What may wait for one peer on one link. More, and it is marked as lagging and catches up from state.
pub(crate) const PEER_QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

const _: () = assert!(PEER_QUEUE_BYTES_MAX > 2 * quorate_types::limits::FRAME_BYTES_MAX);

/// The replica stops: nothing leaves it from here on, on whatever core. That is noted at once, not when its threads have
/// ended: if it is killed before that, it must not go on either.
pub(crate) fn halt(shared: &Shared, directory: &Path, reason: String) {
    // First, as a disk takes its time.
    shared.halt(reason.clone());
    error!("halting, because going on would not be safe: {reason}");
    if let Err(error) = data_directory::note_halted(directory, &reason) {
        error!("that it has halted could not be noted, and is tried again at the end: {error}");
    }
}

impl Driver {
    /// Carries out the effects of the steps so far, in order, and those that follow from them.
    pub(crate) fn carry_out(&mut self) {
        while !self.effects.is_empty() {
            self.step_ended = self.clock.now();
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.drain(..) {
                // What follows from what made the replica halt must not leave it.
                if self.shared.halted().is_none() {
                    self.carry_out_one(effect);
                }
            }
            if self.effects.is_empty() {
                self.effects = effects;
            }
        }
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Append { journal, lsn, record, batch } => self.append(journal, lsn, record, batch),
            Effect::Trim { journal, upto } => self.log.trim(journal, upto),
            Effect::ReadBack { journal, lsn } => self.log.read_back(journal, lsn),
            Effect::SendPeer { peer, link, frame } => self.send_peer(peer, link, &frame),
            Effect::AwaitTaken { peer, link, answered } => self.await_taken(peer, link, answered),
            Effect::SendClient { connection, frame } => self.send_client(connection, &frame),
            Effect::ClosePeer { peer, link, reject } => {
                warn!("closing link {link} to replica {peer}: {reject}");
                self.ban(peer, link);
                let connection = self.peers.get_mut(peer, link).and_then(|state| state.connection);
                connection.into_iter().for_each(|id| self.close(id));
            }
            Effect::CloseClient { connection, reject } => {
                // Counted with what was refused; a client can bring it about as often as it likes.
                debug!("closing a client's connection: {reject}");
                if let Some(id) = self.clients.get(connection.number) {
                    self.close(id);
                }
            }
            Effect::ClientReplaced { connection } => {
                if let Some(id) = self.clients.get(connection.number) {
                    self.shared.core(self.id.index()).increment(Counter::ClientsReplaced);
                    debug!("closing a client's connection: a newer one wants the replies of its session");
                    self.close(id);
                }
            }
            Effect::Mail { core, mut mail } => {
                if let Mail::Link(LinkMail::Replied { executed, .. }) = &mut mail {
                    *executed = Some(self.step_ended);
                }
                self.mailbox.post(core.index(), mail);
            }
            Effect::Checkpoint { position, timestamp, state } => {
                self.write_checkpoint(position, timestamp, Contents::State(state));
            }
            Effect::KeepStates(needed) => self.checkpointer().keep(needed),
            Effect::KeepPart { position, root, received } => {
                self.write_checkpoint(position, Nanoseconds(0), Contents::Partial { root, received });
            }
            Effect::Report { connections, report } => self.send_report(&connections, &report),
            Effect::Rejected(reject) => self.on_rejected(reject),
            Effect::BundlesWait { bundles } => {
                self.shared.core(self.id.index()).add(Counter::BundlesWaited, bundles);
            }
            Effect::Bitten { credits_used_up, checks_uncovered } => {
                let core = self.shared.core(self.id.index());
                core.add(Counter::PeerCreditsUsedUp, credits_used_up);
                core.add(Counter::PeerChecksUncovered, checks_uncovered);
            }
            Effect::Executed { bundles, operations, declined_full } => {
                let core = self.shared.core(self.id.index());
                core.add(Counter::BundlesExecuted, bundles);
                core.add(Counter::OperationsExecuted, operations);
                core.add(Counter::OperationsDeclinedFull, declined_full);
            }
            Effect::Stage(time) => self.record(measure(time.stage), time.elapsed_ns, time.bundles),
            Effect::StageEnds { stage, since, bundles } => self.end_stage(stage, since, bundles),
            Effect::ViewEntered { view, from, why } => {
                info!("{}", view_log::entered(&self.config.cluster, view, from, &why));
            }
            Effect::ViewLeft { view, target, why } => {
                info!("{}", view_log::left(&self.config.cluster, view, target, &why));
            }
            Effect::Halt { reason } => {
                halt(&self.shared, &self.config.data_directory, reason);
            }
        }
    }

    fn checkpointer(&self) -> &Checkpointer {
        self.checkpointer.as_ref().expect("invariant: the execution core has the checkpointer")
    }

    fn write_checkpoint(&mut self, position: Position, timestamp: Nanoseconds, contents: Contents) {
        let waker = self.reactor.waker();
        let job = Job { position, timestamp, certificate: Vec::new(), contents };
        self.checkpointer().write(job, Box::new(move || waker.wake()));
    }

    /// What a step executes is executed when it ends; replies are on their way once they are in their queues, which is
    /// now, as the effects are carried out in order.
    fn end_stage(&self, stage: Stage, since: Option<Nanoseconds>, bundles: u64) {
        let end = if stage == Stage::Replied { self.clock.now() } else { self.step_ended };
        self.record(measure(stage), end.since(since.unwrap_or(self.step_ended)), bundles);
    }

    fn on_rejected(&mut self, reject: Reject) {
        let core = self.shared.core(self.id.index());
        match reject {
            Reject::Busy => core.increment(Counter::BundlesBusy),
            // Whoever is slow sends answers that are not waited for any more: that is no news.
            Reject::Unasked => return self.shared.count_reject(self.id.index(), reject),
            Reject::BundleSignature => core.increment(Counter::BundlesForged),
            _ => {}
        }
        self.count_reject(reject, None);
    }

    fn append(&mut self, journal: JournalId, lsn: Lsn, record: Record, batch: Option<LaneTip>) {
        if matches!(record, Record::Batch(..)) {
            self.shared.core(self.id.index()).increment(Counter::BatchesHeld);
        }
        self.log.append(journal, lsn, record, batch);
    }

    /// The peer is not let in again at once.
    pub(crate) fn ban(&mut self, peer: ReplicaId, link: LinkId) {
        let Some((time, count)) = self.peers.condemn(peer, link, Instant::now()) else { return };
        warn!("replica {peer} is kept out of link {link} for {} s, for what it has sent", time.as_secs());
        self.shared.core(self.id.index()).increment(Counter::PeerBans);
        let until = self.clock.now().plus(nanoseconds(time).0);
        self.shared.set_ban(link, peer, count, until);
    }

    pub(crate) fn close(&mut self, id: ConnectionId) {
        self.reactor.close(id);
        self.on_closed(id, false);
    }

    pub(crate) fn send(&mut self, id: ConnectionId, frame: &Frame) {
        if is_small(frame) {
            self.reactor.send(id, frame.bytes());
        } else {
            self.reactor.send_shared(id, Chunk::from_arc(frame.shared()));
        }
    }

    fn send_peer(&mut self, peer: ReplicaId, link: LinkId, frame: &Frame) {
        let Some(state) = self.peers.get_mut(peer, link) else { return };
        let Some(id) = state.connection else { return };
        if state.lagging {
            return;
        }
        let queued = self.reactor.queued_bytes(id);
        if queued + frame.bytes().len() > PEER_QUEUE_BYTES_MAX {
            state.lagging = true;
            warn!("replica {peer} does not take what is sent on link {link}; it will catch up from state");
            self.shared.core(self.id.index()).increment(Counter::PeerOverflows);
            self.shared.set_link(link, peer, true, true, queued);
            return;
        }
        self.send(id, frame);
    }

    /// Notes what is to be told when a connection has taken all that is queued. One that is gone takes nothing, and is told of.
    fn await_taken(&mut self, peer: ReplicaId, link: LinkId, answered: Answered) {
        let Some(connection) = self.peers.get_mut(peer, link).and_then(|state| state.connection) else {
            return;
        };
        let Some(taken) = self.reactor.taken_bytes(connection) else { return };
        let queued = self.reactor.queued_bytes(connection) as u64;
        if queued == 0 {
            // Nothing that is sent will wake this core.
            self.step(Input::PeerTook { peer, link, answered });
            return;
        }
        self.peers.untaken.push(Untaken { connection, upto: taken + queued, peer, link, answered });
    }

    /// Tells which answers are taken.
    pub(crate) fn tell_taken(&mut self) {
        if self.peers.untaken.is_empty() {
            return;
        }
        let mut untaken = std::mem::take(&mut self.peers.untaken);
        untaken.retain(|Untaken { connection, upto, peer, link, answered }| {
            let Some(taken) = self.reactor.taken_bytes(*connection) else { return false };
            if taken >= *upto {
                self.step(Input::PeerTook { peer: *peer, link: *link, answered: *answered });
            }
            taken < *upto
        });
        self.peers.untaken = untaken;
    }
}

/// The histogram of a stage.
fn measure(stage: Stage) -> Measure {
    match stage {
        Stage::Admitted => Measure::Admitted,
        Stage::Sealed => Measure::Sealed,
        Stage::Durable => Measure::Durable,
        Stage::Acknowledged => Measure::Acknowledged,
        Stage::Proposed => Measure::Proposed,
        Stage::Prepared => Measure::Prepared,
        Stage::Committed => Measure::Committed,
        Stage::Executed => Measure::Executed,
        Stage::Replied => Measure::Replied,
    }
}
