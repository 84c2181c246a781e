//! A cluster with its clients and its world: events go in, effects are carried out, oracles watch.
//!
//! This is the simulator's counterpart of the daemon: it feeds cores as a driver does (a burst of inputs,
//! then the end of the tick) and carries out what they want. Effects are in [`carry`], faults in [`trouble`],
//! the end of a history in [`closing`].

mod carry;
mod clients;
mod closing;
mod lies;
mod restart;
mod storage;
mod trouble;

use crate::agent::Agent;
use crate::client::Client;
use crate::disk::Disk;
use crate::event::{Event, Life};
use crate::host::{Arrival, Host};
use crate::ledger::Ledger;
use crate::network::{ConnectionId, Network, Notice, Noticed, Side};
use crate::oracle::agreement::Agreement;
use crate::oracle::durability::Durability;
use crate::oracle::fairness::{Fairness, Taken};
use crate::oracle::history::Completion;
use crate::oracle::origins::Origins;
use crate::oracle::outcomes::Asked;
use crate::oracle::primaries::Primaries;
use crate::oracle::replies::Replies;
use crate::oracle::resources::{Resources, Trouble};
use crate::oracle::votes::Votes;
use crate::oracle::work::Work;
use crate::oracle::{Finding, Violation};
use crate::plan::{GREEDY_KEY, Plan, WorkloadPlan};
use crate::queue::Queue;
use crate::random::{Random, Stream};
use crate::trace::{Detail, Trace};
use closing::Phase;
use quorate_replica::{ClientConnection, Core, Effect, Found, Input, Recovery, ReplicaSetup};
use quorate_types::{ClusterConfig, CoreId, LinkId, Nanoseconds, ReplicaId};
use quorate_wire::message::{Busy, BusyReason, Message};
use quorate_wire::{BundleView, Frame, Kind, header, testing};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Ticks in a row that may leave a deadline that has passed already.
const SPINS_MAX: u32 = 1000;
/// How often the oracles look at the whole cluster.
const PROBE: Nanoseconds = Nanoseconds::from_millis(20);

/// What a connection joins.
#[derive(Clone, Copy, Debug)]
enum Route {
    /// Two replicas; the first dials.
    Peers { ends: [ReplicaId; 2], link: LinkId },
    /// A client, who dials, and a replica, with the number that the connection has there now.
    Client { client: usize, replica: ReplicaId, there: Option<ClientConnection> },
}

/// What watches.
#[derive(Debug)]
pub struct Oracles {
    /// What replicas wrote down.
    pub ledger: Ledger,
    /// One header per slot, one root per checkpoint.
    pub agreement: Agreement,
    /// One vote per slot.
    pub votes: Votes,
    /// What origins have sealed.
    pub origins: Origins,
    /// Who is given up.
    pub primaries: Primaries,
    /// Durable before send.
    pub durability: Durability,
    /// One answer per bundle.
    pub replies: Replies,
    /// Bounds and refusals.
    pub resources: Resources,
    /// Bounded verification.
    pub work: Work,
    /// Who waits for whom.
    pub fairness: Fairness,
    /// What clients know to be complete.
    pub completions: Vec<Completion>,
    /// What clients have asked for and what they were told.
    pub asked: Vec<Asked>,
}

/// A history in progress.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    config: Arc<ClusterConfig>,
    now: Nanoseconds,
    queue: Queue<Event>,
    network: Network,
    routes: Vec<Route>,
    /// The connection of a pair and link, by the lower replica, the higher one and the link.
    peers: Vec<Vec<Vec<ConnectionId>>>,
    hosts: Vec<Host>,
    agents: BTreeMap<ReplicaId, Agent>,
    clients: Vec<Client>,
    cores_random: Random,
    disk_random: Random,
    crash_random: Random,
    workload_random: Random,
    sessions_random: Random,
    oracles: Oracles,
    phase: Phase,
    trace: Trace,
    frames: u64,
    broken: u64,
}

