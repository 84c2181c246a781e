//! One core of a replica: its roles, the mail between them, and the gate in front of everything that must
//! wait for the journals.

mod states;
mod tick;
mod wake;

use self::wake::Waking;
use crate::checks::Checks;
use crate::execution::{Beginning, ExecutionRole};
use crate::interface::{Answered, ClientConnection, Effect, Input, Reject};
use crate::library::Reader;
use crate::link::LinkRole;
use crate::mail::{ExecutionMail, LinkMail, Mail, OrderingMail};
use crate::ordering::OrderingRole;
use crate::recovery::{Recovery, record};
use crate::report::RoleReport;
use quorate_consensus::{Fact, Outgoing, Voting};
use quorate_journal::{CONSENSUS_JOURNAL, Gate, Record, Watermarks, batch_journal};
use quorate_lanes::Lanes;
use quorate_types::{
    After, ClusterConfig, CoreId, Digest, JournalId, KeyIndex, LinkId, Lsn, Nanoseconds, ReplicaId,
    ReplicaSet, Seq, SigningKey, Stage, StageTime,
};
use quorate_wire::message::{AskLanes, CheckpointCertificate, FetchBatches, LaneAcks, Message};
use quorate_wire::{Frame, FrameRef, Header, Kind, LaneTip, Position};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The link that carries consensus; it lives on the first core, as the ordering role does.
const CONSENSUS_LINK: LinkId = LinkId(0);

/// What a replica is made of.
#[derive(Clone, Debug)]
pub struct ReplicaSetup {
    /// The cluster.
    pub config: Arc<ClusterConfig>,
    /// Which replica this is.
    pub me: ReplicaId,
    /// Its secret key.
    pub key: SigningKey,
    /// The number of cores, at least 1.
    pub cores: usize,
}

/// Which core does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    cores: u8,
    links: u8,
}

impl Layout {
    /// The layout of a replica with `cores` cores.
    ///
    /// # Panics
    /// With no core or more than 255; configuration is checked before.
    #[must_use]
    pub fn new(config: &ClusterConfig, cores: usize) -> Self {
        let cores = u8::try_from(cores).expect("invariant: configuration limits the cores");
        assert!(cores > 0, "a replica has at least one core");
        Self { cores, links: config.links() }
    }

    /// The core that owns a link.
    #[must_use]
    pub fn core_of_link(self, link: LinkId) -> CoreId {
        CoreId(link.0 % self.cores)
    }

    /// The links of a core; only cores that have some take clients.
    #[must_use]
    pub fn links_of_core(self, core: CoreId) -> Vec<LinkId> {
        (0..self.links).map(LinkId).filter(|link| self.core_of_link(*link) == core).collect()
    }

    /// The core of the ordering role.
    #[must_use]
    pub fn ordering(self) -> CoreId {
        CoreId(0)
    }

    /// The core of the execution role.
    #[must_use]
    pub fn execution(self) -> CoreId {
        CoreId(self.cores - 1)
    }

    /// All cores.
    pub fn all(self) -> impl Iterator<Item = CoreId> {
        (0..self.cores).map(CoreId)
    }
}

/// What waits behind the gate.
#[derive(Debug)]
enum Gated {
    Peer {
        peer: ReplicaId,
        link: LinkId,
        frame: Frame,
    },
    /// An own vote, counted once it is durable.
    OwnVote(Outgoing),
    /// An own acknowledgement, counted once it is durable.
    OwnAcks {
        link: LinkId,
        acks: LaneAcks,
    },
    /// Consensus needs nothing up to here once what it has written again is durable.
    Trim(Lsn),
    /// A certificate, of which others are told once it is durable.
    Stable(Arc<CheckpointCertificate>),
    /// Only these of the durable states are needed once the certificate of the lowest is durable.
    States(Vec<Seq>),
}

/// What an audit sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Effects behind the gate.
    pub held_effects: usize,
    /// Bytes of batches held, fetched or pending on this core.
    pub pending_bytes: usize,
    /// Headers, votes and lane positions kept by the ordering role; batches and headers that wait for execution.
    pub kept_items: usize,
    /// The signature checks that each replica has caused with messages of consensus; on the ordering core.
    pub checks: Vec<Checks>,
    /// The highest committed slot; on the ordering core.
    pub committed: Option<Position>,
    /// The highest slot with a checkpoint certificate; on the ordering core.
    pub stable: Option<Position>,
    /// The highest executed slot; on the execution core.
    pub executed: Option<Position>,
    /// The last slot at which a root was computed, with the root; on the execution core.
    pub executed_root: Option<(Position, Digest)>,
}

