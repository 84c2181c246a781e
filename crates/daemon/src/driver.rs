//! One core: its reactor, its connections and its share of the replica.

mod clients;

use crate::accounts::Accounts;
use crate::checkpointer::{Checkpointer, Outcome};
use crate::clients::Clients;
use crate::clock::{Clock, nanoseconds};
use crate::config::NodeConfig;
use crate::connection::{Connection, HANDSHAKE_TIME_MAX, Phase};
use crate::descriptors::{CLOSING, Doors};
use crate::half_open::HalfOpen;
use crate::log_driver::{Damages, LogDriver, LogNews, LogSetup};
use crate::log_error::LogError;
use crate::log_reader::ReadBack;
use crate::peers::Peers;
use crate::refused::Refused;
use crate::run::StartError;
use crate::shared::Shared;
use quorate_reactor::{
    AlignedBuffer, ConnectionId, Event, ListenerId, Mailbox, Reactor, ReactorCounters, ReactorError,
    ReactorOptions, Signal, Waker,
};
use quorate_replica::mail::Mail;
use quorate_replica::{Core, Effect, Input, Intake, Layout, Reject};
use quorate_telemetry::{Counter, Measure};
use quorate_types::{CoreId, JournalId, LinkId, Lsn, Nanoseconds, ReplicaId, ReplicaSet};
use quorate_wire::handshake::{
    Accepts, Dialer, DialerStep, HandshakeError, Identity, Listener, ListenerStep, Refusal, refusal_frame,
};
use quorate_wire::{Assembler, FrameRef};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// The messages of other cores that one tick takes. They may post as fast as this core takes; without an end to the
/// tick nothing would be sent and no link be read. What is left keeps the next wait from sleeping.
const MAIL_PER_TICK_MAX: usize = 4096;
/// How long the last replies may take to leave at shutdown.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_millis(500);

/// What one core is made of.
pub(crate) struct CoreParts {
    pub(crate) id: CoreId,
    /// The roles, as they begin.
    pub(crate) core: Core,
    pub(crate) mailbox: Mailbox<Mail>,
    /// Who makes the states of checkpoints durable; for the execution core.
    pub(crate) checkpointer: Option<Checkpointer>,
    pub(crate) log: LogSetup,
    /// How many connections it may have.
    pub(crate) doors: Doors,
}

/// One core at work.
pub(crate) struct Driver {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: CoreId,
    pub(crate) core: Core,
    pub(crate) reactor: Reactor,
    pub(crate) mailbox: Mailbox<Mail>,
    /// Who makes the states of checkpoints durable; on the execution core.
    pub(crate) checkpointer: Option<Checkpointer>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) peers: Peers,
    /// What clients make this core hold.
    pub(crate) accounts: Accounts,
    /// The connections of established clients by their numbers.
    pub(crate) clients: Clients<ConnectionId>,
    /// What each listening socket is for.
    doors: BTreeMap<ListenerId, Accepts>,
    client_count: u64,
    /// Accepted connections whose handshake is not complete. Each door has places of its own, so that a crowd at the
    /// clients' keeps no replica out.
    half_open_clients: HalfOpen<ConnectionId>,
    half_open_members: HalfOpen<ConnectionId>,
    half_open_strangers: HalfOpen<ConnectionId>,
    /// Those that were refused and may still take the answer, with others that are gone, oldest first.
    leaving: VecDeque<ConnectionId>,
    /// All connections whose handshake is not complete, by when its time is up.
    handshakes: BTreeSet<(Instant, ConnectionId)>,
    /// What was refused since that was told.
    pub(crate) refused: Refused,
    /// When this tick began.
    pub(crate) tick: Instant,
    /// Stands in for an assembler that is in use.
    pub(crate) spare_assembler: Option<Assembler>,
    /// The connections of which a tick has not taken all that has come, by when more of it may be taken.
    pub(crate) backlogs: BTreeSet<(Instant, ConnectionId)>,
    pub(crate) clock: Clock,
    /// When the steps whose effects are being carried out had ended.
    pub(crate) step_ended: Nanoseconds,
    /// The reactor's counters as they were last published.
    published: ReactorCounters,
    pub(crate) effects: Vec<Effect>,
    pub(crate) log: LogDriver,
    /// What the roles were told of the room on the disk.
    intake: Intake,
    /// What a write has made durable, kept for its memory.
    durable: Vec<(JournalId, Lsn)>,
    others: Vec<Waker>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("core", &self.id).finish_non_exhaustive()
    }
}

