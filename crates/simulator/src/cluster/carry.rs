//! What cores want done: the oracles look at each effect, then the world carries it out.

use super::storage::job;
use super::{Cluster, Effects, Origin, Route, core_id, id};
use crate::disk::pages::Contents;
use crate::event::Event;
use crate::network::{ConnectionId, Side};
use crate::oracle::durability::Fact;
use crate::oracle::{Finding, Violation};
use crate::trace::Detail;
use quorate_journal::{CONSENSUS_JOURNAL, Record, batch_journal};
use quorate_replica::mail::Mail;
use quorate_replica::{ClientConnection, Effect};
use quorate_types::{CoreId, JournalId, LinkId, Lsn, Nanoseconds, ReplicaId, Why};
use quorate_wire::message::{
    Checkpoint, Commit, LaneAcks, Message, NewView, PrePrepare, Prepare, Status, Suspect, ViewChange,
};
use quorate_wire::{BatchView, DecodeError, Frame, Kind, LaneTip, ReplyView, batch};
use std::sync::Arc;

impl Cluster {
    /// Carries out the effects of one step, in order. The replica may crash in the middle of them.
    pub(super) fn carry(
        &mut self,
        replica: ReplicaId,
        core: CoreId,
        effects: Effects,
    ) -> Result<(), Finding> {
        let origin = Origin { replica, core };
        for effect in effects {
            // What is said for the log alone is no moment for a crash.
            if matches!(effect, Effect::ViewEntered { .. } | Effect::ViewLeft { .. }) {
                continue;
            }
            self.carry_one(origin, effect).map_err(|violation| self.finding(Some(replica), violation))?;
            if self.crashes_now(replica) {
                break;
            }
        }
        Ok(())
    }

