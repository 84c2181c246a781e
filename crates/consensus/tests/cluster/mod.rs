//! A cluster of consensus machines without a network: a pool of messages in flight, a durability gate per
//! replica, and a referee who notes every broken promise. Whoever drives it decides what is delivered.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

mod feed;
mod restarts;

use feed::{Taken, feed};
use quorate_consensus::{
    BoardEntry, Consensus, Destination, Fact, LaneUpdate, Mark, Outgoing, Output, Support, Why,
};
use quorate_types::{
    After, ClusterConfig, Digest, Domain, JournalId, LaneId, LaneNumber, Lsn, Nanoseconds, ReplicaId, Seq,
    Tuning, View,
};
use quorate_wire::{Header, LaneTip, Position, header, testing};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The consensus journal of every replica; batches lie in the journals above it.
pub(crate) const JOURNAL: JournalId = JournalId(0);

/// One message on its way to one replica.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) from: ReplicaId,
    pub(crate) to: ReplicaId,
    pub(crate) message: Outgoing,
}

/// A durable checkpoint: its position, its header's time, and where the lanes stand after it.
pub(crate) type Floor = (Position, Nanoseconds, BTreeMap<LaneId, LaneTip>);

/// One replica with its disk.
pub(crate) struct Node {
    pub(crate) consensus: Consensus,
    /// A slow disk is durable only when told so; a fast one at once.
    pub(crate) slow: bool,
    pub(crate) crashed: bool,
    /// Whether committed headers are executed at once.
    pub(crate) executes: bool,
    pub(crate) skew_ms: i64,
    pub(crate) committed: Vec<Position>,
    appended: BTreeMap<JournalId, Lsn>,
    durable: BTreeMap<JournalId, Lsn>,
    held: VecDeque<(After, Destination, Outgoing)>,
    to_itself: VecDeque<Outgoing>,
    lanes: BTreeMap<LaneId, Vec<BoardEntry>>,
    /// All that it ever held, on whatever chain.
    held_ever: BTreeMap<(LaneId, Mark), BoardEntry>,
    accepted: BTreeMap<Digest, (Lsn, Arc<Header>)>,
    /// What it wrote down to vote for.
    ballots: BTreeMap<(View, Seq), (Digest, Lsn)>,
    prepared: BTreeMap<(View, Seq, Digest), Lsn>,
    votes: BTreeMap<(View, Seq), Digest>,
    /// The highest COMMIT that it has sent.
    committed_highest: Option<(View, Seq)>,
    /// What it wrote down about views, and where they begin.
    left: BTreeMap<View, Lsn>,
    entered: BTreeMap<View, (Seq, Lsn, Digest)>,
    /// The highest view in which it has sent anything.
    spoke_in: View,
    /// It has stopped because going on would not be safe.
    pub(crate) halted: bool,
    /// The journal of consensus as it was trimmed, and as if it never had been.
    journal: BTreeMap<Lsn, Fact>,
    whole: BTreeMap<Lsn, Fact>,
    stable: Seq,
    trims: Vec<(Lsn, After)>,
    /// How far the trimmed journal is gone.
    pub(crate) trimmed: Lsn,
    /// The last durable checkpoint.
    floor: Floor,
    /// Whether that is an older one than its journal was trimmed for.
    damaged: bool,
    marks: BTreeMap<LaneId, LaneTip>,
}

pub(crate) struct Cluster {
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) pool: Vec<Flight>,
    pub(crate) now: Nanoseconds,
    /// What happened: who and what.
    pub(crate) log: Vec<(ReplicaId, String)>,
    /// Promises of the protocol that a replica broke.
    pub(crate) violations: Vec<String>,
    /// Headers by name; `s3` is the first header at slot 3 that a replica made or accepted.
    pub(crate) headers: BTreeMap<String, Header>,
    names: BTreeMap<Digest, String>,
    decided: BTreeMap<Seq, Digest>,
    acknowledged: BTreeMap<LaneId, Vec<u64>>,
}

/// The first instant of every test.
pub(crate) const START: Nanoseconds = Nanoseconds::from_millis(1_000_000);

/// The chain digest of a batch; `fork` tells the chains of an equivocating origin apart.
pub(crate) fn batch_chain(lane: LaneId, number: u64, fork: &str) -> Digest {
    Digest::of(Domain::LaneChain, format!("{lane} {number} {fork}").as_bytes())
}