impl Driver {
    /// Sets a core up: ring, listening sockets, roles. Runs on the thread that will drive it.
    pub(crate) fn new(
        config: Arc<NodeConfig>,
        shared: Arc<Shared>,
        parts: CoreParts,
    ) -> Result<Self, ReactorError> {
        let CoreParts { id, core, mailbox, checkpointer, log, doors: room } = parts;
        let cpu = config.cores[id.index()];
        let mut reactor =
            Reactor::new(&ReactorOptions { cpu, spin: config.spin, ..ReactorOptions::default() })?;
        let layout = Layout::new(&config.cluster, config.cores.len());
        let links = layout.links_of_core(id);
        let member = &config.cluster.members()[config.replica.index()];
        let mut doors = BTreeMap::new();
        for link in &links {
            let (listener, _) = reactor.listen(member.mesh_address(*link), false)?;
            doors.insert(listener, Accepts::Replicas { link: *link });
        }
        if !links.is_empty() {
            let shares_port = config.cores.len() > 1;
            let (listener, _) = reactor.listen(member.client, shares_port)?;
            doors.insert(listener, Accepts::Clients);
        }
        let log = LogDriver::new(log);
        shared.set_log_bytes(id.index(), log.bytes_needed());
        Ok(Self {
            core,
            peers: Peers::new(&config.cluster, config.replica, &links, Instant::now()),
            accounts: Accounts::new(config.cluster.clients().len()),
            config,
            id,
            reactor,
            mailbox,
            checkpointer,
            connections: BTreeMap::new(),
            clients: Clients::new(room.clients),
            doors,
            client_count: 0,
            half_open_clients: HalfOpen::new(room.half_open_clients),
            half_open_members: HalfOpen::new(room.half_open_members),
            half_open_strangers: HalfOpen::new(room.half_open_strangers),
            leaving: VecDeque::new(),
            handshakes: BTreeSet::new(),
            refused: Refused::default(),
            tick: Instant::now(),
            spare_assembler: None,
            backlogs: BTreeSet::new(),
            clock: shared.clock,
            step_ended: Nanoseconds(0),
            published: ReactorCounters::default(),
            effects: Vec::new(),
            log,
            intake: Intake::All,
            durable: Vec::new(),
            others: Vec::new(),
            shared,
        })
    }

    /// The handle that wakes this core from another thread.
    pub(crate) fn waker(&self) -> Waker {
        self.reactor.waker()
    }

    /// The cores to wake when this one learns that the replica is to stop.
    pub(crate) fn set_others(&mut self, others: Vec<Waker>) {
        self.others = others;
    }

    pub(crate) fn watch_signals(&mut self, signals: &[Signal]) -> Result<(), ReactorError> {
        self.reactor.watch_signals(signals)
    }

    /// Drives the core until the replica is told to stop, or cannot go on.
    pub(crate) fn run(&mut self) -> Result<(), StartError> {
        let result = self.run_until_stop();
        // A core that fails takes the others with it: a replica works as a whole or not at all.
        self.shared.request_stop();
        self.others.iter().for_each(Waker::wake);
        result?;
        self.shut_down()
    }

    fn run_until_stop(&mut self) -> Result<(), StartError> {
        // Asks for the first segments of the log.
        self.log.start_writes(&mut self.reactor, Instant::now());
        while !self.shared.should_stop() {
            self.turn()?;
        }
        Ok(())
    }