/// One core of a replica.
#[derive(Debug)]
pub struct Core {
    config: Arc<ClusterConfig>,
    me: ReplicaId,
    core: CoreId,
    layout: Layout,
    replicas: usize,
    link: Waking<LinkRole>,
    ordering: Option<Waking<OrderingRole>>,
    execution: Option<Waking<ExecutionRole>>,
    gate: Gate<Gated>,
    durable: Watermarks,
    local: VecDeque<Mail>,
    consensus_outputs: Vec<quorate_consensus::Output>,
    lanes_outputs: Vec<quorate_lanes::Output>,
    /// The results in the present turn of execution, by the core of their connection.
    replied: Vec<u64>,
}

impl Core {
    /// A core of a replica that has seen nothing yet.
    #[must_use]
    pub fn new(setup: &ReplicaSetup, core: CoreId) -> Self {
        let layout = Layout::new(&setup.config, setup.cores);
        let (config, me) = (&setup.config, setup.me);
        let lanes = Lanes::new(Arc::clone(config), me, &layout.links_of_core(core), batch_journal(core));
        let link = LinkRole::new(Arc::clone(config), setup.cores, layout.links_of_core(core), lanes);
        let ordering =
            (core == layout.ordering()).then(|| OrderingRole::new(Arc::clone(config), me, setup.key.clone()));
        let execution = (core == layout.execution()).then(|| ExecutionRole::new(Arc::clone(config), me));
        Self::with_roles(setup, core, link, ordering, execution)
    }

    /// A core of a replica that goes on where its disk says that it was. Every core takes its part of the same
    /// `recovery`, each once.
    #[must_use]
    pub fn recover(setup: &ReplicaSetup, core: CoreId, recovery: &mut Recovery) -> Self {
        let layout = Layout::new(&setup.config, setup.cores);
        let (config, me, links) = (&setup.config, setup.me, layout.links_of_core(core));
        let found = recovery.lanes(core);
        let mut lanes = Lanes::recover(Arc::clone(config), me, &links, batch_journal(core), found);
        let learner = recovery.voting == Voting::Learner;
        if learner {
            lanes.mute();
        }
        let mut link = LinkRole::new(Arc::clone(config), setup.cores, links, lanes);
        link.following = learner;
        let ordering = (core == layout.ordering())
            .then(|| OrderingRole::recover(Arc::clone(config), me, setup.key.clone(), recovery));
        let execution = (core == layout.execution()).then(|| {
            let beginning = Beginning {
                state: recovery.state.take(),
                broken: recovery.broken.take(),
                tips: std::mem::take(&mut recovery.tips),
                salvage: recovery.salvage.take(),
                part: recovery.part.take(),
                stable: recovery.stable.take(),
                learner,
            };
            ExecutionRole::recover(Arc::clone(config), me, beginning)
        });
        let mut recovered = Self::with_roles(setup, core, link, ordering, execution);
        if let (Some(ordering), Some((position, root))) = (&mut recovered.ordering, recovery.root) {
            // Whether the others have heard of this state is not known: they may need this vote for a certificate.
            ordering.consensus.on_root(position, root, &mut recovered.consensus_outputs);
        }
        for (journal, upto) in &recovery.ends {
            recovered.durable.raise(*journal, *upto);
            recovered.gate.on_durable(*journal, *upto, |_| unreachable!("invariant: nothing is held yet"));
        }
        recovered
    }

    fn with_roles(
        setup: &ReplicaSetup,
        core: CoreId,
        link: LinkRole,
        ordering: Option<OrderingRole>,
        execution: Option<ExecutionRole>,
    ) -> Self {
        let (config, layout) = (&setup.config, Layout::new(&setup.config, setup.cores));
        Self {
            me: setup.me,
            core,
            layout,
            replicas: config.members().len(),
            config: Arc::clone(config),
            link: Waking::new(link),
            ordering: ordering.map(Waking::new),
            execution: execution.map(Waking::new),
            gate: Gate::new(setup.cores + 1),
            durable: Watermarks::new(setup.cores + 1),
            local: VecDeque::new(),
            consensus_outputs: Vec::new(),
            lanes_outputs: Vec::new(),
            replied: vec![0; setup.cores],
        }
    }

