//! Scenario files: commands in, what happened out, for the lanes of four replicas. Each file in `tests/scenarios` tells one
//! history that taught a rule of docs/lanes.md; `UPDATE_EXPECT=1 cargo test -p quorate-lanes --test scenarios` writes what
//! happened into the files. The commands are described in `tests/scenarios/README.md`.

mod common;

use common::*;
use quorate_lanes::{Destination, Output, Recovered};
use quorate_types::{ClusterConfig, LaneId, LaneNumber, Lsn, Nanoseconds, ReplicaId, Support, Why};
use quorate_wire::message::{AskLanes, FetchBatches, LaneAcks, Message, decode_fetched_batches};
use quorate_wire::{BatchView, Frame, Kind, LaneTip};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

#[test]
fn every_scenario_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = std::fs::read_dir(&folder).expect("the folder of scenarios");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty());
    let mut differing = Vec::new();
    for path in files {
        let written = std::fs::read_to_string(&path).expect("a scenario");
        let found = play(&written);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, found).expect("a writable scenario");
        } else if found != written {
            differing.push(format!("{}:\n{found}", path.display()));
        }
    }
    assert!(differing.is_empty(), "UPDATE_EXPECT=1 accepts this:\n{}", differing.join("\n"));
}

/// Plays a scenario and returns it with what happened in place of what was expected.
fn play(text: &str) -> String {
    let (mut scene, mut result) = (Scene::new(), String::new());
    let (mut is_answer, mut told) = (false, String::new());
    for line in text.lines() {
        if is_answer && !line.is_empty() {
            continue;
        }
        is_answer = line == "----";
        let _ = writeln!(result, "{line}");
        if is_answer {
            let told = std::mem::take(&mut told);
            result += if told.is_empty() { "nothing happens\n" } else { &told };
        } else if !line.is_empty() && !line.starts_with('#') {
            scene.perform(line);
            told += &scene.take_told();
        }
    }
    assert!(told.is_empty(), "commands without ---- after them");
    result
}

struct Machine {
    node: Option<Node>,
    disk: Vec<(Lsn, Frame, Why)>,
    appended: Lsn,
    durable: Lsn,
    is_slow: bool,
    gated: VecDeque<(Lsn, Destination, Frame)>,
    /// The bundles that were admitted here.
    admitted: u64,
}

struct Scene {
    config: Arc<ClusterConfig>,
    now: Nanoseconds,
    machines: Vec<Machine>,
    flights: VecDeque<(ReplicaId, ReplicaId, Frame)>,
    /// Who is cut off from all others.
    away: Vec<ReplicaId>,
    chains: BTreeMap<String, Chain>,
    /// What was sealed at each place, in that order.
    sealed: BTreeMap<(LaneId, LaneNumber), Vec<LaneTip>>,
    /// What happened, and who did it, in order.
    told: Vec<(String, Vec<ReplicaId>)>,
    is_quiet: bool,
    salt: u64,
}

impl Scene {
    fn new() -> Self {
        let machine = |id| Machine {
            node: Some(Node::new(ReplicaId(id))),
            disk: Vec::new(),
            appended: Lsn(0),
            durable: Lsn(0),
            is_slow: false,
            gated: VecDeque::new(),
            admitted: 0,
        };
        Self {
            config: config(|_| ()),
            now: START,
            machines: (0..4).map(machine).collect(),
            flights: VecDeque::new(),
            away: Vec::new(),
            chains: BTreeMap::new(),
            sealed: BTreeMap::new(),
            told: Vec::new(),
            is_quiet: false,
            salt: 0,
        }
    }