impl Cluster {
    /// The cluster of a plan, before its first event.
    #[must_use]
    pub fn new(plan: Plan, trace: Trace) -> Self {
        let config = testing::config_with_links(plan.replicas, plan.links).with_tuning(plan.tuning);
        let config = Arc::new(config);
        let hosts = (0..plan.replicas).map(|id| new_host(&plan, &config, ReplicaId(id))).collect();
        let replicas = usize::from(plan.replicas);
        let oracles = Oracles {
            ledger: Ledger::default(),
            agreement: Agreement::new(replicas, header::genesis(config.digest())),
            votes: Votes::new(config.quorums(), plan.lying()),
            origins: Origins::new(plan.lying()),
            primaries: Primaries::new(&plan),
            durability: Durability::new(replicas, plan.lying()),
            replies: Replies::default(),
            resources: Resources::new(
                Trouble::of(&plan),
                usize::from(plan.links) * plan.tuning.lane_bytes_open_max,
            ),
            work: Work::new(plan.replicas, &plan.tuning),
            fairness: Fairness::new(&plan),
            completions: Vec::new(),
            asked: Vec::new(),
        };
        let mut cluster = Self {
            now: Nanoseconds(0),
            queue: Queue::new(plan.seed),
            network: Network::new(plan.seed, plan.network),
            routes: Vec::new(),
            peers: Vec::new(),
            hosts,
            agents: lies::agents(&plan, &config),
            clients: Vec::new(),
            cores_random: Random::new(plan.seed, Stream::Cores),
            disk_random: Random::new(plan.seed, Stream::Disk),
            crash_random: Random::new(plan.seed, Stream::Crashes),
            workload_random: Random::new(plan.seed, Stream::Workload),
            sessions_random: Random::new(plan.seed, Stream::Sessions),
            oracles,
            phase: Phase::Faults,
            trace,
            frames: 0,
            broken: 0,
            config,
            plan,
        };
        cluster.join_replicas();
        cluster.join_clients();
        cluster.schedule();
        cluster
    }

    fn join_replicas(&mut self) {
        let all: Vec<ReplicaId> = self.config.replica_ids().collect();
        for low in &all {
            let mut row = vec![Vec::new(); all.len()];
            for high in all.iter().filter(|high| *high > low) {
                for link in self.config.link_ids() {
                    row[high.index()].push(self.network.add_peer(&mut self.queue));
                    self.routes.push(Route::Peers { ends: [*low, *high], link });
                }
            }
            self.peers.push(row);
        }
    }

    fn join_clients(&mut self) {
        // In a calm history every link stands before there is anything to carry: nobody misses the first batches.
        let from = Nanoseconds::from_millis(if self.plan.is_calm() { 100 } else { 0 });
        let count = u8::try_from(self.plan.workload.clients).expect("invariant: a few clients");
        let ordinary = WorkloadPlan { greedy: None, ..self.plan.workload };
        let of_ordinary = |number: u8| (number % self.plan.workload.client_keys, number, ordinary);
        let mut wanted: Vec<(u8, u8, WorkloadPlan)> = (0..count).map(of_ordinary).collect();
        if self.plan.workload.greedy.is_some() {
            // A session at each home, if the key may have as many.
            let sessions = self.plan.tuning.state.sessions_per_client.saturating_sub(1).max(1);
            let homes = (0..self.plan.replicas).take(sessions);
            wanted.extend(homes.map(|home| (GREEDY_KEY, home, self.plan.workload.of_greedy())));
        }
        for (index, (key, number, workload)) in wanted.into_iter().enumerate() {
            let key = testing::client_key_number(key);
            let home = ReplicaId(number % self.plan.replicas);
            let mut client = Client::new(Arc::clone(&self.config), key, home, index, workload);
            for replica in self.config.replica_ids() {
                client.connections.push(self.network.add_client(from, &mut self.queue));
                self.routes.push(Route::Client { client: index, replica, there: None });
            }
            self.clients.push(client);
            self.schedule_submissions(index);
        }
    }

    fn schedule(&mut self) {
        for (fault, what) in self.plan.faults.iter().enumerate() {
            self.queue.push(what.begin, Event::FaultBegins { fault });
            if !what.is_lasting() {
                self.queue.push(what.end, Event::FaultEnds { fault });
            }
        }
        // After the last fault has ended, whatever the tie-breaker says.
        self.queue.push(self.plan.heal_at.next(), Event::Heal);
        for replica in self.config.replica_ids() {
            for core in 0..self.plan.cores {
                self.wake(replica, core_id(core));
                self.pump(replica, core_id(core));
            }
        }
    }