    /// One tick: reap completions, step the state machines, carry out effects; the next wait submits them.
    fn turn(&mut self) -> Result<(), StartError> {
        let due = self.core.deadline().map(|time| self.clock.instant_of(time));
        let handshake = self.handshakes.first().map(|(expires, _)| *expires);
        let backlog = self.backlogs.first().map(|(due, _)| *due);
        let deadlines = [
            due,
            self.peers.next_dial(),
            handshake,
            self.accounts.next_look(),
            self.log.deadline(),
            self.refused.due(),
            backlog,
        ];
        let deadline = deadlines.into_iter().flatten().min();
        self.reactor.wait_with(deadline, &mut self.mailbox)?;
        let started = Instant::now();
        self.tick = started;
        self.take_backlogs();
        while let Some(event) = self.reactor.next_event() {
            self.on_event(event)?;
        }
        self.tell_taken();
        self.take_segments()?;
        while let Some(news) = self.log.take_read(&self.reactor) {
            match news {
                LogNews::Read(ReadBack { journal, lsn, record }) => {
                    self.step(Input::ReadBack { journal, lsn, record });
                }
                LogNews::Checked(damages) => self.on_checked(damages),
            }
        }
        let intake = self.shared.shortage().map_or(Intake::All, |shortage| shortage.intake);
        if std::mem::replace(&mut self.intake, intake) != intake {
            self.step(Input::Intake(intake));
        }
        for _ in 0..MAIL_PER_TICK_MAX {
            let Some(mail) = self.mailbox.take() else { break };
            self.step(Input::Mail(mail));
        }
        while let Some(outcome) = self.checkpointer.as_ref().and_then(Checkpointer::take) {
            self.on_checkpoint(outcome)?;
        }
        self.dial_due();
        self.expire_handshakes();
        self.look_at_clients();
        self.refused.tell(started);
        self.end_tick();
        self.publish();
        self.record(Measure::Tick, nanoseconds(started.elapsed()).0, 1);
        Ok(())
    }

    /// Ends the tick: what it has appended to the log leaves as one write.
    fn end_tick(&mut self) {
        self.step(Input::TickEnd);
        self.carry_out();
        self.log.start_writes(&mut self.reactor, Instant::now());
        self.shared.set_log_stands(self.id.index(), self.log.stands());
    }

    /// A write to the log has ended; what is durable by it is an input.
    fn on_written(
        &mut self,
        token: u64,
        buffer: AlignedBuffer,
        result: io::Result<()>,
    ) -> Result<(), LogError> {
        let mut durable = std::mem::take(&mut self.durable);
        let time = self.log.on_written(&self.reactor, token, buffer, result, Instant::now(), &mut durable)?;
        self.record(Measure::Sync, nanoseconds(time).0, 1);
        self.shared.set_log_bytes(self.id.index(), self.log.bytes_needed());
        self.tell_durable(durable);
        Ok(())
    }

    /// A part of the log was read back and checked.
    fn on_checked(&mut self, Damages { bytes, blocks, lost }: Damages) {
        let core = self.shared.core(self.id.index());
        core.add(Counter::LogScrubBytes, bytes);
        core.add(Counter::LogBlocksRepaired, blocks);
        core.add(Counter::LogRecordsLost, lost.len() as u64);
        for (journal, lsn) in lost {
            self.step(Input::Lost { journal, lsn });
        }
    }

    fn take_segments(&mut self) -> Result<(), LogError> {
        let mut durable = std::mem::take(&mut self.durable);
        self.log.take_segments(&mut self.reactor, &mut durable)?;
        self.tell_durable(durable);
        Ok(())
    }

    fn tell_durable(&mut self, mut durable: Vec<(JournalId, Lsn)>) {
        for (journal, upto) in durable.drain(..) {
            self.step(Input::Durable { journal, upto });
        }
        self.durable = durable;
    }

    /// What became of a checkpoint's state. One that finds the disk full waits for room; one that cannot be made
    /// durable for another reason ends the replica: the next one would meet the same disk.
    fn on_checkpoint(&mut self, outcome: Outcome) -> Result<(), StartError> {
        match outcome {
            Outcome::Durable(written) => {
                let seconds = written.elapsed.as_secs_f64();
                info!(
                    seq = written.position.seq.0,
                    complete = written.complete,
                    written_bytes = written.written_bytes,
                    live_bytes = written.live_bytes,
                    disk_bytes = written.disk_bytes,
                    seconds,
                    "a checkpoint is durable"
                );
                self.shared.set_checkpoint_waits(false);
                let core = self.shared.core(self.id.index());
                core.add(Counter::CheckpointBytes, written.written_bytes);
                core.increment(Counter::Checkpoints);
                core.set(Counter::PageFileBytes, written.disk_bytes);
                if written.complete {
                    self.step(Input::Checkpointed { position: written.position, root: written.root });
                }
                Ok(())
            }
            Outcome::Scrubbed { blocks, bad } => {
                let core = self.shared.core(self.id.index());
                core.add(Counter::BlocksScrubbed, blocks);
                core.add(Counter::BlocksMended, bad);
                Ok(())
            }
            Outcome::Replaced(_) => Ok(()),
            Outcome::PutOff { position, path, needed_bytes } => {
                if !self.shared.set_checkpoint_waits(true) {
                    warn!(
                        "{}: no room for the checkpoint after header {}, which takes {} MiB; make room on this disk, \
                         or raise the quota: until it is written, which is tried again by itself, writes are declined",
                        path.display(),
                        position.seq,
                        needed_bytes.div_ceil(1 << 20)
                    );
                }
                Ok(())
            }
            Outcome::Failed(_, error) => Err(StartError::Pages(error)),
        }
    }