    fn perform(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let replicas = |from: usize| words.iter().skip(from).map(|word| replica(word));
        match words[0] {
            "chain" => self.make_chain(&words),
            "send" => {
                let (name, upto) = place(words[1]);
                let chain = self.chains[name].upto(upto);
                for to in replicas(3) {
                    for frame in chain.frames.clone() {
                        self.receive(chain.lane.origin, to, &frame);
                    }
                    self.tick(to);
                }
            }
            "say" => {
                let acks = LaneAcks { full: words[3] == "shows", tips: vec![self.tip(words[1])] };
                for to in replicas(4) {
                    self.receive(replica(words[2]), to, &acks.encode());
                    self.tick(to);
                }
            }
            "admit" => {
                let at = replica(words[1]);
                let machine = &mut self.machines[at.index()];
                let node = machine.node.as_mut().expect("it is up");
                node.next_bundle = machine.admitted;
                assert!(node.admit(16));
                machine.admitted += 1;
                self.tick(at);
            }
            "run" => self.run(),
            "wait" => {
                for _ in 0..number(words[1]) {
                    self.now = self.now.plus(self.config.tuning().retransmit.0);
                    (0..4).map(ReplicaId).for_each(|at| self.tick(at));
                    self.run();
                }
            }
            "drop" => self.flights.clear(),
            "cut" => replicas(1).for_each(|at| self.cut(at)),
            "join" => replicas(1).for_each(|at| self.join(at)),
            "slow" => replicas(1).for_each(|at| self.machines[at.index()].is_slow = true),
            "durable" => replicas(1).for_each(|at| self.sync(at)),
            "name" => replicas(2).for_each(|at| self.name(at, words[1])),
            "propose" => replicas(3).for_each(|at| self.propose(at, words[1], replica(words[2]))),
            "execute" => replicas(2).for_each(|at| self.execute(at, words[1])),
            "crash" => replicas(1).for_each(|at| self.crash(at)),
            "restart" => replicas(1).for_each(|at| self.restart(at)),
            "quiet" => self.is_quiet = true,
            "loud" => self.is_quiet = false,
            other => panic!("{other} is no command"),
        }
    }

    /// `chain A of R length N` or `chain B from A@K length N`.
    fn make_chain(&mut self, words: &[&str]) {
        self.salt += 1;
        let trunk = if words[2] == "of" {
            Chain::new(&self.config, replica(words[3]), 0, self.salt)
        } else {
            let (name, upto) = place(words[3]);
            self.chains[name].upto(upto)
        };
        let chain = trunk.grown(&self.config, number(words[5]), self.salt, 16);
        self.chains.insert(words[1].to_owned(), chain);
    }

    fn tip(&self, word: &str) -> LaneTip {
        let (name, upto) = place(word);
        self.chains[name].tips[upto]
    }

    /// The first chain by name that has a place; a number of the origin's own where it sealed it, with a stroke if it had
    /// sealed something else there before.
    fn describe(&self, tip: &LaneTip) -> String {
        let upto = index(tip.upto);
        let known =
            self.chains.iter().find(|(_, chain)| chain.lane == tip.lane && chain.tips.get(upto) == Some(tip));
        if let Some((name, _)) = known {
            return format!("{name}@{upto}");
        }
        let sealed = self.sealed.get(&(tip.lane, tip.upto));
        let before =
            sealed.and_then(|sealed| sealed.iter().position(|other| other == tip)).unwrap_or_default();
        format!("r{}@{upto}{}", tip.lane.origin, "'".repeat(before))
    }