    /// Lets the next event happen; says whether the history goes on.
    pub fn step(&mut self) -> Result<bool, Finding> {
        let (at, event) = self.queue.pop().expect("invariant: probes and the deadline keep the queue filled");
        assert!(at >= self.now, "time does not go back");
        self.now = at;
        match event {
            Event::Network(event) => self.on_network(event)?,
            Event::Tick { replica, core } => self.on_tick(replica, core)?,
            Event::Mail { life, from, to } => self.on_mail(life, from, to),
            Event::Written { life, core, write } => self.on_written(life, core, write),
            Event::ReadBack { life, core, journal, lsn } => self.on_read_back(life, core, journal, lsn),
            Event::Lost { life, core, journal, lsn } => self.on_lost(life, core, journal, lsn),
            Event::SegmentMade { life, core } => self.on_segment_made(life, core),
            Event::Quiet { life, core, since } => self.on_quiet(life, core, since),
            Event::PagesWritten { life } => self.on_pages_written(life)?,
            Event::Crash { life } => self.on_crash_due(life),
            Event::Submit { client } => self.on_submit(client)?,
            Event::Patience { client } => self.on_patience(client)?,
            Event::FaultBegins { fault } => self.on_fault_begins(fault),
            Event::FaultEnds { fault } => self.on_fault_ends(fault)?,
            Event::Lie { life, leaving } => self.on_lie(life, leaving),
            Event::Heal => self.on_heal(),
            Event::Probe => return self.on_probe(),
        }
        Ok(true)
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Nanoseconds {
        self.now
    }

    /// The record of the history.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What the oracles know.
    #[must_use]
    pub fn oracles(&self) -> &Oracles {
        &self.oracles
    }

    /// How often a replica has come back without a state that could be read, with others to have it from.
    #[must_use]
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// The number of frames that arrived.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    fn finding(&self, replica: Option<ReplicaId>, violation: Violation) -> Finding {
        Finding { seed: self.plan.seed, at: self.now, replica, violation }
    }

    fn host(&mut self, replica: ReplicaId) -> &mut Host {
        &mut self.hosts[replica.index()]
    }

    /// Puts an input into a core's inbox and lets it tick soon. Nobody takes it when the replica is down.
    fn deliver(&mut self, replica: ReplicaId, core: CoreId, arrival: Arrival) {
        if !self.host(replica).is_up() {
            return;
        }
        self.host(replica).cores[core.index()].inbox.push_back(arrival);
        self.wake(replica, core);
    }

    fn wake(&mut self, replica: ReplicaId, core: CoreId) {
        let delay = self.cores_random.between(1, self.plan.core.wake_max.0);
        let at = self.now.plus(delay * self.host(replica).slowness);
        self.tick_at(replica, core, at);
    }

    /// Lets a core tick at `at`, unless it ticks earlier anyway.
    fn tick_at(&mut self, replica: ReplicaId, core: CoreId, at: Nanoseconds) {
        let Some(host) = self.hosts[replica.index()].cores.get_mut(core.index()) else { return };
        if host.tick_at.is_none_or(|due| at < due) {
            host.tick_at = Some(at);
            self.queue.push(at, Event::Tick { replica, core });
        }
    }

    /// A burst of inputs and the end of the tick, as a driver does it.
    fn on_tick(&mut self, replica: ReplicaId, core: CoreId) -> Result<(), Finding> {
        let now = self.now;
        let burst = self.cores_random.between(1, self.plan.core.burst_max);
        let host = &mut self.hosts[replica.index()];
        if !host.is_up() || host.cores[core.index()].tick_at != Some(now) {
            return Ok(());
        }
        let life = host.life;
        host.cores[core.index()].tick_at = None;
        if host.pauses > 0 {
            return Ok(());
        }
        let local = host.local(now);
        let mut taken = 0;
        while taken < burst
            && let Some(arrival) = self.host(replica).cores[core.index()].inbox.pop_front()
        {
            taken += 1;
            self.take(replica, core, local, arrival)?;
            if !self.lives(life) {
                return Ok(());
            }
        }
        let mut effects = Vec::new();
        self.host(replica).cores[core.index()].core.step(local, Input::TickEnd, &mut effects);
        self.trace.note(now, Detail::Verbose, &[1, id(replica), taken, effects.len() as u64], || {
            format!("r{replica} core {core}: tick, {taken} inputs")
        });
        // What was decided counts, even if the replica crashes while it tells of that.
        self.audit(replica, core)?;
        self.carry(replica, core, effects)?;
        if !self.lives(life) {
            return Ok(());
        }
        self.pump(replica, core);
        self.schedule_next_tick(replica, core, taken > 0)
    }