    fn carry_one(&mut self, origin: Origin, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Append { journal, lsn, record, batch } => {
                self.append(origin, journal, lsn, (record, batch))
            }
            Effect::Trim { journal, upto } => self.trim(origin, journal, upto),
            Effect::ReadBack { journal, lsn } => {
                check_owner(origin, journal)?;
                self.read_back(origin.replica, origin.core, journal, lsn);
                Ok(())
            }
            Effect::SendPeer { peer, link, frame } => {
                self.note_sealed(origin.replica, &frame);
                self.send_peer(origin, peer, link, frame)
            }
            Effect::AwaitTaken { peer, link, answered } => {
                // As with what is sent: before its core knows of a connection it has none.
                if self.hosts[origin.replica.index()].links.contains(&(peer, link)) {
                    let connection = self.peer_connection(origin.replica, peer, link);
                    let side = if origin.replica < peer { Side::Dialer } else { Side::Listener };
                    self.network.await_taken(self.now, connection, side, answered, &mut self.queue);
                }
                Ok(())
            }
            Effect::SendClient { connection, frame } => self.send_client(origin, connection, frame),
            Effect::ClosePeer { peer, link, reject } => {
                self.on_reject(origin.replica, &reject, Some(peer))?;
                self.oracles.work.on_closed(origin.replica, peer);
                let connection = self.peer_connection(origin.replica, peer, link);
                self.network.disconnect(self.now, connection, &mut self.queue);
                Ok(())
            }
            Effect::CloseClient { connection, reject } => {
                self.on_reject(origin.replica, &reject, None)?;
                if let Some(found) = self.client_connection(origin.replica, connection) {
                    self.network.disconnect(self.now, found, &mut self.queue);
                }
                Ok(())
            }
            Effect::ClientReplaced { connection } => {
                if let Some(found) = self.client_connection(origin.replica, connection) {
                    self.network.disconnect(self.now, found, &mut self.queue);
                }
                Ok(())
            }
            Effect::Mail { core, mail } => {
                self.post(origin, core, mail);
                Ok(())
            }
            Effect::KeepStates(needed) => self.keep_states(origin.replica, &needed),
            Effect::KeepPart { position, root, received } => {
                let job = job(position, Nanoseconds(0), Contents::Part(root, received));
                self.write_pages(origin.replica, job);
                Ok(())
            }
            Effect::Checkpoint { position, timestamp, state } => {
                self.write_pages(origin.replica, job(position, timestamp, Contents::State(state)));
                Ok(())
            }
            Effect::Report { report, .. } => {
                self.on_report(origin.replica, &report);
                Ok(())
            }
            Effect::Rejected(reject) => {
                self.trace.note(self.now, Detail::Readable, &[4, id(origin.replica)], || {
                    format!("r{} refuses {reject}", origin.replica)
                });
                self.on_reject(origin.replica, &reject, None)
            }
            Effect::Executed { .. }
            | Effect::BundlesWait { .. }
            | Effect::Bitten { .. }
            | Effect::Stage(_)
            | Effect::StageEnds { .. }
            | Effect::ViewEntered { .. }
            | Effect::ViewLeft { .. } => Ok(()),
            Effect::Halt { reason } => Err(Violation::new("no halt", reason)),
        }
    }

    fn append(
        &mut self,
        origin: Origin,
        journal: JournalId,
        lsn: Lsn,
        (record, batch): (Record, Option<LaneTip>),
    ) -> Result<(), Violation> {
        let Origin { replica, core } = origin;
        if let Record::Prepared { view, position, votes } = &record {
            let judged = self.oracles.votes.on_certificate(replica, *view, *position, votes);
            self.excused(replica, judged)?;
        }
        if let Record::EnterView { view, head, .. } = &record {
            self.oracles.work.on_view(replica);
            self.trace.note(self.now, Detail::Readable, &[16, id(replica), view.0, head.seq.0], || {
                format!("r{replica} enters {view:?} at {:?}", head.seq)
            });
        }
        let known = self.oracles.ledger.batches();
        let fact = Fact::of(&record, &mut self.oracles.ledger)?;
        if let Record::Batch(frame, _) = &record
            && self.oracles.ledger.batches() > known
        {
            self.oracles.resources.on_batch(frame.bytes().len());
        }
        if let (Record::Batch(frame, _), Fact::Batch(chain, Why::OwnLink)) = (&record, fact)
            && batch::parse_head(frame.payload()).is_ok_and(|head| head.lane.origin == replica)
        {
            self.oracles.origins.on_sealed(chain);
            if self.watches_fairness(replica) {
                let view = BatchView::parse(frame.payload()).expect("invariant: the ledger has read it");
                self.oracles.fairness.on_sealed(replica, &view)?;
            }
        }
        let judged = self.oracles.durability.on_append(replica, journal, lsn, fact);
        self.excused(replica, judged)?;
        check_owner(origin, journal)?;
        let log = &mut self.hosts[replica.index()].disk.logs[core.index()];
        let due = log.due(journal);
        if lsn != due {
            let text = format!("{lsn:?} of {journal:?} appended where {due:?} was due");
            return Err(Violation::new("journal", text));
        }
        log.append(journal, lsn, record, batch);
        self.trace.note(self.now, Detail::Verbose, &[5, id(replica), u64::from(journal.0), lsn.0], || {
            format!("r{replica} {journal:?} {lsn:?}: {fact:?}")
        });
        Ok(())
    }

    fn trim(&mut self, origin: Origin, journal: JournalId, upto: Lsn) -> Result<(), Violation> {
        let Origin { replica, core } = origin;
        check_owner(origin, journal)?;
        let oracles = &mut self.oracles;
        let judged = oracles.durability.on_trim(&oracles.ledger, &oracles.agreement, replica, journal, upto);
        self.excused(replica, judged)?;
        self.trace.note(self.now, Detail::Verbose, &[21, id(replica), u64::from(journal.0), upto.0], || {
            format!("r{replica} {journal:?} needs nothing up to {upto:?}")
        });
        self.hosts[replica.index()].disk.logs[core.index()].trim(journal, upto);
        Ok(())
    }

    fn post(&mut self, origin: Origin, to: CoreId, mail: Mail) {
        let Origin { replica, core: from } = origin;
        let delay = self.cores_random.between(1, self.plan.core.mail_max.0);
        let host = self.host(replica);
        let at = delay * host.slowness;
        let life = host.life;
        host.cores[to.index()].mail[from.index()].push_back(mail);
        self.queue.push(self.now.plus(at), Event::Mail { life, from, to });
    }

    fn peer_connection(&self, replica: ReplicaId, peer: ReplicaId, link: LinkId) -> ConnectionId {
        let (low, high) = (replica.min(peer), replica.max(peer));
        self.peers[low.index()][high.index()][link.index()]
    }

    /// What an origin has sent of its own lane it has sealed, also where it crashes before that is in its journal.
    fn note_sealed(&mut self, replica: ReplicaId, frame: &Frame) {
        if frame.kind() != Kind::Batch {
            return;
        }
        if let Ok(view) = BatchView::parse(frame.payload())
            && view.head.lane.origin == replica
        {
            self.oracles.origins.on_sealed(view.chain());
        }
    }

    fn send_peer(
        &mut self,
        origin: Origin,
        peer: ReplicaId,
        link: LinkId,
        frame: Frame,
    ) -> Result<(), Violation> {
        let Origin { replica, core } = origin;
        if peer == replica || core != core_id(link.index() % self.plan.cores) {
            let text = format!("core {core} sends to r{peer} over {link:?}, which is not its own");
            return Err(Violation::new("boundary", text));
        }
        let judged = self.judge(replica, &frame);
        let judged = judged
            .map_err(|error| Violation::new("boundary", format!("sends a frame that is none: {error}")))?;
        self.excused(replica, judged)?;
        self.trace.note(self.now, Detail::Verbose, &[6, id(replica), id(peer)], || {
            format!("r{replica} -> r{peer} {link:?}: {}", describe(&frame))
        });
        // A driver tells its core of a connection before it takes anything to send.
        if !self.hosts[replica.index()].links.contains(&(peer, link)) {
            return Ok(());
        }
        if self.lies(replica) {
            self.lie(replica, peer, link, frame);
        } else {
            self.put_on_the_way(replica, peer, link, frame);
        }
        Ok(())
    }

    /// A frame leaves a replica for another one.
    pub(super) fn put_on_the_way(&mut self, replica: ReplicaId, peer: ReplicaId, link: LinkId, frame: Frame) {
        let connection = self.peer_connection(replica, peer, link);
        let side = if replica < peer { Side::Dialer } else { Side::Listener };
        self.network.send(self.now, connection, side, frame, &mut self.queue);
    }

    /// What the oracles say of a frame that leaves `replica`.
    fn judge(&mut self, replica: ReplicaId, frame: &Frame) -> Result<Result<(), Violation>, DecodeError> {
        let (now, config) = (self.now, Arc::clone(&self.config));
        let primary = |view| config.primary(view);
        let oracles = &mut self.oracles;
        let payload = frame.payload();
        Ok(match frame.kind() {
            Kind::PrePrepare => {
                let message = PrePrepare::decode(payload)?;
                oracles.ledger.note_header(&Arc::new(message.header.clone()));
                oracles.votes.on_pre_prepare(replica, primary(message.view), &message)
            }
            Kind::Prepare => {
                let message = Prepare::decode(payload)?;
                oracles
                    .votes
                    .on_chain(&oracles.ledger, replica, &message, |seq| oracles.agreement.decided(seq))
                    .and_then(|()| oracles.votes.on_prepare(replica, &message))
                    .and_then(|()| oracles.durability.before_prepare(&oracles.ledger, replica, &message))
            }
            Kind::Commit => {
                let message = Commit::decode(payload)?;
                oracles
                    .votes
                    .on_commit(replica, &message)
                    .and_then(|()| oracles.durability.before_commit(replica, &message))
            }
            Kind::Checkpoint => {
                let message = Checkpoint::decode(payload)?;
                let seq = message.position.seq;
                oracles
                    .votes
                    .on_checkpoint(replica, seq, message.root)
                    .and_then(|()| oracles.durability.before_checkpoint(replica, message.position))
                    .and_then(|()| oracles.agreement.on_root(replica, seq, message.root))
            }
            Kind::ViewChange => {
                let message = ViewChange::decode(payload)?;
                oracles
                    .votes
                    .on_view_change(replica, &message)
                    .and_then(|()| oracles.durability.before_view_change(replica, message.new_view))
            }
            Kind::NewView => {
                let message = NewView::decode(payload)?;
                oracles
                    .votes
                    .on_new_view(replica, primary(message.view), &message)
                    .and_then(|()| oracles.durability.before_new_view(replica, message.view))
            }
            Kind::Suspect => {
                let message = Suspect::decode(payload)?;
                let judged = oracles.primaries.on_suspect(now, replica, primary(message.view), &message);
                oracles.votes.on_suspect(replica, message.view).and(self.excused(replica, judged))
            }
            Kind::LaneAcks => {
                let message = LaneAcks::decode(payload)?;
                message.tips.iter().try_for_each(|tip| {
                    oracles.durability.before_acknowledgement(&oracles.ledger, replica, tip)
                })
            }
            _ => Ok(()),
        })
    }

    pub(super) fn client_connection(
        &self,
        replica: ReplicaId,
        connection: ClientConnection,
    ) -> Option<ConnectionId> {
        let found = self.routes.iter().position(|route| {
            matches!(route, Route::Client { replica: there, there: Some(number), .. }
                if *there == replica && *number == connection)
        });
        found.map(ConnectionId)
    }

    fn send_client(
        &mut self,
        origin: Origin,
        connection: ClientConnection,
        frame: Frame,
    ) -> Result<(), Violation> {
        let Origin { replica, core } = origin;
        if connection.core != core {
            let text = format!("core {core} sends to {connection:?}, which is not its own");
            return Err(Violation::new("boundary", text));
        }
        if frame.kind() == Kind::Reply {
            let reply = ReplyView::parse(frame.payload()).map_err(|error| {
                Violation::new("boundary", format!("sends a reply that is none: {error}"))
            })?;
            let judged = self.oracles.replies.on_reply(replica, &reply);
            self.excused(replica, judged)?;
        }
        self.trace.note(self.now, Detail::Verbose, &[7, id(replica), connection.number], || {
            format!("r{replica} -> client connection {}: {}", connection.number, describe(&frame))
        });
        if let Some(found) = self.client_connection(replica, connection) {
            self.network.send(self.now, found, Side::Listener, frame, &mut self.queue);
        }
        Ok(())
    }
}