    fn describe_all<'a>(&self, tips: impl IntoIterator<Item = &'a LaneTip>) -> String {
        let tips = tips.into_iter().filter(|tip| tip.upto.0 > 0);
        let all: Vec<String> = tips.map(|tip| self.describe(tip)).collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join(" ") }
    }

    fn tell(&mut self, who: ReplicaId, what: String) {
        match self.told.iter_mut().find(|(told, by)| *told == what && !by.contains(&who)) {
            _ if self.is_quiet => {}
            Some((_, by)) => by.push(who),
            None => self.told.push((what, vec![who])),
        }
    }

    fn take_told(&mut self) -> String {
        let mut text = String::new();
        for (what, mut by) in std::mem::take(&mut self.told) {
            by.sort_unstable();
            let by: Vec<String> = by.iter().map(|who| format!("r{who}")).collect();
            let _ = writeln!(text, "{} {what}", by.join(" "));
        }
        text
    }

    fn tick(&mut self, at: ReplicaId) {
        let now = self.now;
        if let Some(node) = &mut self.machines[at.index()].node {
            node.now = now;
            node.tick();
            self.carry_out(at);
        }
    }

    fn carry_out(&mut self, at: ReplicaId) {
        while let Some(node) = &mut self.machines[at.index()].node {
            let outputs = node.take().0;
            if outputs.is_empty() {
                break;
            }
            outputs.into_iter().for_each(|output| self.carry_out_one(at, output));
            if !self.machines[at.index()].is_slow {
                self.sync(at);
            }
        }
    }

    fn carry_out_one(&mut self, at: ReplicaId, output: Output) {
        match output {
            Output::Append { lsn, frame, why, .. } => {
                let view = BatchView::parse(frame.payload()).expect("a batch");
                let tip = LaneTip { lane: view.head.lane, upto: view.head.number, chain: view.chain() };
                let sealed = self.sealed.entry((tip.lane, tip.upto)).or_default();
                if !sealed.contains(&tip) {
                    sealed.push(tip);
                }
                let reason = match why {
                    Why::Named => "as it is named",
                    Why::Acknowledged => "as f+1 others have it",
                    Why::OwnLink if tip.lane.origin == at => "as it has sealed it",
                    Why::OwnLink => "as its origin sent it",
                };
                let what = format!("takes {} {reason}", self.describe(&tip));
                self.tell(at, what);
                let machine = &mut self.machines[at.index()];
                machine.appended = lsn;
                machine.disk.push((lsn, frame, why));
            }
            Output::Send { to, frame, after, .. } => self.send(at, to, frame, after.unwrap_or_default()),
            Output::Acknowledge { acks, after, .. } => {
                self.send(at, Destination::Others, acks.encode(), after);
                self.send(at, Destination::One(at), acks.encode(), after);
            }
            Output::Progress(update) => {
                for (support, mark) in &update.supported {
                    let many = if *support == Support::Quorum { "q" } else { "f+1" };
                    let what =
                        format!("counts {many} for {}", self.describe(&LaneTip::at(update.lane, *mark)));
                    self.tell(at, what);
                }
            }
            Output::LetGo(tip) => {
                let what = format!("lets go of {}", self.describe(&tip));
                self.tell(at, what);
            }
            Output::Unserved { unserved: Some(tip), .. } => {
                let what = format!("hears from all who answer that they have no {}", self.describe(&tip));
                self.tell(at, what);
            }
            _ => {}
        }
    }

    fn send(&mut self, at: ReplicaId, to: Destination, frame: Frame, after: Lsn) {
        let machine = &mut self.machines[at.index()];
        if after > machine.durable {
            return machine.gated.push_back((after, to, frame));
        }
        self.tell_of_frame(at, to, &frame);
        let to: Vec<ReplicaId> = match to {
            Destination::Others => (0..4).map(ReplicaId).filter(|peer| *peer != at).collect(),
            Destination::One(peer) => vec![peer],
        };
        let reached = to.into_iter().filter(|peer| *peer == at || !self.is_away(at) && !self.is_away(*peer));
        let reached: Vec<ReplicaId> = reached.collect();
        self.flights.extend(reached.into_iter().map(|peer| (at, peer, frame.clone())));
    }

    fn tell_of_frame(&mut self, at: ReplicaId, to: Destination, frame: &Frame) {
        let to = match to {
            Destination::Others => "all others".to_owned(),
            Destination::One(peer) if peer == at => return,
            Destination::One(peer) => format!("r{peer}"),
        };
        let payload = frame.payload();
        let what = match frame.kind() {
            Kind::Batch => {
                let view = BatchView::parse(payload).expect("a batch");
                let tip = LaneTip { lane: view.head.lane, upto: view.head.number, chain: view.chain() };
                format!("sends {} to {to}", self.describe(&tip))
            }
            Kind::LaneAcks => {
                let acks = LaneAcks::decode(payload).expect("own messages");
                let verb = if acks.full { "shows" } else { "says" };
                format!("{verb} {} to {to}", self.describe_all(&acks.tips))
            }
            Kind::AskLanes => {
                let tips = AskLanes::decode(payload).expect("own messages").tips;
                format!("asks {to} whether it has {}", self.describe_all(&tips))
            }
            Kind::FetchBatches => {
                let FetchBatches { lane, upto, chain, above } =
                    FetchBatches::decode(payload).expect("own messages");
                format!(
                    "fetches {} down to {} of {to}",
                    self.describe(&LaneTip { lane, upto, chain }),
                    above.next().0
                )
            }
            _ => {
                let (asked, batches) = decode_fetched_batches(payload).expect("own messages");
                format!("answers {to} with {} batches from {}", batches.len(), self.describe(&asked))
            }
        };
        self.tell(at, what);
    }

    fn is_away(&self, id: ReplicaId) -> bool {
        self.away.contains(&id) || self.machines[id.index()].node.is_none()
    }

    fn sync(&mut self, at: ReplicaId) {
        let machine = &mut self.machines[at.index()];
        machine.durable = machine.appended;
        if let Some(node) = &mut machine.node {
            node.lanes.on_durable(node.now, machine.durable, &mut node.out);
        }
        for (after, to, frame) in std::mem::take(&mut machine.gated) {
            self.send(at, to, frame, after);
        }
    }

    fn run(&mut self) {
        while let Some((from, to, frame)) = self.flights.pop_front() {
            self.receive(from, to, &frame);
            if self.flights.iter().all(|(_, other, _)| *other != to) {
                self.tick(to);
            }
        }
    }

    fn receive(&mut self, from: ReplicaId, to: ReplicaId, frame: &Frame) {
        let Some(node) = &mut self.machines[to.index()].node else { return };
        let payload = frame.payload();
        let result = match frame.kind() {
            Kind::Batch => node.lanes.on_batch(from, LINK, frame.as_frame_ref(), &mut node.out),
            Kind::LaneAcks => node.lanes.on_acks(from, LINK, &LaneAcks::decode(payload).expect("acks")),
            Kind::AskLanes => node.lanes.on_ask(from, LINK, AskLanes::decode(payload).expect("a question")),
            Kind::FetchBatches => {
                node.lanes.on_fetch(from, LINK, &FetchBatches::decode(payload).expect("a question"))
            }
            _ => node.lanes.on_fetched(node.now, from, LINK, frame.as_frame_ref(), &mut node.out),
        };
        if let Err(reject) = result {
            self.tell(to, format!("refuses {:?} of r{from}: {reject}", frame.kind()));
        }
        self.carry_out(to);
    }

    /// The connections of a replica are there or not.
    fn connect(&mut self, at: ReplicaId, stands: bool) {
        self.flights.retain(|(from, to, _)| *from != at && *to != at);
        for peer in (0..4).map(ReplicaId).filter(|peer| *peer != at) {
            for (end, other) in [(at, peer), (peer, at)] {
                let Some(node) = &mut self.machines[end.index()].node else { continue };
                node.disconnect(other);
                if stands {
                    node.lanes.on_connected(other, LINK);
                }
            }
        }
    }

    fn cut(&mut self, at: ReplicaId) {
        self.away.push(at);
        self.connect(at, false);
    }

    fn join(&mut self, at: ReplicaId) {
        self.away.retain(|away| *away != at);
        self.connect(at, true);
        (0..4).map(ReplicaId).for_each(|at| self.tick(at));
    }

    fn name(&mut self, at: ReplicaId, word: &str) {
        let tip = self.tip(word);
        let Some(node) = &mut self.machines[at.index()].node else { return };
        node.want(tip);
        self.carry_out(at);
    }

    fn propose(&mut self, at: ReplicaId, word: &str, primary: ReplicaId) {
        let tip = self.tip(word);
        let Some(node) = &mut self.machines[at.index()].node else { return };
        node.want_proposed(tip, primary);
        self.carry_out(at);
    }

    fn execute(&mut self, at: ReplicaId, word: &str) {
        let tip = self.tip(word);
        if let Some(node) = &mut self.machines[at.index()].node {
            node.lanes.on_executed(&[tip]);
            self.tick(at);
        }
    }

    /// The disk keeps what is durable.
    fn crash(&mut self, at: ReplicaId) {
        let machine = &mut self.machines[at.index()];
        machine.node = None;
        machine.gated.clear();
        machine.appended = machine.durable;
        machine.disk.retain(|(lsn, ..)| *lsn <= machine.durable);
        self.connect(at, false);
    }

    fn restart(&mut self, at: ReplicaId) {
        let machine = &self.machines[at.index()];
        let (last_lsn, batches) = (machine.appended, machine.disk.clone());
        let recovered = Recovered { last_lsn, tips: Vec::new(), batches, lost: Vec::new() };
        let mut node = Node::recovered(at, Arc::clone(&self.config), recovered);
        for peer in (0..4).map(ReplicaId).filter(|peer| *peer != at && self.is_away(*peer)) {
            node.disconnect(peer);
        }
        self.machines[at.index()].node = Some(node);
        self.join(at);
    }
}

fn replica(word: &str) -> ReplicaId {
    ReplicaId(word.strip_prefix('r').and_then(|number| number.parse().ok()).expect("a replica"))
}

fn number(word: &str) -> u64 {
    word.parse().expect("a number")
}

/// `a@3`: a chain and a number in it.
fn place(word: &str) -> (&str, usize) {
    let (name, number) = word.split_once('@').expect("a place in a chain");
    (name, number.parse().expect("a number"))
}