    fn take(
        &mut self,
        replica: ReplicaId,
        core: CoreId,
        local: Nanoseconds,
        arrival: Arrival,
    ) -> Result<(), Finding> {
        match arrival {
            Arrival::Durable(journal, upto) => {
                let facts = self.oracles.durability.on_durable(replica, journal, upto);
                let noted = self.note_entries(replica, &facts);
                let noted = self.excused(replica, noted);
                noted.map_err(|violation| self.finding(Some(replica), violation))?;
            }
            Arrival::Checkpointed(position, _) => {
                let oracles = &mut self.oracles;
                oracles.durability.on_checkpointed(&oracles.ledger, replica, position);
            }
            Arrival::PeerConnected(peer, link) => {
                self.host(replica).links.insert((peer, link));
            }
            Arrival::PeerDisconnected(peer, link) => {
                self.host(replica).links.remove(&(peer, link));
            }
            _ => {}
        }
        let mut effects = Vec::new();
        let given = self.given(replica, core, &arrival);
        let host = &mut self.hosts[replica.index()].cores[core.index()];
        arrival.hand_to(|input| host.core.step(local, input, &mut effects));
        if let Some((frame, open)) = given {
            let judged = self.judge_admission(replica, &frame, open, &effects);
            judged.map_err(|violation| self.finding(Some(replica), violation))?;
        }
        self.carry(replica, core, effects)
    }

    /// The bundle that a client gives its home, and how many its key has open there, where that is watched.
    fn given(&self, replica: ReplicaId, core: CoreId, arrival: &Arrival) -> Option<(Frame, usize)> {
        let Arrival::ClientFrame(_, frame) = arrival else { return None };
        if frame.kind() != Kind::Bundle || !self.watches_fairness(replica) {
            return None;
        }
        let key = BundleView::parse(frame.payload()).ok()?.head.client;
        let core = &self.hosts[replica.index()].cores[core.index()].core;
        Some((frame.clone(), core.open_bundles(self.config.client_index(&key)?)))
    }

    /// Whether the oracle of fairness judges what this replica does.
    fn watches_fairness(&self, replica: ReplicaId) -> bool {
        let is_first = self.hosts[replica.index()].life.number == 0;
        self.oracles.fairness.watches() && is_first && !self.lies(replica)
    }

    fn judge_admission(
        &mut self,
        home: ReplicaId,
        frame: &Frame,
        open: usize,
        effects: &[Effect],
    ) -> Result<(), Violation> {
        let Ok(bundle) = BundleView::parse(frame.payload()) else { return Ok(()) };
        let busy = effects.iter().find_map(|effect| match effect {
            Effect::SendClient { frame, .. } if frame.kind() == Kind::Busy => {
                Busy::from_frame(frame.as_frame_ref()).ok()
            }
            _ => None,
        });
        let taken = match busy.map(|busy| busy.reason) {
            None => Taken::Silently,
            Some(BusyReason::InFlight) => Taken::Busy,
            Some(_) => Taken::Declined,
        };
        self.oracles.fairness.on_bundle(home, &bundle, open, taken)
    }

    fn schedule_next_tick(
        &mut self,
        replica: ReplicaId,
        core: CoreId,
        had_input: bool,
    ) -> Result<(), Finding> {
        let now = self.now;
        let host = &mut self.hosts[replica.index()];
        let deadline = host.cores[core.index()].core.deadline().map(|local| host.global(local, now));
        let target = &mut host.cores[core.index()];
        let inbox = !target.inbox.is_empty();
        let spins = deadline == Some(now) && !had_input && !inbox;
        target.spins = if spins { target.spins + 1 } else { 0 };
        if target.spins > SPINS_MAX {
            let text = format!("core {core} leaves a deadline that has passed, {SPINS_MAX} ticks in a row");
            return Err(self.finding(Some(replica), Violation::new("progress", text)));
        }
        if inbox {
            self.wake(replica, core);
        }
        if let Some(at) = deadline {
            self.tick_at(replica, core, at.max(now.plus(1000)));
        }
        Ok(())
    }