impl Cluster {
    /// `replicas` machines, all connected, the first Status of each already lost.
    pub(crate) fn new(replicas: u8, tuning: impl FnOnce(&mut Tuning)) -> Self {
        let mut figures = Tuning::default();
        tuning(&mut figures);
        let config = Arc::new(testing::config_with_links(replicas, 2).with_tuning(figures));
        let nodes = config.replica_ids().map(|id| Node::new(&config, id)).collect();
        let mut cluster = Self {
            nodes,
            pool: Vec::new(),
            now: START,
            log: Vec::new(),
            violations: Vec::new(),
            headers: BTreeMap::new(),
            names: BTreeMap::new(),
            decided: BTreeMap::new(),
            acknowledged: config.lanes().map(|lane| (lane, vec![0; usize::from(replicas)])).collect(),
            config,
        };
        for id in cluster.ids() {
            for peer in cluster.ids().into_iter().filter(|peer| *peer != id) {
                cluster.with(id, |consensus, out| consensus.on_connected(peer, out));
            }
            cluster.tick(id);
        }
        cluster.pool.clear();
        cluster.log.clear();
        cluster
    }

    pub(crate) fn ids(&self) -> Vec<ReplicaId> {
        self.config.replica_ids().collect()
    }

    pub(crate) fn node(&self, id: ReplicaId) -> &Node {
        &self.nodes[id.index()]
    }