    pub(crate) fn step(&mut self, input: Input<'_>) {
        self.core.step(self.clock.now(), input, &mut self.effects);
    }

    pub(crate) fn record(&self, measure: Measure, value: u64, count: u64) {
        self.shared.histograms(self.id.index()).record(measure, value, count);
    }

    fn publish(&mut self) {
        let counters = self.reactor.counters();
        let before = std::mem::replace(&mut self.published, counters);
        let enters = counters.enters - before.enters;
        if let Some(entries) = (counters.entries_submitted - before.entries_submitted).checked_div(enters) {
            self.record(Measure::EntriesPerEnter, entries, enters);
        }
        for bytes in self.reactor.sent() {
            self.record(Measure::BytesPerSend, *bytes as u64, 1);
        }
        let core = self.shared.core(self.id.index());
        let (unread, half_sent) = self.accounts.held_bytes();
        core.set(Counter::UnreadBytes, unread as u64);
        core.set(Counter::HalfSentBytes, half_sent as u64);
        core.set(Counter::Enters, counters.enters);
        core.set(Counter::Entries, counters.entries_submitted);
        core.set(Counter::OtherSyscalls, counters.other_syscalls);
        core.set(Counter::Sleeps, counters.sleeps);
        core.set(Counter::Sends, counters.sends);
        core.set(Counter::Receives, counters.receives);
        core.set(Counter::BytesSent, counters.bytes_sent);
        core.set(Counter::BytesReceived, counters.bytes_received);
        core.set(Counter::LogWrites, counters.file_writes);
        core.set(Counter::LogBytes, counters.file_bytes);
        core.set(Counter::LogSyncs, counters.file_syncs);
    }

    pub(crate) fn count(&self, counter: Counter) {
        self.shared.core(self.id.index()).increment(counter);
    }

    /// Something from there was refused; the log tells how often.
    pub(crate) fn count_reject(&mut self, reject: Reject, from: Option<SocketAddr>) {
        self.shared.count_reject(self.id.index(), reject);
        self.refused.note(reject.label(), from);
    }

    /// The handshake of a connection is refused.
    fn note_refusal(&mut self, id: ConnectionId, label: &'static str) {
        self.refused.note(label, self.connections.get(&id).map(|found| found.address));
    }

    fn on_event(&mut self, event: Event) -> Result<(), LogError> {
        match event {
            Event::Accepted { listener, connection, peer } => self.on_accepted(listener, connection, peer),
            Event::Connected { connection } => self.on_connected(connection),
            Event::Received { connection, buffer } => self.on_received(connection, &buffer),
            Event::Drained { connection } => self.on_drained(connection),
            Event::Closed { connection, reason } => {
                debug!(core = self.id.0, %reason, "connection closed");
                self.on_closed(connection, false);
            }
            Event::FileWritten { token, buffer, result, .. } => self.on_written(token, buffer, result)?,
            Event::Woken => {}
            Event::Signal(Signal::User1) => self.shared.request_dump(),
            Event::Signal(signal) => {
                info!(?signal, "stopping");
                self.shared.request_stop();
            }
        }
        Ok(())
    }