    /// Asks a core how far it is and what it holds.
    fn audit(&mut self, replica: ReplicaId, core: CoreId) -> Result<(), Finding> {
        if self.lies(replica) {
            return Ok(());
        }
        let audit = self.hosts[replica.index()].cores[core.index()].core.audit();
        let oracles = &mut self.oracles;
        let bounded = oracles.resources.on_audit(audit.pending_bytes, audit.held_effects, audit.kept_items);
        bounded.map_err(|violation| self.finding(Some(replica), violation))?;
        for (peer, checks) in (0..).map(ReplicaId).zip(audit.checks) {
            let judged = self.oracles.work.on_checks(self.now, replica, peer, checks);
            judged.map_err(|violation| self.finding(Some(replica), violation))?;
        }
        if let Some(committed) = audit.committed {
            let oracles = &mut self.oracles;
            oracles.work.on_committed(replica, committed.seq.0);
            let news = oracles.agreement.on_committed(&oracles.ledger, replica, committed);
            self.note_progress(replica, "committed", committed, news)?;
            let oracles = &mut self.oracles;
            let judged = oracles.origins.on_committed(&oracles.ledger, &oracles.agreement, committed);
            judged.map_err(|violation| self.finding(Some(replica), violation))?;
        }
        if let Some(executed) = audit.executed {
            let oracles = &mut self.oracles;
            let news = oracles.agreement.on_executed(&oracles.ledger, replica, executed);
            self.note_progress(replica, "executed", executed, news)?;
        }
        if let Some((position, root)) = audit.executed_root {
            let same = self.oracles.agreement.on_root(replica, position.seq, root);
            same.map_err(|violation| self.finding(Some(replica), violation))?;
        }
        Ok(())
    }

    fn note_progress(
        &mut self,
        replica: ReplicaId,
        what: &str,
        position: quorate_wire::Position,
        news: Result<bool, Violation>,
    ) -> Result<(), Finding> {
        if news.map_err(|violation| self.finding(Some(replica), violation))? {
            self.trace.bytes(&position.digest.0);
            self.trace.note(self.now, Detail::Readable, &[2, id(replica), position.seq.0], || {
                format!("r{replica} {what} {:?} {:?}", position.seq, position.digest)
            });
        }
        Ok(())
    }

    fn on_mail(&mut self, life: Life, from: CoreId, to: CoreId) {
        if !self.lives(life) {
            return;
        }
        let replica = life.replica;
        let mailbox = &mut self.host(replica).cores[to.index()].mail[from.index()];
        let mail = mailbox.pop_front().expect("invariant: one event for each message");
        self.deliver(replica, to, Arrival::Mail(mail));
    }

    fn on_network(&mut self, event: crate::network::NetworkEvent) -> Result<(), Finding> {
        let mut noticed = Vec::new();
        self.network.handle(self.now, event, &mut self.queue, &mut noticed);
        for Noticed { connection, side, notice } in noticed {
            if let Notice::Garbled(error) = &notice {
                let text = format!("frames arrived as bytes that are none: {error}");
                return Err(self.finding(None, Violation::new("transport", text)));
            }
            self.frames += u64::from(matches!(notice, Notice::Frame(_)));
            match self.routes[connection.0] {
                Route::Peers { ends, link } => self.on_peer_notice(ends, link, side, notice),
                Route::Client { client, replica, there } => match side {
                    Side::Dialer => self.on_client_notice(client, replica, notice)?,
                    Side::Listener => self.on_listener_notice(connection, client, replica, there, notice),
                },
            }
        }
        Ok(())
    }