    pub(crate) fn node_mut(&mut self, id: ReplicaId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// Gives a header a name for later commands and for the log.
    pub(crate) fn name(&mut self, name: &str, header: Header) {
        self.names.entry(header.digest()).or_insert_with(|| name.to_owned());
        self.headers.insert(name.to_owned(), header);
    }

    /// The first header of an honest replica at a slot is called by its slot.
    fn name_first(&mut self, header: &Header) {
        let first = format!("s{}", header.seq);
        if !self.headers.contains_key(&first) && !self.names.contains_key(&header.digest()) {
            self.name(&first, header.clone());
        }
    }

    /// The position that a name stands for: a known header, `genesis`, or `x@9` for one nobody has.
    pub(crate) fn position(&self, name: &str) -> Position {
        if name == "genesis" {
            return header::genesis(self.config.digest());
        }
        if let Some((_, seq)) = name.split_once('@') {
            let seq = Seq(if seq == "max" { u64::MAX } else { seq.parse().expect("a slot") });
            return Position { seq, digest: Digest::of(Domain::Header, name.as_bytes()) };
        }
        let header = self.headers.get(name).unwrap_or_else(|| panic!("no header is called {name}"));
        Position { seq: header.seq, digest: header.digest() }
    }

    fn clock(&self, id: ReplicaId) -> Nanoseconds {
        let skew = self.node(id).skew_ms * 1_000_000;
        Nanoseconds(self.now.0.saturating_add_signed(skew))
    }

    /// Ends a burst of inputs of one replica.
    pub(crate) fn tick(&mut self, id: ReplicaId) {
        let now = self.clock(id);
        self.with(id, |consensus, out| consensus.on_tick_end(now, out));
        while let Some(message) = self.node_mut(id).to_itself.pop_front() {
            self.receive(id, id, &message);
            self.with(id, |consensus, out| consensus.on_tick_end(now, out));
        }
    }

    /// Gives one input to a replica and carries out what it wants done.
    pub(crate) fn with(&mut self, id: ReplicaId, input: impl FnOnce(&mut Consensus, &mut Vec<Output>)) {
        if self.node(id).crashed {
            return;
        }
        let mut out = Vec::new();
        input(&mut self.node_mut(id).consensus, &mut out);
        for output in out {
            self.carry_out(id, output);
        }
    }

    fn say(&mut self, id: ReplicaId, text: String) {
        self.log.push((id, text));
    }

    fn carry_out(&mut self, id: ReplicaId, output: Output) {
        match output {
            Output::Append { lsn, fact } => self.append(id, lsn, fact),
            Output::Send { to, message, after } => self.admit(id, to, message, after),
            Output::Committed { header, position } => self.commit(id, &header, position),
            Output::ViewEntered { .. } | Output::ViewLeft { .. } => {}
            Output::States { .. } => {}
            Output::Trim { upto, after } => {
                self.say(id, format!("trims its journal up to {upto}"));
                self.node_mut(id).trims.push((upto, after));
            }
            Output::Want(tip) => self.say(id, format!("wants batch {} of lane {}", tip.upto, tip.lane)),
            Output::WantProposed { tip, primary, .. } => {
                self.say(
                    id,
                    format!("wants batch {} of lane {}, which r{primary} has proposed", tip.upto, tip.lane),
                );
            }
            Output::Unname(tips) => {
                let tips: Vec<String> =
                    tips.iter().map(|tip| format!("{} of lane {}", tip.upto, tip.lane)).collect();
                self.say(id, format!("needs no more {}", tips.join(" ")));
            }
            Output::Behind(_) => {}
            Output::Unserved(None) => self.say(id, "is served what others had nothing of".to_owned()),
            Output::Unserved(Some(position)) => {
                let slot = self.describe_position(position);
                self.say(id, format!("hears from all who answer that they have no {slot}"));
            }
            Output::Rejected(reject) => self.say(id, format!("rejects: {reject}")),
            Output::Halt(why) => {
                let why: Vec<&str> = why.split(' ').map(|word| self.short(word)).collect();
                let why = why.join(" ");
                self.say(id, format!("halts: {why}"));
                self.node_mut(id).crashed = true;
                self.node_mut(id).halted = true;
            }
        }
    }

    /// A digest in a text by its name, or cut short; any other word as it is.
    fn short<'a>(&'a self, word: &'a str) -> &'a str {
        if word.len() != 64 {
            return word;
        }
        let known = self.names.iter().find(|(digest, _)| digest.to_hex() == word);
        known.map_or(&word[..8], |(_, name)| name)
    }

    fn append(&mut self, id: ReplicaId, lsn: Lsn, fact: Fact) {
        let node = self.node_mut(id);
        let previous = node.appended.insert(JOURNAL, lsn);
        assert_eq!(previous.unwrap_or_default().next(), lsn, "log positions are consecutive");
        if !node.slow {
            node.durable.insert(JOURNAL, lsn);
        }
        node.journal.insert(lsn, fact.clone());
        node.whole.insert(lsn, fact.clone());
        self.note(id, lsn, fact);
    }

    /// What a fact says, to the referee and to the reader.
    fn note(&mut self, id: ReplicaId, lsn: Lsn, fact: Fact) {
        match fact {
            Fact::Accepted { view, header, voted } => {
                let digest = header.digest();
                self.name_first(&header);
                let name = self.names.get(&digest).cloned().unwrap_or_else(|| digest.short());
                self.say(id, if voted { format!("accepts {name}") } else { format!("takes {name} over") });
                let seq = header.seq;
                let node = self.node_mut(id);
                // What is written again is on the disk as long as it was.
                let durable = node.durable.get(&JOURNAL).copied().unwrap_or_default();
                if node.accepted.get(&digest).is_none_or(|(known, _)| *known > durable) {
                    node.accepted.insert(digest, (lsn, header));
                }
                if voted && node.ballots.entry((view, seq)).or_insert((digest, lsn)).0 != digest {
                    self.violations.push(format!("r{id} accepts twice at {seq} of view {view}"));
                }
            }
            Fact::ViewState { view } => {
                // When the journal is trimmed, it is written down again.
                if !self.node(id).left.contains_key(&view) {
                    self.say(id, format!("leaves all views below v{view}"));
                }
                self.node_mut(id).left.entry(view).or_insert(lsn);
            }
            Fact::EnterView { view, new_view, head } => {
                let slot = self.describe_position(head);
                let node = self.node_mut(id);
                let known = node.entered.get(&view).map(|(seq, _, digest)| (*seq, *digest));
                let below = node.left.last_key_value().is_some_and(|(left, _)| *left > view);
                node.entered.entry(view).or_insert((head.seq, lsn, new_view));
                if known.is_some_and(|known| known != (head.seq, new_view)) || (known.is_none() && below) {
                    self.violations.push(format!("r{id} enters view {view} again"));
                }
                if known.is_none() {
                    self.say(id, format!("enters v{view} at {slot}"));
                }
            }
            Fact::Prepared { view, position, votes } => {
                if self.node(id).entered.get(&view).is_some_and(|(head, ..)| position.seq < *head) {
                    self.violations.push(format!("r{id} prepares {} below the head of {view}", position.seq));
                }
                let voters: BTreeSet<ReplicaId> = votes.iter().map(|(voter, _)| *voter).collect();
                if voters.len() < self.config.quorums().quorum {
                    self.violations.push(format!(
                        "r{id} prepares {} with {} votes",
                        position.seq,
                        votes.len()
                    ));
                }
                let key = (view, position.seq, position.digest);
                if self.node(id).prepared.contains_key(&key) {
                    return;
                }
                self.node_mut(id).prepared.insert(key, lsn);
                let voters: Vec<String> = voters.iter().map(|voter| format!("r{voter}")).collect();
                let slot = self.describe_position(position) + &in_view(view);
                self.say(id, format!("prepares {slot} by the votes of {}", voters.join(" ")));
            }
            // It says nothing that was not said before.
            Fact::Promised { .. } => {}
            Fact::Stable(certificate) => {
                let seq = certificate.position.seq;
                if std::mem::replace(&mut self.node_mut(id).stable, seq) == seq {
                    return;
                }
                let slot = self.describe_position(certificate.position);
                self.say(id, format!("has a certificate for the state after {slot}"));
            }
        }
    }

    fn admit(&mut self, id: ReplicaId, to: Destination, message: Outgoing, after: After) {
        if let Outgoing::PrePrepare(message) = &message {
            self.name_first(&message.header);
        }
        let text = self.describe(&message);
        let to_whom = match to {
            Destination::All => "all".to_owned(),
            Destination::Others => "others".to_owned(),
            Destination::One(peer) => format!("r{peer}"),
        };
        let open: Vec<String> = after
            .positions()
            .iter()
            .filter(|(journal, lsn)| self.node(id).durable.get(journal).copied().unwrap_or_default() < *lsn)
            .map(|(journal, lsn)| format!("journal {journal} has {lsn}"))
            .collect();
        if open.is_empty() {
            self.say(id, format!("-> {to_whom} {text}"));
            self.release(id, to, message);
        } else {
            self.say(id, format!("holds {text} to {to_whom} until {}", open.join(" and ")));
            self.node_mut(id).held.push_back((after, to, message));
        }
    }

    fn release(&mut self, id: ReplicaId, to: Destination, message: Outgoing) {
        self.referee(id, &message);
        let receivers = match to {
            Destination::All | Destination::Others => self.ids(),
            Destination::One(peer) => vec![peer],
        };
        for receiver in receivers {
            if receiver != id {
                self.pool.push(Flight { from: id, to: receiver, message: message.clone() });
            } else if to == Destination::All {
                self.node_mut(id).to_itself.push_back(message.clone());
            }
        }
    }

    /// What may leave is judged from the disk alone, not from the positions that consensus itself named.
    fn referee(&mut self, id: ReplicaId, message: &Outgoing) {
        let mut broken = Vec::new();
        let node = &mut self.nodes[id.index()];
        let durable = node.durable.get(&JOURNAL).copied().unwrap_or_default();
        let on_disk = |lsn: Option<Lsn>| lsn.is_some_and(|lsn| lsn <= durable);
        let spoken = match message {
            Outgoing::Prepare(prepare) => Some(prepare.view),
            Outgoing::Commit(commit) => Some(commit.view),
            Outgoing::ViewChange(change) => Some(change.new_view),
            _ => None,
        };
        if let Some(view) = spoken {
            if view < node.spoke_in {
                broken.push(format!("r{id} votes in view {view} after view {}", node.spoke_in));
            }
            node.spoke_in = view.max(node.spoke_in);
        }
        match message {
            Outgoing::Prepare(prepare) => {
                let begin = node.entered.get(&prepare.view).copied();
                if prepare.view > View(0)
                    && begin.is_none_or(|(head, lsn, _)| prepare.lo < head || lsn > durable)
                {
                    broken.push(format!("r{id} votes in view {}, which has not begun", prepare.view));
                }
                for (offset, digest) in (0..).zip(&prepare.digests) {
                    let seq = prepare.lo.plus(offset);
                    let first = *node.votes.entry((prepare.view, seq)).or_insert(*digest);
                    if first != *digest {
                        broken.push(format!("r{id} votes twice at {seq}"));
                    }
                    let ballot = node.ballots.get(&(prepare.view, seq));
                    if !on_disk(ballot.filter(|(named, _)| named == digest).map(|(_, lsn)| *lsn)) {
                        broken.push(format!("r{id} votes for {seq} and has not written that down"));
                    }
                    if !node.is_durable(digest) {
                        broken.push(format!("r{id} votes for {seq} before it is durable with its ancestors"));
                    }
                }
            }
            Outgoing::Commit(commit) => {
                let (view, Position { seq, digest }) = (commit.view, commit.position);
                if !on_disk(node.prepared.get(&(view, seq, digest)).copied()) {
                    broken.push(format!("r{id} sends COMMIT {seq} before its certificate is durable"));
                }
                node.committed_highest = node.committed_highest.max(Some((view, seq)));
            }
            Outgoing::ViewChange(change) => {
                let rank = change.prepared.as_ref().map(|found| (found.view, found.position.seq));
                if rank < node.committed_highest {
                    broken.push(format!("r{id} hides what it has sent COMMIT for"));
                }
                if !on_disk(node.left.get(&change.new_view).copied()) {
                    broken.push(format!("r{id} leaves for view {} before that is durable", change.new_view));
                }
            }
            Outgoing::NewView(message) => {
                let entered = node.entered.get(&message.view).map(|(_, lsn, _)| *lsn);
                broken.extend(
                    (!on_disk(entered))
                        .then(|| format!("r{id} sends NEW-VIEW {} before it is durable", message.view)),
                );
            }
            _ => {}
        }
        for violation in broken {
            self.say(id, format!("BREAKS A RULE: {violation}"));
            self.violations.push(violation);
        }
    }

    /// How far a replica has ordered each lane.
    pub(crate) fn ordered(&self, id: ReplicaId) -> BTreeMap<LaneId, LaneNumber> {
        self.node(id).marks.values().map(|tip| (tip.lane, tip.upto)).collect()
    }

    fn commit(&mut self, id: ReplicaId, header: &Header, position: Position) {
        let slot = self.describe_position(position);
        self.say(id, format!("commits {slot}"));
        let before = self.node(id).committed.last().copied();
        let before = before.unwrap_or(header::genesis(self.config.digest()));
        if before.seq.next() != position.seq || before.digest != header.parent {
            self.violations.push(format!("r{id} commits {slot} off its own chain"));
        }
        if *self.decided.entry(position.seq).or_insert(position.digest) != position.digest {
            self.say(id, format!("BREAKS A RULE: another header is committed at {}", position.seq));
            self.violations.push(format!("r{id} commits another header at {}", position.seq));
        }
        let node = self.node_mut(id);
        node.committed.push(position);
        node.marks.extend(header.cut.iter().map(|tip| (tip.lane, *tip)));
        if node.executes {
            self.execute(id, position);
        }
    }

    /// Execution reaches a slot; every interval it computes a root.
    pub(crate) fn execute(&mut self, id: ReplicaId, position: Position) {
        self.node_mut(id).consensus.on_executed(position);
        if position.seq.0.is_multiple_of(self.config.tuning().checkpoint_interval) {
            let root = Digest::of(Domain::StateRoot, &position.digest.0);
            let node = self.node_mut(id);
            if node.executes
                && let Some((_, header)) = node.accepted.get(&position.digest)
            {
                node.floor = (position, header.timestamp, node.marks.clone());
            }
            self.with(id, |consensus, out| consensus.on_root(position, root, out));
        }
    }

    /// What was appended to a journal (to all without one) becomes durable.
    pub(crate) fn make_durable(&mut self, id: ReplicaId, journal: Option<JournalId>) {
        let node = self.node_mut(id);
        for (written, lsn) in &node.appended {
            if journal.is_none_or(|journal| journal == *written) {
                node.durable.insert(*written, *lsn);
            }
        }
        for _ in 0..self.node(id).held.len() {
            let node = self.node_mut(id);
            let Some((after, to, message)) = node.held.pop_front() else { break };
            if node.reached(&after) {
                let text = self.describe(&message);
                self.say(id, format!("lets go {text}"));
                self.release(id, to, message);
            } else {
                node.held.push_back((after, to, message));
            }
        }
        self.tick(id);
    }

    /// What a replica has of its last checkpoint cannot be read: it goes on from the one after `older`, or from
    /// nothing.
    pub(crate) fn damage_checkpoint(&mut self, id: ReplicaId, older: Option<Floor>) {
        let node = self.node_mut(id);
        (node.floor, node.damaged) = (older.unwrap_or_default(), true);
    }

    /// The last durable checkpoint of a replica, to go back to.
    pub(crate) fn checkpoint(&self, id: ReplicaId) -> Floor {
        self.node(id).floor.clone()
    }

    /// The last durable checkpoint of a replica.
    pub(crate) fn floor(&self, id: ReplicaId) -> Position {
        self.node(id).floor.0
    }

    /// A replica takes over the state that `from` has at its last durable checkpoint.
    pub(crate) fn install(&mut self, id: ReplicaId, from: ReplicaId) {
        let (position, timestamp, marks) = self.node(from).floor.clone();
        let certificate = self.node(from).consensus.prepared_certificate();
        let committed = self.node(from).committed.clone();
        let tips: Vec<LaneTip> = marks.values().copied().collect();
        if position.seq <= self.node(id).consensus.positions().committed.seq {
            return;
        }
        self.say(id, format!("takes the state after {} over from r{from}", self.describe_position(position)));
        if let Some(certificate) = certificate {
            let verified = self.node(id).consensus.keyring().prepared(certificate);
            let verified = verified.expect("a certificate of an honest replica");
            self.with(id, |consensus, out| consensus.on_prepared_certificate(verified, out));
        }
        self.with(id, |consensus, _| consensus.install(position, timestamp, tips));
        let node = self.node_mut(id);
        node.committed = committed.into_iter().filter(|other| other.seq <= position.seq).collect();
        node.marks.clone_from(&marks);
        node.floor = (position, timestamp, marks.clone());
        self.restore_lanes(id, &marks);
        self.tick(id);
    }

    /// The batches that were on the disk of a replica which comes back.
    fn restore_lanes(&mut self, id: ReplicaId, marks: &BTreeMap<LaneId, LaneTip>) {
        for lane in self.config.lanes().collect::<Vec<_>>() {
            let mark = marks.get(&lane).map_or(LaneNumber(0), |tip| tip.upto);
            let node = self.node_mut(id);
            let durable = node.durable.clone();
            let held = node.lanes.entry(lane).or_default();
            let is_durable =
                |entry: &BoardEntry| durable.get(&entry.journal).is_some_and(|lsn| *lsn >= entry.lsn);
            held.retain(is_durable);
            node.held_ever.retain(|_, entry| is_durable(entry));
            for number in held.len() as u64 + 1..=mark.0 {
                // It is in the state.
                let mark = Mark { upto: LaneNumber(number), chain: batch_chain(lane, number, "") };
                let journal = JournalId(1 + lane.link.0);
                let previous = held.last().map_or(Digest::ZERO, |entry| entry.mark.chain);
                held.push(BoardEntry { mark, previous, bytes: 0, journal, lsn: Lsn(0), why: Why::OwnLink });
            }
            let below = usize::try_from(mark.0).expect("a short lane");
            let held = held[below..].to_vec();
            let update = self.update_of(id, lane, held);
            self.with(id, |consensus, _| consensus.on_lane_update(&update));
        }
    }

    /// What a replica is told when it holds more of a lane, or more have acknowledged it.
    fn update_of(&self, id: ReplicaId, lane: LaneId, held: Vec<BoardEntry>) -> LaneUpdate {
        let all = self.node(id).lanes.get(&lane).map_or(&[][..], |held| held);
        let mut sorted = self.acknowledged[&lane].clone();
        sorted.sort_unstable_by(|left, right| right.cmp(left));
        let quorums = self.config.quorums();
        let highest = |count: usize| {
            let reached = usize::try_from(sorted[count - 1]).expect("a short lane");
            all[..reached.min(all.len())].last().map(|entry| entry.mark)
        };
        let weak = highest(quorums.weak).map(|mark| (Support::Weak, mark));
        let quorum = highest(quorums.quorum).map(|mark| (Support::Quorum, mark));
        let tip = all.last().map(|entry| entry.mark).unwrap_or_default();
        LaneUpdate { lane, held, supported: weak.into_iter().chain(quorum).collect(), tip }
    }

    /// The lane of `origin` grows at `holders` up to batch `upto`, and `ackers` acknowledge it.
    pub(crate) fn grow_lane(&mut self, lane: LaneId, upto: u64, growth: &Growth) {
        let acknowledged = self.acknowledged.get_mut(&lane).expect("a lane of the cluster");
        for acker in &growth.ackers {
            acknowledged[acker.index()] = upto;
        }
        for id in self.ids() {
            let node = self.node_mut(id);
            let entries =
                if growth.holders.contains(&id) { node.grow(lane, upto, growth) } else { Vec::new() };
            let update = self.update_of(id, lane, entries);
            self.with(id, |consensus, _| consensus.on_lane_update(&update));
        }
    }

    /// Delivers a message as the network does: encoded, decoded, checked, taken.
    pub(crate) fn receive(&mut self, from: ReplicaId, to: ReplicaId, message: &Outgoing) {
        if self.node(to).crashed {
            return;
        }
        let text = self.describe(message);
        let frame = message.encode();
        let now = self.clock(to);
        let mut taken = Taken::Yes;
        self.with(to, |consensus, out| taken = feed(consensus, now, from, &frame, out));
        match taken {
            Taken::Yes => {}
            Taken::Ignored => self.say(to, format!("ignores {text} from r{from}")),
            Taken::Forged => {
                self.say(to, format!("refuses {text} from r{from}: not signed by whom it should be"))
            }
        }
    }

    pub(crate) fn describe_position(&self, position: Position) -> String {
        let genesis = header::genesis(self.config.digest());
        if position == genesis {
            return "s0".to_owned();
        }
        let name = self.names.get(&position.digest).cloned();
        name.unwrap_or_else(|| format!("a strange s{}", position.seq))
    }

    pub(crate) fn describe(&self, message: &Outgoing) -> String {
        let slot = |seq: Seq, digest: Digest| self.describe_position(Position { seq, digest });
        match message {
            Outgoing::PrePrepare(message) => {
                let slot = slot(message.header.seq, message.header.digest());
                format!("PRE-PREPARE {slot}{}", in_view(message.view))
            }
            Outgoing::Prepare(message) => {
                let slots: Vec<String> = (0..)
                    .zip(&message.digests)
                    .map(|(offset, digest)| slot(message.lo.plus(offset), *digest))
                    .collect();
                let view = in_view(message.view);
                match &slots[..] {
                    [first, .., last] => format!("PREPARE {first}..{last}{view}"),
                    _ => format!("PREPARE {}{view}", slots.concat()),
                }
            }
            Outgoing::Commit(message) => {
                let slot = slot(message.position.seq, message.position.digest);
                format!("COMMIT {slot}{}", in_view(message.view))
            }
            Outgoing::Checkpoint(message) => {
                format!("CHECKPOINT {}", slot(message.position.seq, message.position.digest))
            }
            Outgoing::CheckpointCertificate(message) => {
                format!("CERTIFICATE {}", slot(message.position.seq, message.position.digest))
            }
            Outgoing::Status(status) => format!(
                "STATUS {}accepted {} prepared {} committed {} stable {}",
                match (status.view, status.entered) {
                    (View(0), true) => String::new(),
                    (view, true) => format!("v{view} "),
                    (view, false) => format!("waiting for v{view} "),
                },
                self.describe_position(status.accepted),
                self.describe_position(status.prepared),
                self.describe_position(status.committed),
                self.describe_position(status.stable)
            ),
            Outgoing::FetchHeaders(message) => format!(
                "FETCH headers down from {} above s{}",
                slot(message.last.seq, message.last.digest),
                message.above
            ),
            Outgoing::Suspect(message) => {
                format!("SUSPECT v{}, {}", message.view, format!("{:?}", message.reason).to_lowercase())
            }
            Outgoing::ViewChange(message) => {
                let stable = message
                    .stable
                    .as_ref()
                    .map_or("s0".to_owned(), |certificate| self.describe_position(certificate.position));
                let prepared = message.prepared.as_ref().map_or("nothing".to_owned(), |certificate| {
                    format!("{} of v{}", self.describe_position(certificate.position), certificate.view)
                });
                let why: Vec<String> =
                    message.suspects.iter().map(|(signer, _)| format!("r{signer}")).collect();
                let proof = if message.proposals.is_empty() { "" } else { " and two proposals" };
                format!(
                    "VIEW-CHANGE v{} stable {stable} prepared {prepared} because of {}{proof}",
                    message.new_view,
                    why.join(" ")
                )
            }
            Outgoing::NewView(message) => {
                let of: Vec<String> =
                    message.summaries.iter().map(|(signer, _)| format!("r{signer}")).collect();
                format!("NEW-VIEW v{} of {}", message.view, of.join(" "))
            }
            Outgoing::FetchedHeaders(message) => {
                let slots: Vec<String> =
                    message.headers.iter().map(|header| slot(header.seq, header.digest())).collect();
                match &slots[..] {
                    [] => "HEADERS none".to_owned(),
                    [only] => format!("HEADERS {only}"),
                    [first, .., last] => format!("HEADERS {first} down to {last}"),
                }
            }
        }
    }
}

/// The first view is not mentioned.
fn in_view(view: View) -> String {
    if view == View(0) { String::new() } else { format!(" in v{view}") }
}

/// How a lane grows.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    pub(crate) holders: Vec<ReplicaId>,
    pub(crate) ackers: Vec<ReplicaId>,
    pub(crate) bytes: u64,
    pub(crate) journal: JournalId,
    /// From which batch on the origin tells another story, and which.
    pub(crate) fork: Option<(u64, String)>,
}