    fn on_accepted(&mut self, listener: ListenerId, connection: ConnectionId, address: SocketAddr) {
        self.count(Counter::ConnectionsOpened);
        let Some(accepts) = self.doors.get(&listener).copied() else { return self.reactor.close(connection) };
        let now = Instant::now();
        let banned = match accepts {
            Accepts::Replicas { link } => self.peers.banned(link, now),
            Accepts::Clients => ReplicaSet::EMPTY,
        };
        let listener = Listener::new(
            Arc::clone(&self.config.cluster),
            self.config.key.clone(),
            self.config.replica,
            accepts,
            fresh_nonce(),
        );
        let listener = Box::new(listener.keeping_out(banned));
        let phase = Phase::Listening { listener, accepts };
        self.begin_handshake(connection, phase, address, now);
        let gives_way = match accepts {
            Accepts::Replicas { link } if self.is_of_a_member(address.ip(), link) => {
                self.half_open_members.begin(connection, address.ip())
            }
            Accepts::Replicas { .. } => self.half_open_strangers.begin(connection, address.ip()),
            Accepts::Clients => self.half_open_clients.begin(connection, address.ip()),
        };
        if let Some(oldest) = gives_way {
            self.count(Counter::HandshakesCutShort);
            self.refused.half_open += 1;
            self.reactor.close(oldest);
            self.on_closed(oldest, false);
        }
    }

    fn begin_handshake(&mut self, id: ConnectionId, phase: Phase, address: SocketAddr, now: Instant) {
        let connection = Connection::new(phase, address, now);
        self.handshakes.insert((connection.expires, id));
        self.connections.insert(id, connection);
    }

    /// Whether a member may come from there.
    fn is_of_a_member(&self, address: IpAddr, link: LinkId) -> bool {
        let members = self.config.cluster.members();
        members.iter().any(|member| member.mesh_address(link).ip() == address.to_canonical())
    }

    /// The handshake of a connection is over, for the better or the worse.
    fn end_handshake(&mut self, id: ConnectionId, phase: &Phase, expires: Instant) {
        self.handshakes.remove(&(expires, id));
        match phase {
            Phase::Listening { accepts: Accepts::Clients, .. } => self.half_open_clients.end(id),
            Phase::Listening { .. } => {
                self.half_open_members.end(id);
                self.half_open_strangers.end(id);
            }
            _ => {}
        }
    }

    /// The handshake of a connection is complete.
    fn establish(&mut self, id: ConnectionId, phase: Phase) {
        self.count(Counter::HandshakesCompleted);
        if let Some(connection) = self.connections.get_mut(&id) {
            let (before, expires) = (std::mem::replace(&mut connection.phase, phase), connection.expires);
            self.end_handshake(id, &before, expires);
        }
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        for (peer, link) in self.peers.take_due(now) {
            let address = self.config.cluster.members()[peer.index()].mesh_address(link);
            match self.reactor.connect(address) {
                Ok(id) => {
                    self.begin_handshake(id, Phase::Connecting { peer, link }, address, now);
                }
                Err(error) => {
                    warn!(%error, "cannot dial replica {peer}");
                    if let Some(state) = self.peers.get_mut(peer, link) {
                        state.dial_at = Some(now + HANDSHAKE_TIME_MAX);
                    }
                }
            }
        }
    }

    fn on_connected(&mut self, id: ConnectionId) {
        self.count(Counter::ConnectionsOpened);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Phase::Connecting { peer, link } = connection.phase else { return };
        let identity = Identity::Replica { replica: self.config.replica, link };
        let (dialer, hello) = Dialer::start(
            Arc::clone(&self.config.cluster),
            self.config.key.clone(),
            identity,
            peer,
            fresh_nonce(),
        );
        connection.phase = Phase::Dialing { peer, link, dialer: Box::new(dialer) };
        self.reactor.send(id, hello.bytes());
    }

    pub(crate) fn refuse(&mut self, id: ConnectionId, error: &dyn std::fmt::Display) {
        // One that is forgotten is ending already, perhaps with a last word on its way that must not be cut off.
        let Some(connection) = self.connections.get(&id) else { return };
        let address = connection.address;
        match connection.phase {
            // Whoever reaches the port can bring this about, so it must not fill the log.
            _ if connection.is_shaking_hands() => debug!(%address, "closing a connection: {error}"),
            Phase::Closing => {}
            Phase::Peer { peer, link } => {
                warn!(%address, "closing link {link} to replica {peer}: {error}");
                self.ban(peer, link);
            }
            _ => debug!(%address, "closing a client's connection: {error}"),
        }
        self.reactor.close(id);
        self.on_closed(id, false);
    }