/// A core appends to its own journals.
fn check_owner(origin: Origin, journal: JournalId) -> Result<(), Violation> {
    let Origin { core, .. } = origin;
    let is_own = journal == batch_journal(core) || (journal == CONSENSUS_JOURNAL && core == CoreId(0));
    if is_own {
        return Ok(());
    }
    Err(Violation::new("journal", format!("core {core} appends to {journal:?}, which is not its own")))
}

/// A frame in words, for readers.
pub(super) fn describe(frame: &Frame) -> String {
    let payload = frame.payload();
    let bytes = payload.len();
    let message = match frame.kind() {
        Kind::PrePrepare => PrePrepare::decode(payload).map(|message| {
            let header = &message.header;
            format!("{:?} {:?} cut {:?}", header.seq, header.digest(), header.cut)
        }),
        Kind::Prepare => {
            Prepare::decode(payload).map(|message| format!("{:?} {:?}", message.lo, message.digests))
        }
        Kind::Commit => Commit::decode(payload).map(|message| format!("{:?}", message.position)),
        Kind::Checkpoint => Checkpoint::decode(payload)
            .map(|message| format!("{:?} root {:?}", message.position, message.root)),
        Kind::Status => Status::decode(payload).map(|message| {
            format!(
                "{:?} {} stable {:?} accepted {:?} prepared {:?} committed {:?} executed {:?}",
                message.view,
                if message.entered { "entered" } else { "awaited" },
                message.stable.seq,
                message.accepted.seq,
                message.prepared.seq,
                message.committed.seq,
                message.executed.seq
            )
        }),
        Kind::Suspect => {
            Suspect::decode(payload).map(|message| format!("{:?} {:?}", message.view, message.reason))
        }
        Kind::ViewChange => ViewChange::decode(payload).map(|message| {
            let prepared = message.prepared.as_ref().map(|found| (found.view, found.position));
            let because: Vec<_> = message.suspects.iter().map(|(signer, _)| signer).collect();
            format!("{:?} prepared {prepared:?} because of {because:?}", message.new_view)
        }),
        Kind::NewView => NewView::decode(payload).map(|message| {
            let prepared = message.prepared.as_ref().map(|found| (found.view, found.position));
            format!("{:?} prepared {prepared:?}", message.view)
        }),
        Kind::LaneAcks => LaneAcks::decode(payload).map(|message| format!("{:?}", message.tips)),
        Kind::Batch => quorate_wire::BatchView::parse(payload).map(|view| {
            let head = &view.head;
            format!("{:?} {:?} {:?}, {} bundles", head.lane, head.number, view.chain(), view.bundles.len())
        }),
        Kind::Bundle => quorate_wire::BundleView::parse(payload)
            .map(|view| format!("{:?} {:?}", view.head.session, view.head.number)),
        Kind::Reply => ReplyView::parse(payload)
            .map(|reply| format!("{:?} {:?} at {:?}", reply.session, reply.number, reply.seq)),
        _ => Ok(String::new()),
    };
    let text = message.unwrap_or_else(|error| error.to_string());
    format!("{:?} ({bytes} bytes) {text}", frame.kind())
}