impl Node {
    fn new(config: &Arc<ClusterConfig>, id: ReplicaId) -> Self {
        Self {
            consensus: Consensus::new(Arc::clone(config), id, testing::replica_key(id.0), JOURNAL),
            slow: false,
            crashed: false,
            executes: true,
            skew_ms: 0,
            committed: Vec::new(),
            appended: BTreeMap::new(),
            durable: BTreeMap::new(),
            held: VecDeque::new(),
            to_itself: VecDeque::new(),
            lanes: BTreeMap::new(),
            held_ever: BTreeMap::new(),
            accepted: BTreeMap::new(),
            ballots: BTreeMap::new(),
            prepared: BTreeMap::new(),
            votes: BTreeMap::new(),
            committed_highest: None,
            left: BTreeMap::new(),
            entered: BTreeMap::new(),
            spoke_in: View(0),
            halted: false,
            journal: BTreeMap::new(),
            whole: BTreeMap::new(),
            stable: Seq(0),
            trims: Vec::new(),
            trimmed: Lsn(0),
            floor: Floor::default(),
            damaged: false,
            marks: BTreeMap::new(),
        }
    }

    /// The journal of consensus goes on behind what was found of it.
    pub(crate) fn begin_journal_after(&mut self, last: Lsn) {
        self.appended.insert(JOURNAL, last);
        self.durable.insert(JOURNAL, last);
    }