    /// Handles one frame; says whether it completed a handshake.
    pub(crate) fn on_frame(&mut self, id: ConnectionId, frame: FrameRef<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        match &mut connection.phase {
            Phase::Peer { peer, link } => {
                let (peer, link) = (*peer, *link);
                let before = self.effects.len();
                self.step(Input::PeerFrame { peer, link, frame });
                let condemned = |effect: &Effect| matches!(effect, Effect::ClosePeer { .. });
                if self.effects[before..].iter().any(condemned) {
                    // At once: the rest of the burst is not looked at, and a reconnect in it is not hit instead.
                    self.carry_out();
                }
                false
            }
            Phase::Client { .. } => {
                let asked = connection.ask(frame.kind, self.tick, &mut self.accounts);
                self.on_client_frame(id, asked, frame);
                false
            }
            Phase::Listening { listener, .. } => {
                let step = listener.on_frame(frame);
                self.on_listener_step(id, step)
            }
            Phase::Dialing { dialer, peer, link } => {
                let (peer, link) = (*peer, *link);
                let step = dialer.on_frame(frame);
                self.on_dialer_step(id, peer, link, step)
            }
            Phase::Connecting { .. } | Phase::Closing => false,
        }
    }

    fn on_listener_step(&mut self, id: ConnectionId, step: Result<ListenerStep, HandshakeError>) -> bool {
        match step {
            Ok(ListenerStep::Send(frame)) => {
                self.reactor.send(id, frame.bytes());
                false
            }
            Ok(ListenerStep::Done(welcome, Identity::Client { key })) => {
                if !self.makes_room(&key) {
                    self.fail_handshake(id, Some(Refusal::Full));
                    return false;
                }
                self.reactor.send(id, welcome.bytes());
                self.on_client_established(id, key);
                true
            }
            Ok(ListenerStep::Done(_, Identity::Replica { replica, link }))
                if self.peers.banned(link, Instant::now()).contains(replica) =>
            {
                // Since it began to shake hands.
                self.note_refusal(id, Refusal::Banned.label());
                self.fail_handshake(id, Some(Refusal::Banned));
                false
            }
            Ok(ListenerStep::Done(welcome, Identity::Replica { replica, link })) => {
                self.reactor.send(id, welcome.bytes());
                self.on_peer_established(id, replica, link);
                true
            }
            Err(HandshakeError::Refuse(refusal)) => {
                self.note_refusal(id, refusal.label());
                self.fail_handshake(id, Some(refusal));
                false
            }
            Err(error) => {
                debug!(%error, "a handshake failed");
                self.note_refusal(id, "handshake_malformed");
                self.fail_handshake(id, None);
                false
            }
        }
    }

    fn on_dialer_step(
        &mut self,
        id: ConnectionId,
        peer: ReplicaId,
        link: LinkId,
        step: Result<DialerStep, HandshakeError>,
    ) -> bool {
        match step {
            Ok(DialerStep::Send(frame)) => {
                self.reactor.send(id, frame.bytes());
                false
            }
            Ok(DialerStep::Done) => {
                self.on_peer_established(id, peer, link);
                true
            }
            Err(error) => {
                warn!("the handshake with replica {peer} failed: {error}");
                if let HandshakeError::RefusedByPeer(Refusal::Full | Refusal::Banned) = error {
                    // There may be room soon, and no ban is for good; all other refusals last.
                    self.on_closed(id, false);
                }
                self.fail_handshake(id, None);
                false
            }
        }
    }

    fn fail_handshake(&mut self, id: ConnectionId, refusal: Option<Refusal>) {
        self.count(Counter::HandshakesRefused);
        self.shared.count_reject(self.id.index(), Reject::Handshake);
        self.on_closed(id, true);
        match refusal {
            Some(refusal) => {
                self.reactor.send(id, refusal_frame(refusal).bytes());
                self.reactor.finish(id);
                // Whoever does not read the answer takes no descriptor from others.
                self.leaving.push_back(id);
                if self.leaving.len() > CLOSING
                    && let Some(oldest) = self.leaving.pop_front()
                {
                    self.reactor.close(oldest);
                }
            }
            None => self.reactor.close(id),
        }
    }