    /// Takes one input; what follows from it is appended to `effects` in order.
    pub fn step(&mut self, now: Nanoseconds, input: Input<'_>, effects: &mut Vec<Effect>) {
        let role = self.link.asleep();
        if let Some((link, arrived)) = role.admitted.take() {
            role.lanes.note_admitted(link, now);
            let elapsed_ns = now.since(arrived);
            effects.push(Effect::Stage(StageTime { stage: Stage::Admitted, elapsed_ns, bundles: 1 }));
        }
        role.lanes.note_sealed(now, |time| effects.push(Effect::Stage(time)));
        match input {
            Input::PeerConnected { peer, link } => self.on_peer_connected(now, peer, link, effects),
            Input::PeerDisconnected { peer, link } => {
                self.link.lanes.on_disconnected(now, peer, link);
                if link == CONSENSUS_LINK
                    && let Some(ordering) = &mut self.ordering
                {
                    ordering.consensus.note_time(now);
                    ordering.on_disconnected(peer);
                    self.link.forget_page_questions(peer);
                    self.tell_of_peer(peer, false, effects);
                }
            }
            Input::PeerDrained { peer, link } => self.on_peer_connected(now, peer, link, effects),
            Input::PeerTook { peer, link, answered: Answered::Batches } => {
                self.link.lanes.on_taken(peer, link);
            }
            Input::PeerTook { peer, answered: Answered::Pages, .. } => {
                let mail = Mail::Execution(ExecutionMail::PagesTaken(peer));
                self.post(self.layout.execution(), mail, effects);
            }
            Input::PeerFrame { peer, link, frame } => self.on_peer_frame(now, peer, link, frame, effects),
            Input::ClientConnected { connection, key } => self.link.on_client_connected(connection, &key),
            Input::ClientDisconnected { connection } => {
                self.link.on_client_disconnected(connection);
                let mail = Mail::Execution(ExecutionMail::Gone(connection));
                self.post(self.layout.execution(), mail, effects);
            }
            Input::ClientFrame { connection, frame } => self.on_client_frame(now, connection, frame, effects),
            Input::Mail(mail) => self.on_mail(now, mail, effects),
            Input::Durable { journal, upto } => self.on_own_durable(now, journal, upto, effects),
            Input::Checkpointed { position, root } => self.on_checkpointed(position, root, effects),
            Input::ReadBack { journal, lsn, record } => {
                assert_eq!(journal, self.link.lanes.journal(), "only batches are read back");
                let frame = record.and_then(|record| match record {
                    Record::Batch(frame, _) => Some(frame),
                    _ => None,
                });
                self.link.lanes.on_read_back(lsn, frame, &mut self.lanes_outputs);
                self.carry_out_lanes(now, effects);
            }
            Input::Lost { journal, lsn } if journal == self.link.lanes.journal() => {
                self.link.lanes.on_lost(lsn, &mut self.lanes_outputs);
                self.carry_out_lanes(now, effects);
            }
            Input::Lost { journal, lsn } => {
                assert_eq!(journal, CONSENSUS_JOURNAL, "a log has the journals of its own core");
                if let Some(ordering) = &mut self.ordering {
                    ordering.consensus.on_lost(lsn);
                }
            }
            Input::Intake(intake) => self.link.intake = intake,
            Input::TickEnd => self.on_tick_end(now, effects),
        }
        self.drain(now, effects);
    }