    fn on_peer_notice(&mut self, ends: [ReplicaId; 2], link: LinkId, side: Side, notice: Notice) {
        let (replica, peer) = (ends[side as usize], ends[side.other() as usize]);
        let core = core_id(link.index() % self.plan.cores);
        let arrival = match notice {
            Notice::Opened => Arrival::PeerConnected(peer, link),
            Notice::Closed => Arrival::PeerDisconnected(peer, link),
            Notice::Drained => Arrival::PeerDrained(peer, link),
            Notice::Took(answered) => Arrival::PeerTook(peer, link, answered),
            Notice::Frame(frame) => Arrival::PeerFrame(peer, link, frame),
            Notice::Garbled(_) => return,
        };
        self.note_arrival(replica, &format_args!("r{peer} {link:?}"), &arrival);
        if let (Some(agent), Arrival::PeerFrame(_, _, frame)) = (self.agents.get_mut(&replica), &arrival) {
            agent.hear(peer, frame);
        }
        self.deliver(replica, core, arrival);
    }

    fn on_listener_notice(
        &mut self,
        connection: ConnectionId,
        client: usize,
        replica: ReplicaId,
        there: Option<ClientConnection>,
        notice: Notice,
    ) {
        let (there, arrival) = match (notice, there) {
            (Notice::Opened, _) => {
                // Only cores with links take clients.
                let homes = self.plan.cores.min(usize::from(self.plan.links));
                let core = core_id(self.cores_random.index(homes));
                let host = self.host(replica);
                if !host.is_up() {
                    return;
                }
                host.client_connections += 1;
                let fresh = ClientConnection { core, number: host.client_connections };
                self.routes[connection.0] = Route::Client { client, replica, there: Some(fresh) };
                (fresh, Arrival::ClientConnected(fresh, self.clients[client].key))
            }
            (Notice::Closed, Some(there)) => {
                self.routes[connection.0] = Route::Client { client, replica, there: None };
                (there, Arrival::ClientDisconnected(there))
            }
            (Notice::Frame(frame), Some(there)) => (there, Arrival::ClientFrame(there, frame)),
            _ => return,
        };
        self.note_arrival(replica, &format_args!("client {client}"), &arrival);
        self.deliver(replica, there.core, arrival);
    }

    fn note_arrival(&mut self, replica: ReplicaId, from: &std::fmt::Arguments<'_>, arrival: &Arrival) {
        let (detail, text) = match arrival {
            Arrival::PeerFrame(_, _, frame) | Arrival::ClientFrame(_, frame) => {
                self.trace.bytes(&frame.bytes()[..16]);
                (Detail::Verbose, "frame")
            }
            Arrival::PeerConnected(..) | Arrival::ClientConnected(..) => (Detail::Readable, "connected"),
            Arrival::PeerDisconnected(..) | Arrival::ClientDisconnected(..) => {
                (Detail::Readable, "disconnected")
            }
            Arrival::PeerTook(..) => (Detail::Verbose, "took"),
            _ => (Detail::Readable, "drained"),
        };
        self.trace.note(self.now, detail, &[3, id(replica)], || match arrival {
            Arrival::PeerFrame(_, _, frame) | Arrival::ClientFrame(_, frame) => {
                format!("r{replica} <- {from}: {}", carry::describe(frame))
            }
            _ => format!("r{replica} <- {from}: {text}"),
        });
    }
}

fn replica_setup(plan: &Plan, config: &Arc<ClusterConfig>, me: ReplicaId) -> ReplicaSetup {
    let key = testing::replica_key(me.0);
    ReplicaSetup { config: Arc::clone(config), me, key, cores: plan.cores }
}

fn new_host(plan: &Plan, config: &Arc<ClusterConfig>, me: ReplicaId) -> Host {
    let setup = replica_setup(plan, config, me);
    // As a daemon does that finds an empty directory.
    let recovery = Recovery::of(&setup, Found::default());
    let mut recovery = recovery.expect("invariant: nothing that is found belongs to another core");
    let cores = (0..plan.cores).map(|core| Core::recover(&setup, core_id(core), &mut recovery)).collect();
    let disk = Disk::new(config.digest().0, me, plan.cores, plan.log);
    Host::new(me, cores, disk, plan.clocks[me.index()])
}

fn core_id(index: usize) -> CoreId {
    CoreId(u8::try_from(index).expect("invariant: a few cores"))
}

fn id(replica: ReplicaId) -> u64 {
    u64::from(replica.0)
}

/// Where an effect comes from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    replica: ReplicaId,
    core: CoreId,
}

/// The effects of one step, with their origin.
type Effects = Vec<Effect>;