    fn on_peer_established(&mut self, id: ConnectionId, peer: ReplicaId, link: LinkId) {
        self.establish(id, Phase::Peer { peer, link });
        self.reactor.expect_bursts(id);
        // The newest connection wins: the peer may know already that the older one is dead.
        if let Some(older) = self.peers.establish(peer, link, id, Instant::now()) {
            self.reactor.close(older);
            if let Some(connection) = self.connections.get_mut(&older) {
                connection.phase = Phase::Closing;
            }
            self.step(Input::PeerDisconnected { peer, link });
        }
        info!("link {link} to replica {peer} stands");
        self.shared.set_link(link, peer, true, false, 0);
        self.step(Input::PeerConnected { peer, link });
    }

    /// A queue is empty: of a peer, if it had overflowed, which gets what it lacks from state now.
    fn on_drained(&mut self, id: ConnectionId) {
        let (peer, link) = match self.connections.get_mut(&id).map(|connection| &mut connection.phase) {
            Some(Phase::Peer { peer, link }) => (*peer, *link),
            Some(Phase::Client { held, .. }) => {
                self.accounts.queue(held, 0, 0);
                return;
            }
            _ => return,
        };
        let Some(state) = self.peers.get_mut(peer, link).filter(|state| state.lagging) else { return };
        state.lagging = false;
        info!("replica {peer} takes messages again on link {link}");
        self.shared.set_link(link, peer, true, false, 0);
        self.step(Input::PeerDrained { peer, link });
    }

    /// Forgets a connection, whoever closed it; harmless when it is forgotten already.
    pub(crate) fn on_closed(&mut self, id: ConnectionId, slowly: bool) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.count(Counter::ConnectionsClosed);
        self.end_handshake(id, &connection.phase, connection.expires);
        match connection.phase {
            Phase::Peer { peer, link }
            | Phase::Connecting { peer, link }
            | Phase::Dialing { peer, link, .. } => {
                if self.peers.on_closed(peer, link, id, slowly, Instant::now()) {
                    info!("link {link} to replica {peer} is down");
                    self.shared.set_link(link, peer, false, false, 0);
                    self.step(Input::PeerDisconnected { peer, link });
                }
            }
            Phase::Client { number, held, .. } => self.on_client_closed(number, &held),
            Phase::Listening { .. } | Phase::Closing => {}
        }
    }

    fn expire_handshakes(&mut self) {
        let now = Instant::now();
        while self.handshakes.first().is_some_and(|(expires, _)| *expires <= now)
            && let Some((_, id)) = self.handshakes.pop_first()
        {
            self.note_refusal(id, "handshake_silent");
            self.count(Counter::HandshakesRefused);
            self.shared.count_reject(self.id.index(), Reject::Handshake);
            self.reactor.close(id);
            self.on_closed(id, false);
        }
    }

    /// Takes no new connection, lets the last replies leave and the log be written, and closes the rest.
    fn shut_down(&mut self) -> Result<(), StartError> {
        for listener in self.doors.keys() {
            self.reactor.stop_listening(*listener);
        }
        self.log.finish();
        let end = Instant::now() + SHUTDOWN_TIME_MAX;
        let queued = |driver: &Self| driver.connections.keys().any(|id| driver.reactor.queued_bytes(*id) > 0);
        let writing = |driver: &Self| !driver.log.is_idle() || driver.log.wants_write();
        while (queued(self) || writing(self)) && Instant::now() < end {
            self.log.start_writes(&mut self.reactor, Instant::now());
            self.reactor.wait(Some(end))?;
            while let Some(event) = self.reactor.next_event() {
                if let Event::FileWritten { token, buffer, result, .. } = event {
                    // Nobody hears any more what is durable.
                    let mut durable = Vec::new();
                    self.log.on_written(
                        &self.reactor,
                        token,
                        buffer,
                        result,
                        Instant::now(),
                        &mut durable,
                    )?;
                }
            }
            self.log.take_segments(&mut self.reactor, &mut Vec::new())?;
        }
        Ok(())
    }
}

fn fresh_nonce() -> [u8; 32] {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).expect("invariant: the kernel's random source does not fail");
    nonce
}