    /// The next time at which [`Input::TickEnd`] is due without any other input.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanoseconds> {
        let link = self.link.deadline(LinkRole::deadline);
        let ordering = self.ordering.as_ref().and_then(|role| role.deadline(OrderingRole::deadline));
        let execution = self.execution.as_ref().and_then(|role| role.deadline(ExecutionRole::deadline));
        [link, ordering, execution].into_iter().flatten().min()
    }

    /// What this core holds, for invariants and reports.
    #[must_use]
    pub fn audit(&self) -> Audit {
        let positions = self.ordering.as_ref().map(|ordering| ordering.consensus.positions());
        let kept = self.ordering.as_ref().map_or(0, |ordering| ordering.consensus.kept());
        let pooled = self.execution.as_ref().map_or(0, |role| role.pooled());
        Audit {
            held_effects: self.gate.held(),
            pending_bytes: self.link.lanes.held_bytes(),
            kept_items: kept + pooled,
            checks: self.ordering.as_ref().map_or(Vec::new(), |role| role.checks()),
            committed: positions.map(|positions| positions.committed),
            stable: positions.map(|positions| positions.stable),
            executed: self.execution.as_ref().map(|role| role.executed()),
            executed_root: self.execution.as_ref().and_then(|role| role.last_root()),
        }
    }

    /// The bundles of a client key that are admitted here and not executed, of all links of this core: for audits.
    #[must_use]
    pub fn open_bundles(&self, key: KeyIndex) -> usize {
        self.link.lanes.open_bundles(key)
    }

    fn post(&mut self, core: CoreId, mail: Mail, effects: &mut Vec<Effect>) {
        if core == self.core {
            self.local.push_back(mail);
        } else {
            effects.push(Effect::Mail { core, mail });
        }
    }

    /// Handles local mail until there is none.
    fn drain(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        while let Some(mail) = self.local.pop_front() {
            self.on_mail(now, mail, effects);
        }
    }

    fn on_peer_connected(
        &mut self,
        now: Nanoseconds,
        peer: ReplicaId,
        link: LinkId,
        effects: &mut Vec<Effect>,
    ) {
        self.link.lanes.on_connected(peer, link);
        if link == CONSENSUS_LINK
            && let Some(ordering) = &mut self.ordering
        {
            ordering.consensus.on_connected(peer, &mut self.consensus_outputs);
            self.carry_out_consensus(now, effects);
            self.tell_of_peer(peer, true, effects);
        }
    }

    /// The execution role asks peers for pages of states.
    fn tell_of_peer(&mut self, peer: ReplicaId, connected: bool, effects: &mut Vec<Effect>) {
        let mail = Mail::Execution(ExecutionMail::Peer { peer, connected });
        self.post(self.layout.execution(), mail, effects);
    }

    fn on_peer_frame(
        &mut self,
        now: Nanoseconds,
        peer: ReplicaId,
        link: LinkId,
        frame: FrameRef<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let result = match frame.kind {
            Kind::Batch | Kind::LaneAcks | Kind::AskLanes | Kind::FetchBatches | Kind::FetchedBatches => {
                let result = self.on_lane_frame(now, peer, link, frame);
                self.carry_out_lanes(now, effects);
                result
            }
            Kind::FetchPages | Kind::FetchedPages if link == CONSENSUS_LINK => {
                self.on_pages_frame(peer, frame, effects)
            }
            _ => match &mut self.ordering {
                Some(ordering) if link == CONSENSUS_LINK => {
                    let result = ordering.on_frame(now, peer, frame, &mut self.consensus_outputs);
                    self.carry_out_consensus(now, effects);
                    result
                }
                _ => Err(quorate_wire::DecodeError::Misplaced(frame.kind).into()),
            },
        };
        if let Err(reject) = result {
            self.reject_peer(peer, link, reject, effects);
        }
    }

    fn reject_peer(&mut self, peer: ReplicaId, link: LinkId, reject: Reject, effects: &mut Vec<Effect>) {
        effects.push(Effect::Rejected(reject));
        if condemns(reject) {
            effects.push(Effect::ClosePeer { peer, link, reject });
        }
    }

    fn on_lane_frame(
        &mut self,
        now: Nanoseconds,
        peer: ReplicaId,
        link: LinkId,
        frame: FrameRef<'_>,
    ) -> Result<(), Reject> {
        let (lanes, out) = (&mut self.link.lanes, &mut self.lanes_outputs);
        match frame.kind {
            Kind::Batch => lanes.on_batch(peer, link, frame, out)?,
            Kind::LaneAcks => lanes.on_acks(peer, link, &LaneAcks::from_frame(frame)?)?,
            Kind::AskLanes => lanes.on_ask(peer, link, AskLanes::from_frame(frame)?)?,
            Kind::FetchBatches => lanes.on_fetch(peer, link, &FetchBatches::from_frame(frame)?)?,
            _ => lanes.on_fetched(now, peer, link, frame, out)?,
        }
        Ok(())
    }

    fn on_client_frame(
        &mut self,
        now: Nanoseconds,
        connection: ClientConnection,
        frame: FrameRef<'_>,
        effects: &mut Vec<Effect>,
    ) {
        match self.link.on_client_frame(now, connection, frame, effects) {
            Ok(None) => {}
            Ok(Some(mail)) => {
                self.post(self.layout.execution(), Mail::Execution(mail), effects);
            }
            Err(reject) => self.condemn_client(connection, reject, effects),
        }
    }

    fn condemn_client(&mut self, connection: ClientConnection, reject: Reject, effects: &mut Vec<Effect>) {
        effects.push(Effect::Rejected(reject));
        effects.push(Effect::CloseClient { connection, reject });
        // What else the burst brings of this client is not looked at.
        self.link.on_client_disconnected(connection);
    }

    fn on_mail(&mut self, now: Nanoseconds, mail: Mail, effects: &mut Vec<Effect>) {
        match mail {
            Mail::Link(mail) => self.on_link_mail(now, mail, effects),
            Mail::Ordering(mail) => self.on_ordering_mail(now, mail, effects),
            Mail::Execution(mail) => self.on_execution_mail(now, mail, effects),
            Mail::Durable { journal, upto } => self.on_durable(now, journal, upto, effects),
        }
    }

    fn on_link_mail(&mut self, now: Nanoseconds, mail: LinkMail, effects: &mut Vec<Effect>) {
        match mail {
            LinkMail::Executed(tips) => self.link.lanes.on_executed(&tips),
            LinkMail::Used(uses) => self.link.lanes.note_uses(uses),
            LinkMail::Want(tip) => {
                self.link.lanes.want(now, tip, &mut self.lanes_outputs);
                self.carry_out_lanes(now, effects);
            }
            LinkMail::WantProposed { tip, floor, primary } => {
                self.link.lanes.want_proposed(now, tip, floor, primary, &mut self.lanes_outputs);
                self.carry_out_lanes(now, effects);
            }
            LinkMail::Unname(tips) => {
                self.link.lanes.unname(&tips, &mut self.lanes_outputs);
                self.carry_out_lanes(now, effects);
            }
            LinkMail::Behind(is_behind) => self.link.lanes.set_behind(is_behind),
            LinkMail::Install(tips) => {
                self.link.lanes.install(&tips, &mut self.lanes_outputs);
                self.carry_out_lanes(now, effects);
            }
            LinkMail::Following(following) => self.link.following = following,
            LinkMail::Pin(Some(tips)) => self.link.lanes.pin(&tips),
            LinkMail::Pin(None) => self.link.lanes.unpin(),
            LinkMail::Send { peer, frame } => {
                let (link, kind) = (CONSENSUS_LINK, frame.kind());
                effects.push(Effect::SendPeer { peer, link, frame });
                match kind {
                    Kind::FetchedPages => {
                        self.link.on_page_answer(peer);
                        effects.push(Effect::AwaitTaken { peer, link, answered: Answered::Pages });
                    }
                    Kind::FetchPages => self.link.ask_for_pages(peer),
                    _ => {}
                }
            }
            LinkMail::Condemn(peer) => {
                self.reject_peer(peer, CONSENSUS_LINK, Reject::StatePage, effects);
            }
            LinkMail::Trim(tips) => {
                self.link.lanes.trim(&tips, &mut self.lanes_outputs);
                self.carry_out_lanes(now, effects);
            }
            LinkMail::Reply { connection, frame } => effects.push(Effect::SendClient { connection, frame }),
            LinkMail::Replaced(connection) => {
                effects.push(Effect::ClientReplaced { connection });
                // What else the burst brings of it is not looked at.
                self.link.on_client_disconnected(connection);
            }
            LinkMail::Ordered { lane, upto, times } => {
                self.link.lanes.on_ordered(lane.link, upto, &times, &mut self.lanes_outputs);
                self.carry_out_lanes(now, effects);
            }
            LinkMail::Replied { bundles, executed: since } => {
                effects.push(Effect::StageEnds { stage: Stage::Replied, since, bundles });
            }
            LinkMail::Report(report) => {
                let connections = self.link.reports.built(report.extras);
                effects.push(Effect::Report { connections, report });
            }
        }
    }

    fn on_ordering_mail(&mut self, now: Nanoseconds, mail: OrderingMail, effects: &mut Vec<Effect>) {
        let ordering = self.ordering.as_mut().expect("invariant: mail is routed by the layout");
        match mail {
            OrderingMail::Lane(update) => ordering.consensus.on_lane_update(&update),
            OrderingMail::Executed(position) => ordering.consensus.on_executed(position),
            OrderingMail::Installed { position, timestamp, tips } => {
                ordering.install(position, timestamp, &tips);
                // What lanes report from there on is understood now, and not before.
                for core in self.layout.all() {
                    self.post(core, Mail::Link(LinkMail::Install(Arc::clone(&tips))), effects);
                }
            }
            OrderingMail::Root { position, root } => {
                ordering.consensus.on_root(position, root, &mut self.consensus_outputs);
                self.carry_out_consensus(now, effects);
            }
            OrderingMail::Report { core, extras } => {
                let ordering = ordering.report();
                let report = Box::new(RoleReport { ordering, extras, ..RoleReport::default() });
                let mail = Mail::Execution(ExecutionMail::Report { core, report });
                self.post(self.layout.execution(), mail, effects);
            }
        }
    }

    fn on_execution_mail(&mut self, now: Nanoseconds, mail: ExecutionMail, effects: &mut Vec<Effect>) {
        let execution = self.execution.as_mut().expect("invariant: mail is routed by the layout");
        match mail {
            ExecutionMail::Held(batch) => execution.on_held(batch),
            ExecutionMail::LetGo(tip) => execution.on_let_go(&tip),
            ExecutionMail::UnservedBatch(lane, tip) => execution.on_unserved_batch(now, lane, tip),
            ExecutionMail::UnservedHeader(position) => execution.on_unserved_header(now, position),
            ExecutionMail::Committed { header, position, view, committed } => {
                execution.on_committed(header, position, view, committed);
            }
            ExecutionMail::Peer { peer, connected } => execution.on_peer(peer, connected),
            ExecutionMail::FetchPages(peer, question) => execution.ask_pages(Reader::Peer(peer), question),
            ExecutionMail::PagesTaken(peer) => execution.on_pages_taken(peer),
            ExecutionMail::ClientPages(connection, question) => {
                execution.ask_pages(Reader::Client(connection), question);
            }
            ExecutionMail::ClientCertificate(connection, question) => {
                let frame = execution.answer_certificate(now, question).encode();
                self.post(connection.core, Mail::Link(LinkMail::Reply { connection, frame }), effects);
            }
            ExecutionMail::FetchedPages(peer, pages) => match execution.on_pages(now, peer, *pages) {
                Ok(told) => self.tell_peers(told, effects),
                Err(reason) => effects.push(Effect::Halt { reason }),
            },
            ExecutionMail::Stable(certificate) => {
                execution.on_stable(certificate);
            }
            ExecutionMail::States(needed) => {
                let settled = execution.on_states_needed(&needed);
                effects.push(Effect::KeepStates(needed));
                self.trim_batches(settled, effects);
            }
            ExecutionMail::Attach { connection, wanted } => {
                let (answer, replaced) = execution.on_attach(connection, wanted);
                let reply = LinkMail::Reply { connection, frame: answer.encode() };
                self.post(connection.core, Mail::Link(reply), effects);
                self.tell_replaced(replaced, effects);
            }
            ExecutionMail::Gone(connection) => execution.on_client_gone(connection),
            ExecutionMail::Report { core, mut report } => {
                report.execution = execution.report(report.extras.root);
                self.post(core, Mail::Link(LinkMail::Report(report)), effects);
            }
        }
    }

    /// A journal of this core has grown: the other cores may wait for it too.
    fn on_own_durable(&mut self, now: Nanoseconds, journal: JournalId, upto: Lsn, effects: &mut Vec<Effect>) {
        self.on_durable(now, journal, upto, effects);
        if journal == self.link.lanes.journal() {
            self.link.lanes.on_durable(now, upto, &mut self.lanes_outputs);
            self.carry_out_lanes(now, effects);
        }
        for core in self.layout.all().filter(|core| *core != self.core) {
            effects.push(Effect::Mail { core, mail: Mail::Durable { journal, upto } });
        }
    }

    fn on_durable(&mut self, now: Nanoseconds, journal: JournalId, upto: Lsn, effects: &mut Vec<Effect>) {
        self.durable.raise(journal, upto);
        let mut released = Vec::new();
        self.gate.on_durable(journal, upto, |gated| released.push(gated));
        for gated in released {
            self.let_through(now, gated, effects);
        }
    }

    fn send_after(&mut self, now: Nanoseconds, after: After, gated: Gated, effects: &mut Vec<Effect>) {
        if let Some(gated) = self.gate.admit(after, gated) {
            self.let_through(now, gated, effects);
        }
    }

    fn let_through(&mut self, now: Nanoseconds, gated: Gated, effects: &mut Vec<Effect>) {
        match gated {
            Gated::Peer { peer, link, frame } => effects.push(Effect::SendPeer { peer, link, frame }),
            Gated::OwnVote(message) => {
                let ordering = self.ordering.as_mut().expect("invariant: only the ordering core votes");
                ordering.on_own(&message, &mut self.consensus_outputs);
                self.carry_out_consensus(now, effects);
            }
            Gated::Trim(upto) => effects.push(Effect::Trim { journal: CONSENSUS_JOURNAL, upto }),
            Gated::Stable(certificate) => {
                let mail = Mail::Execution(ExecutionMail::Stable(certificate));
                self.post(self.layout.execution(), mail, effects);
            }
            Gated::States(needed) => {
                let mail = Mail::Execution(ExecutionMail::States(needed));
                self.post(self.layout.execution(), mail, effects);
            }
            Gated::OwnAcks { link, acks } => {
                let taken = self.link.lanes.on_acks(self.me, link, &acks);
                taken.expect("invariant: own acknowledgements name own lanes");
            }
        }
    }

    fn send_to_others(
        &mut self,
        now: Nanoseconds,
        link: LinkId,
        frame: &Frame,
        after: &After,
        effects: &mut Vec<Effect>,
    ) {
        let mut others = ReplicaSet::all(self.replicas);
        others.remove(self.me);
        for peer in others.iter() {
            let gated = Gated::Peer { peer, link, frame: frame.clone() };
            self.send_after(now, after.clone(), gated, effects);
        }
    }

    fn carry_out_lanes(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        let mut outputs = std::mem::take(&mut self.lanes_outputs);
        for output in outputs.drain(..) {
            self.carry_out_lane_output(now, output, effects);
        }
        assert!(self.lanes_outputs.is_empty(), "carrying out leads to no more of them");
        self.lanes_outputs = outputs;
    }

    fn carry_out_lane_output(
        &mut self,
        now: Nanoseconds,
        output: quorate_lanes::Output,
        effects: &mut Vec<Effect>,
    ) {
        use quorate_lanes::{Destination, Output};
        match output {
            Output::Append { lsn, frame, tip, why } => {
                let (journal, batch) = (self.link.lanes.journal(), Some(tip));
                effects.push(Effect::Append { journal, lsn, record: Record::Batch(frame, why), batch });
            }
            Output::ReadBack { lsn } => {
                effects.push(Effect::ReadBack { journal: self.link.lanes.journal(), lsn });
            }
            Output::Send { to, link, frame, after } => {
                let after = self.link.lanes.after(after);
                match to {
                    Destination::Others => self.send_to_others(now, link, &frame, &after, effects),
                    Destination::One(peer) => {
                        self.send_after(now, after, Gated::Peer { peer, link, frame }, effects);
                    }
                }
            }
            Output::Answered { to: peer, link } => {
                effects.push(Effect::AwaitTaken { peer, link, answered: Answered::Batches });
            }
            Output::Acknowledge { link, acks, after } => {
                let after = self.link.lanes.after(Some(after));
                self.send_to_others(now, link, &acks.encode(), &after, effects);
                self.send_after(now, after, Gated::OwnAcks { link, acks }, effects);
            }
            Output::Forged { owner } => {
                let connection = ClientConnection { core: self.core, number: owner };
                self.condemn_client(connection, Reject::BundleSignature, effects);
            }
            Output::Held(batch) => {
                self.post(self.layout.execution(), Mail::Execution(ExecutionMail::Held(batch)), effects);
            }
            Output::LetGo(tip) => {
                self.post(self.layout.execution(), Mail::Execution(ExecutionMail::LetGo(tip)), effects);
            }
            Output::Unserved { lane, unserved } => {
                let mail = Mail::Execution(ExecutionMail::UnservedBatch(lane, unserved));
                self.post(self.layout.execution(), mail, effects);
            }
            Output::Progress(update) => {
                self.post(self.layout.ordering(), Mail::Ordering(OrderingMail::Lane(update)), effects);
            }
            Output::Waits(bundles) => effects.push(Effect::BundlesWait { bundles }),
            Output::Stage(time) => effects.push(Effect::Stage(time)),
            Output::Trim { upto } => effects.push(Effect::Trim { journal: self.link.lanes.journal(), upto }),
        }
    }

    fn carry_out_consensus(&mut self, now: Nanoseconds, effects: &mut Vec<Effect>) {
        let ordering = self.ordering.as_mut().expect("invariant: only the ordering core has consensus");
        let positions = ordering.consensus.positions();
        ordering.asleep().timeline.observe(now, &positions);
        let mut outputs = std::mem::take(&mut self.consensus_outputs);
        for output in outputs.drain(..) {
            self.carry_out_consensus_output(now, output, effects);
        }
        if self.consensus_outputs.is_empty() {
            self.consensus_outputs = outputs;
        }
    }

    fn carry_out_consensus_output(
        &mut self,
        now: Nanoseconds,
        output: quorate_consensus::Output,
        effects: &mut Vec<Effect>,
    ) {
        use quorate_consensus::{Destination, Output};
        match output {
            Output::Append { lsn, fact } => {
                if let Fact::Stable(certificate) = &fact {
                    let (after, stable) = (After::position(CONSENSUS_JOURNAL, lsn), Arc::clone(certificate));
                    self.send_after(now, after, Gated::Stable(stable), effects);
                }
                let (journal, record, batch) = (CONSENSUS_JOURNAL, record(fact), None);
                effects.push(Effect::Append { journal, lsn, record, batch });
            }
            Output::Send { to, message, after } => {
                let frame = message.encode();
                let link = CONSENSUS_LINK;
                match to {
                    // A vote sent again: if it has to wait, the first one is still behind the gate.
                    Destination::One(_) if !self.durable.reached(&after) => {}
                    Destination::One(peer) => effects.push(Effect::SendPeer { peer, link, frame }),
                    Destination::Others => self.send_to_others(now, link, &frame, &after, effects),
                    Destination::All => {
                        self.send_to_others(now, link, &frame, &after, effects);
                        self.send_after(now, after, Gated::OwnVote(message), effects);
                    }
                }
            }
            Output::Committed { header, position } => {
                self.on_header_committed(now, header, position, effects);
            }
            Output::Unserved(position) => {
                let mail = Mail::Execution(ExecutionMail::UnservedHeader(position));
                self.post(self.layout.execution(), mail, effects);
            }
            Output::Want(tip) => {
                let core = self.layout.core_of_link(tip.lane.link);
                self.post(core, Mail::Link(LinkMail::Want(tip)), effects);
            }
            Output::Trim { upto, after } => self.send_after(now, after, Gated::Trim(upto), effects),
            Output::States { needed, after } => self.send_after(now, after, Gated::States(needed), effects),
            Output::WantProposed { tip, floor, primary } => {
                let core = self.layout.core_of_link(tip.lane.link);
                self.post(core, Mail::Link(LinkMail::WantProposed { tip, floor, primary }), effects);
            }
            Output::Unname(tips) => {
                let mut by_core: BTreeMap<CoreId, Vec<LaneTip>> = BTreeMap::new();
                for tip in tips {
                    by_core.entry(self.layout.core_of_link(tip.lane.link)).or_default().push(tip);
                }
                for (core, tips) in by_core {
                    self.post(core, Mail::Link(LinkMail::Unname(tips)), effects);
                }
            }
            Output::Behind(is_behind) => {
                for core in self.layout.all() {
                    self.post(core, Mail::Link(LinkMail::Behind(is_behind)), effects);
                }
            }
            Output::ViewEntered { view, from, why } => effects.push(Effect::ViewEntered { view, from, why }),
            Output::ViewLeft { view, target, why } => effects.push(Effect::ViewLeft { view, target, why }),
            Output::Rejected(reject) => effects.push(Effect::Rejected(reject.into())),
            Output::Halt(reason) => effects.push(Effect::Halt { reason }),
        }
    }

    fn on_header_committed(
        &mut self,
        now: Nanoseconds,
        header: Arc<Header>,
        position: Position,
        effects: &mut Vec<Effect>,
    ) {
        let ordering = self.ordering.as_mut().expect("invariant: only the ordering core has consensus");
        let view = ordering.consensus.view();
        let times = ordering.asleep().timeline.commit(now, position.seq);
        let me = self.me;
        for tip in header.cut.iter().filter(|tip| tip.lane.origin == me) {
            let mail = LinkMail::Ordered { lane: tip.lane, upto: tip.upto, times };
            self.post(self.layout.core_of_link(tip.lane.link), Mail::Link(mail), effects);
        }
        let mail = ExecutionMail::Committed { header, position, view, committed: now };
        self.post(self.layout.execution(), Mail::Execution(mail), effects);
    }
}

/// Whether a reject of a peer's frame ends the connection: what no honest replica sends.
fn condemns(reject: Reject) -> bool {
    matches!(
        reject,
        Reject::Malformed(_)
            | Reject::ForeignBatch
            | Reject::ConsensusSignature
            | Reject::StatePage
            | Reject::FetchMismatch
            | Reject::Consensus(quorate_consensus::Reject::FetchMismatch)
    )
}