    fn reached(&self, after: &After) -> bool {
        after
            .positions()
            .iter()
            .all(|(journal, lsn)| self.durable.get(journal).is_some_and(|mark| mark >= lsn))
    }

    fn grow(&mut self, lane: LaneId, upto: u64, growth: &Growth) -> Vec<BoardEntry> {
        let chain = |number: u64| match &growth.fork {
            Some((from, fork)) if number >= *from => batch_chain(lane, number, fork),
            _ => batch_chain(lane, number, ""),
        };
        let held = self.lanes.entry(lane).or_default();
        let same =
            (1..=upto).zip(&*held).take_while(|(number, entry)| entry.mark.chain == chain(*number)).count();
        if same as u64 == upto {
            return Vec::new();
        }
        held.truncate(same);
        for number in same as u64 + 1..=upto {
            let mark = Mark { upto: LaneNumber(number), chain: chain(number) };
            // What it has held before lies where it lay.
            let entry = *self.held_ever.entry((lane, mark)).or_insert_with(|| {
                let lsn = self.appended.get(&growth.journal).copied().unwrap_or_default().next();
                self.appended.insert(growth.journal, lsn);
                if !self.slow {
                    self.durable.insert(growth.journal, lsn);
                }
                let previous = held.last().map_or(Digest::ZERO, |entry| entry.mark.chain);
                let (bytes, journal, why) = (growth.bytes, growth.journal, Why::OwnLink);
                BoardEntry { mark, previous, bytes, journal, lsn, why }
            });
            held.push(entry);
        }
        held[same..].to_vec()
    }

    /// Whether a header that this replica accepted, its ancestors above, and their batches are on its disk.
    fn is_durable(&self, digest: &Digest) -> bool {
        let mut next = self.accepted.get(digest);
        while let Some((lsn, header)) = next {
            let batches = header.cut.iter().flat_map(|tip| {
                let held = |mark: Mark| self.held_ever.get(&(tip.lane, mark)).copied();
                let parent =
                    |entry: &BoardEntry| Mark { upto: entry.mark.upto.previous(), chain: entry.previous };
                std::iter::successors(held(tip.mark()), move |entry| held(parent(entry)))
            });
            let mut positions = batches.map(|entry| (entry.journal, entry.lsn)).chain([(JOURNAL, *lsn)]);
            if positions.any(|(journal, lsn)| {
                lsn > Lsn(0) && self.durable.get(&journal).is_none_or(|mark| *mark < lsn)
            }) {
                return false;
            }
            next = self.accepted.get(&header.parent);
        }
        true
    }
}
