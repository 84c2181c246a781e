//! Scenario files: commands in, what happened out. Each file in `tests/scenarios` tells one rule of DESIGN
//! section 4; `UPDATE_EXPECT=1 cargo test -p quorate-consensus --test scenarios` writes what happened into
//! the files. The commands are described in `tests/scenarios/README.md`.

mod cluster;

use cluster::{Cluster, Flight, Floor, Growth, batch_chain};
use quorate_consensus::{Keyring, Outgoing, Voting};
use quorate_types::{
    Digest, Domain, Epoch, JournalId, LaneId, LaneNumber, LinkId, Nanoseconds, ReplicaId, Seq, Signature,
    Tuning, View,
};
use quorate_wire::message::{
    Checkpoint, CheckpointCertificate, Commit, FetchHeaders, FetchedHeaders, NewView, PrePrepare, Prepare,
    Status, Suspect, ViewChange,
};
use quorate_wire::{
    Header, LaneTip, Position, PreparedCertificate, Statement, SuspectReason, ViewChangeSummary, testing,
};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// A round of messages that goes on for ever is a fault of its own.
const ROUNDS_MAX: usize = 200;

#[test]
fn every_scenario_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of scenarios")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut differing = Vec::new();
    for path in files {
        let written = std::fs::read_to_string(&path).expect("a scenario");
        let found = play(&written);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, found).expect("a writable scenario");
        } else if found != written {
            differing.push(format!("{}:\n{}", path.display(), difference(&written, &found)));
        }
    }
    assert!(differing.is_empty(), "UPDATE_EXPECT=1 accepts this:\n{}", differing.join("\n"));
}

/// The first lines that differ.
fn difference(written: &str, found: &str) -> String {
    let (mut left, mut right) = (written.lines(), found.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (None, None) => break,
            (one, other) if one == other => {}
            (one, other) => {
                return format!(
                    "  line {number}: {}\n      found: {}",
                    one.unwrap_or("the end"),
                    other.unwrap_or("the end")
                );
            }
        }
    }
    String::new()
}

/// Plays a scenario and returns it with what happened in place of what was expected.
fn play(text: &str) -> String {
    let mut scene = None;
    let mut result = String::new();
    let mut commands = Vec::new();
    let mut skipping = false;
    for line in text.lines() {
        if skipping && !line.is_empty() {
            continue;
        }
        skipping = false;
        if line == "----" {
            result.push_str("----\n");
            result.push_str(&perform(&mut scene, &commands));
            commands.clear();
            skipping = true;
            continue;
        }
        if !line.is_empty() && !line.starts_with('#') {
            commands.push(line.to_owned());
        }
        result.push_str(line);
        result.push('\n');
    }
    assert!(commands.is_empty(), "commands without ---- after them: {commands:?}");
    result
}

fn perform(scene: &mut Option<Scene>, commands: &[String]) -> String {
    let mut result = String::new();
    for command in commands {
        let mut words = Words::of(command);
        if words.peek() == Some("cluster") {
            words.next();
            let opened = Scene::open(&mut words);
            let quorums = opened.cluster.config.quorums();
            let _ = writeln!(result, "f = {}, q = {}", quorums.faults, quorums.quorum);
            *scene = Some(opened);
            continue;
        }
        let scene = scene.as_mut().expect("`cluster` comes first");
        scene.perform(&mut words);
        assert!(words.peek().is_none(), "{command}: {:?} is not understood", words.rest);
        result.push_str(&scene.tell());
    }
    if result.is_empty() { "nothing happens\n".to_owned() } else { result }
}

/// The words of a command, read from the front.
struct Words<'a> {
    rest: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn of(command: &'a str) -> Self {
        Self { rest: command.split_whitespace().rev().collect() }
    }

    fn peek(&self) -> Option<&'a str> {
        self.rest.last().copied()
    }

    fn next(&mut self) -> &'a str {
        self.rest.pop().expect("one more word")
    }

    /// Takes `word` if it comes next.
    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        if found {
            self.rest.pop();
        }
        found
    }

    /// The word after `name`, if `name` comes next.
    fn after(&mut self, name: &str) -> Option<&'a str> {
        self.take(name).then(|| self.next())
    }

    /// The replicas named next: `r1 r2`.
    fn replicas(&mut self) -> Vec<ReplicaId> {
        let mut found = Vec::new();
        while let Some(replica) = self.peek().and_then(replica) {
            found.push(replica);
            self.next();
        }
        found
    }

    fn replica(&mut self) -> ReplicaId {
        let word = self.next();
        replica(word).unwrap_or_else(|| panic!("{word} is no replica"))
    }

    fn number(&mut self) -> u64 {
        let word = self.next();
        word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
    }
}

fn replica(word: &str) -> Option<ReplicaId> {
    Some(ReplicaId(word.strip_prefix('r')?.parse().ok()?))
}

fn lane(word: &str) -> LaneId {
    let (origin, link) = word.split_once('.').expect("a lane is origin.link");
    LaneId {
        origin: ReplicaId(origin.parse().expect("an origin")),
        link: LinkId(link.parse().expect("a link")),
    }
}

struct Scene {
    cluster: Cluster,
    /// Only commits, refusals and halts are told.
    quiet: bool,
    /// Older checkpoints that stay.
    kept: BTreeMap<ReplicaId, Floor>,
}

impl Scene {
    fn open(words: &mut Words<'_>) -> Self {
        let replicas = u8::try_from(words.number()).expect("a small cluster");
        // A scenario that is not about suspicion has none.
        let mut tuning = Tuning { view_timeout: Nanoseconds::from_millis(60_000), ..Tuning::default() };
        while let Some(word) = words.peek() {
            words.next();
            let value = words.number();
            match word {
                "window" => tuning.window = value,
                "interval" => tuning.checkpoint_interval = value,
                "proposals" => tuning.proposals_max = value,
                "kept" => tuning.headers_kept_max = value,
                "checkpoint" => tuning.checkpoint_bytes = value,
                "timeout" => tuning.view_timeout = Nanoseconds::from_millis(value),
                other => panic!("{other} is no figure"),
            }
        }
        let cluster = Cluster::new(replicas, |figures| *figures = tuning);
        Self { cluster, quiet: false, kept: BTreeMap::new() }
    }

    /// What happened since the last command; what several replicas did alike stands in one line.
    fn tell(&mut self) -> String {
        let mut lines: Vec<(Vec<ReplicaId>, String)> = Vec::new();
        for (id, text) in std::mem::take(&mut self.cluster.log) {
            let dull = text.starts_with("->")
                || ["accepts", "takes", "prepares", "ignores", "holds", "lets go", "trims"]
                    .iter()
                    .any(|word| text.starts_with(word));
            if self.quiet && dull {
                continue;
            }
            match lines.iter_mut().find(|(who, other)| *other == text && !who.contains(&id)) {
                Some((who, _)) => who.push(id),
                None => lines.push((vec![id], text)),
            }
        }
        lines
            .into_iter()
            .map(|(mut who, text)| {
                who.sort_unstable();
                let who: Vec<String> = who.iter().map(|id| format!("r{id}")).collect();
                format!("{} {text}\n", who.join(" "))
            })
            .collect()
    }

    fn perform(&mut self, words: &mut Words<'_>) {
        match words.next() {
            "quiet" => self.quiet = true,
            "loud" => self.quiet = false,
            "batch" => self.batch(words),
            "deliver" => self.deliver(words),
            "run" => self.run(),
            "drop" => drop(self.pick(words)),
            "duplicate" => self.duplicate(words),
            "pool" => self.show_pool(),
            "tick" => self.tick(words),
            "clock" => self.clock(words),
            "disk" => self.disk(words),
            "durable" => self.durable(words),
            "crash" => words.replicas().into_iter().for_each(|id| self.cluster.node_mut(id).crashed = true),
            "execution" => self.execution(words),
            "disconnect" => self.disconnect(words),
            "connect" => self.connect(words),
            "header" => self.header(words),
            "chain" => self.chain(words),
            "propose" => self.propose(words),
            "prepare" => self.prepare(words),
            "commit" => self.commit(words),
            "status" => self.status(words),
            "headers" => self.fetched(words),
            "fetch" => self.fetch(words),
            "checkpoint" => self.checkpoint(words),
            "certificate" => self.certificate(words),
            "root" => self.root(words),
            "keep" => self.keep(words),
            "damage" => self.damage(words),
            "rot" => words.replicas().into_iter().for_each(|id| self.cluster.rot(id)),
            "restart" => self.restart(words),
            "promises" => self.promises(words),
            "install" => self.install(words),
            "suspect" => self.suspect(words),
            "change" => self.change(words),
            "newview" => self.new_view(words),
            "state" => self.state(words),
            "agree" => self.agree(),
            other => panic!("{other} is no command"),
        }
    }

    fn named_or_all(&self, words: &mut Words<'_>) -> Vec<ReplicaId> {
        let named = words.replicas();
        if named.is_empty() { self.cluster.ids() } else { named }
    }

    fn everybody(&mut self) {
        for id in self.cluster.ids() {
            self.cluster.tick(id);
        }
    }

    /// `batch LANE upto K [held by R…] [acked by R…] [bytes B] [journal J] [fork NAME from K]`
    fn batch(&mut self, words: &mut Words<'_>) {
        let lane = lane(words.next());
        assert!(words.take("upto"));
        let upto = words.number();
        let mut growth = Growth {
            holders: self.cluster.ids(),
            ackers: Vec::new(),
            bytes: 100,
            journal: JournalId(1 + lane.link.0),
            fork: None,
        };
        while let Some(word) = words.peek() {
            words.next();
            match word {
                "held" => {
                    assert!(words.take("by"));
                    growth.holders = words.replicas();
                }
                "acked" => {
                    assert!(words.take("by"));
                    growth.ackers = words.replicas();
                }
                "bytes" => growth.bytes = words.number(),
                "fork" => {
                    let name = words.next().to_owned();
                    assert!(words.take("from"));
                    growth.fork = Some((words.number(), name));
                }
                other => panic!("batch … {other}?"),
            }
        }
        self.cluster.grow_lane(lane, upto, &growth);
        self.everybody();
    }

    /// Takes messages from the pool: `[A->B] [KIND] [SLOT]`, `*` for anybody.
    fn pick(&mut self, words: &mut Words<'_>) -> Vec<Flight> {
        let mut wanted: Vec<(Option<ReplicaId>, Option<ReplicaId>)> = Vec::new();
        while let Some((from, to)) = words.peek().and_then(|word| word.split_once("->")) {
            wanted.push((replica(from), replica(to)));
            words.next();
        }
        let text: Vec<&str> = std::iter::from_fn(|| words.rest.pop()).collect();
        let pool = std::mem::take(&mut self.cluster.pool);
        let (picked, left) = pool.into_iter().partition(|flight| {
            let told = self.cluster.describe(&flight.message).to_lowercase();
            let ways = wanted.is_empty()
                || wanted.iter().any(|(from, to)| {
                    from.is_none_or(|from| from == flight.from) && to.is_none_or(|to| to == flight.to)
                });
            ways && text.iter().all(|word| told.split([' ', '.']).any(|other| other == word.to_lowercase()))
        });
        self.cluster.pool = left;
        picked
    }

    fn deliver(&mut self, words: &mut Words<'_>) {
        let picked = self.pick(words);
        self.hand_over(picked);
    }

    fn hand_over(&mut self, flights: Vec<Flight>) {
        for flight in &flights {
            self.cluster.receive(flight.from, flight.to, &flight.message);
        }
        for id in self.cluster.ids() {
            if flights.iter().any(|flight| flight.to == id) {
                self.cluster.tick(id);
            }
        }
    }

    fn run(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.cluster.pool.is_empty() {
                return;
            }
            let flights = std::mem::take(&mut self.cluster.pool);
            self.hand_over(flights);
        }
        panic!("the messages never end");
    }

    fn duplicate(&mut self, words: &mut Words<'_>) {
        let picked = self.pick(words);
        self.cluster.pool.extend(picked.iter().cloned());
        self.cluster.pool.extend(picked);
    }

    fn show_pool(&mut self) {
        let lines: Vec<(ReplicaId, String)> = self
            .cluster
            .pool
            .iter()
            .map(|flight| {
                (flight.from, format!("to r{}: {}", flight.to, self.cluster.describe(&flight.message)))
            })
            .collect();
        self.cluster.log.extend(lines);
    }

    /// `tick [MS] [R…]`: time passes for all; the named ones end a burst.
    fn tick(&mut self, words: &mut Words<'_>) {
        let passed =
            if words.peek().is_some_and(|word| word.parse::<u64>().is_ok()) { words.number() } else { 0 };
        self.cluster.now = self.cluster.now.plus(Nanoseconds::from_millis(passed).0);
        for id in self.named_or_all(words) {
            self.cluster.tick(id);
        }
    }

    fn clock(&mut self, words: &mut Words<'_>) {
        let id = words.replica();
        let skew = words.next();
        self.cluster.node_mut(id).skew_ms = skew.parse().expect("a difference in milliseconds");
    }

    fn disk(&mut self, words: &mut Words<'_>) {
        let slow = match words.next() {
            "slow" => true,
            "fast" => false,
            other => panic!("a disk is slow or fast, not {other}"),
        };
        for id in self.named_or_all(words) {
            self.cluster.node_mut(id).slow = slow;
        }
    }

    fn durable(&mut self, words: &mut Words<'_>) {
        let ids = self.named_or_all(words);
        let journal = words.after("journal").map(|word| JournalId(word.parse().expect("a journal")));
        for id in ids {
            self.cluster.make_durable(id, journal);
        }
    }

    fn execution(&mut self, words: &mut Words<'_>) {
        let runs = match words.next() {
            "runs" => true,
            "stops" => false,
            other => panic!("execution runs or stops, not {other}"),
        };
        for id in self.named_or_all(words) {
            self.cluster.node_mut(id).executes = runs;
            if runs && let Some(position) = self.cluster.node(id).committed.last().copied() {
                self.cluster.execute(id, position);
            }
        }
    }

    fn disconnect(&mut self, words: &mut Words<'_>) {
        let (one, other) = (words.replica(), words.replica());
        self.cluster.with(one, |consensus, _| consensus.on_disconnected(other));
        self.cluster.with(other, |consensus, _| consensus.on_disconnected(one));
    }

    fn connect(&mut self, words: &mut Words<'_>) {
        let (one, other) = (words.replica(), words.replica());
        self.cluster.with(one, |consensus, out| consensus.on_connected(other, out));
        self.cluster.with(other, |consensus, out| consensus.on_connected(one, out));
    }

    /// `header NAME after PARENT [seq S] [epoch E] [time now|parent[+5ms|-1ns]] [cut LANE:K[FORK]…]`
    fn header(&mut self, words: &mut Words<'_>) {
        let name = words.next().to_owned();
        assert!(words.take("after"));
        let parent_name = words.next();
        let parent = self.cluster.position(parent_name);
        let parent_time = self.cluster.headers.get(parent_name).map_or(0, |header| header.timestamp.0);
        let mut header = Header {
            epoch: self.cluster.config.epoch(),
            seq: parent.seq.plus(1),
            parent: parent.digest,
            timestamp: Nanoseconds(self.cluster.now.0.max(parent_time + 1)),
            cut: Vec::new(),
        };
        while let Some(word) = words.peek() {
            words.next();
            match word {
                "seq" => header.seq = Seq(words.number()),
                "epoch" => header.epoch = Epoch(words.number()),
                "time" => header.timestamp = Nanoseconds(self.time(words, parent_time)),
                "cut" => {
                    while words.peek().is_some_and(|word| word.contains(':')) {
                        header.cut.push(tip(words.next()));
                    }
                }
                other => panic!("header … {other}?"),
            }
        }
        self.cluster.name(&name, header);
    }

    fn time(&self, words: &mut Words<'_>, parent: u64) -> u64 {
        let word = words.next();
        let (base, offset) = match (word.strip_prefix("now"), word.strip_prefix("parent")) {
            (Some(offset), _) => (self.cluster.now.0, offset),
            (_, Some(offset)) => (parent, offset),
            _ => panic!("a time from {word}?"),
        };
        if offset.is_empty() {
            return base;
        }
        let (digits, unit) = match offset.strip_suffix("ms") {
            Some(digits) => (digits, 1_000_000),
            None => (offset.strip_suffix("ns").expect("a time ends with ms or ns"), 1),
        };
        base.checked_add_signed(digits.parse::<i64>().expect("a time") * unit).expect("a sane time")
    }

    /// `chain NAME from PARENT length N`: N linked headers NAME1 … NAMEn that nobody proposed.
    fn chain(&mut self, words: &mut Words<'_>) {
        let name = words.next().to_owned();
        assert!(words.take("from"));
        let mut parent = self.cluster.position(words.next());
        assert!(words.take("length"));
        for number in 1..=words.number() {
            let header = Header {
                epoch: self.cluster.config.epoch(),
                seq: parent.seq.plus(1),
                parent: parent.digest,
                timestamp: Nanoseconds(self.cluster.now.0 + number),
                cut: vec![tip(&format!("0.0:{number}{name}"))],
            };
            parent = Position { seq: header.seq, digest: header.digest() };
            self.cluster.name(&format!("{name}{number}"), header);
        }
    }

    /// Who says it: `by R [signed by R]`.
    fn author(&self, words: &mut Words<'_>) -> (ReplicaId, Keyring) {
        assert!(words.take("by"));
        let author = words.replica();
        let signer = if words.take("signed") {
            assert!(words.take("by"));
            words.replica()
        } else {
            author
        };
        let config = Arc::clone(&self.cluster.config);
        (author, Keyring::new(config, signer, testing::replica_key(signer.0)))
    }

    fn view(words: &mut Words<'_>) -> View {
        words.after("view").map_or(View(0), |word| View(word.parse().expect("a view")))
    }

    /// `… to R…`: hands the message over at once.
    fn say(&mut self, from: ReplicaId, message: &Outgoing, words: &mut Words<'_>) {
        assert!(words.take("to"));
        for to in words.replicas() {
            self.cluster.receive(from, to, message);
            self.cluster.tick(to);
        }
    }

    fn header_called(&self, name: &str) -> Header {
        self.cluster.headers.get(name).unwrap_or_else(|| panic!("no header is called {name}")).clone()
    }

    /// `propose HEADER by R [signed by R] [view V] to R…`
    fn propose(&mut self, words: &mut Words<'_>) {
        let header = self.header_called(words.next());
        let (author, keyring) = self.author(words);
        let message = PrePrepare { view: Self::view(words), header, signature: Signature([0; 64]) };
        let message = keyring.sign_pre_prepare(message).into_message();
        self.say(author, &Outgoing::PrePrepare(Arc::new(message)), words);
    }

    /// `prepare HEADER… by R [signed by R] [altered] [view V] to R…`
    fn prepare(&mut self, words: &mut Words<'_>) {
        let mut positions = Vec::new();
        while words.peek() != Some("by") {
            positions.push(self.cluster.position(words.next()));
        }
        let (author, keyring) = self.author(words);
        let altered = words.take("altered");
        let digests = positions.iter().map(|position| position.digest).collect();
        let view = Self::view(words);
        let message = Prepare { view, lo: positions[0].seq, digests, signature: Signature([0; 64]) };
        let mut message = keyring.sign_prepare(message).into_message();
        if altered {
            message.digests[0].0[0] ^= 1;
        }
        self.say(author, &Outgoing::Prepare(Arc::new(message)), words);
    }

    /// `commit HEADER by R [view V] to R…`
    fn commit(&mut self, words: &mut Words<'_>) {
        let position = self.cluster.position(words.next());
        let (author, _) = self.author(words);
        let message = Commit { view: Self::view(words), position };
        self.say(author, &Outgoing::Commit(message), words);
    }

    /// `status by R [accepted H] [prepared H] [committed H] [stable H] [view V] [pending] to R…`
    fn status(&mut self, words: &mut Words<'_>) {
        let (author, _) = self.author(words);
        let genesis = self.cluster.position("genesis");
        let mut position = |name: &str| words.after(name).map(|word| self.cluster.position(word));
        let accepted = position("accepted");
        let prepared = position("prepared");
        let committed = position("committed");
        let stable = position("stable");
        let committed = committed.unwrap_or(genesis);
        let message = Status {
            view: Self::view(words),
            entered: !words.take("pending"),
            stable: stable.unwrap_or(genesis),
            accepted: accepted.unwrap_or(committed),
            prepared: prepared.unwrap_or(committed),
            committed,
            executed: committed,
        };
        self.say(author, &Outgoing::Status(message), words);
    }

    /// `headers [HEADER… | HEADER down to HEADER] by R to R…`
    fn fetched(&mut self, words: &mut Words<'_>) {
        let mut headers = Vec::new();
        while words.peek() != Some("by") {
            if words.take("down") {
                assert!(words.take("to"));
                let last = words.next();
                let stem = last.trim_end_matches(|letter: char| letter.is_ascii_digit());
                let last: u64 = last[stem.len()..].parse().expect("a numbered header");
                let first: &Header = headers.last().expect("a header to start from");
                let lowest = self.header_called(&format!("{stem}{last}")).seq;
                for number in (last..last + first.seq.since(lowest)).rev() {
                    headers.push(self.header_called(&format!("{stem}{number}")));
                }
            } else {
                headers.push(self.header_called(words.next()));
            }
        }
        let (author, _) = self.author(words);
        self.say(author, &Outgoing::FetchedHeaders(FetchedHeaders { headers }), words);
    }

    /// `fetch HEADER above S by R to R…`
    fn fetch(&mut self, words: &mut Words<'_>) {
        let last = self.cluster.position(words.next());
        assert!(words.take("above"));
        let above = Seq(words.number());
        let (author, _) = self.author(words);
        self.say(author, &Outgoing::FetchHeaders(FetchHeaders { last, above }), words);
    }

    fn vote(&self, position: Position, root: &str) -> Checkpoint {
        let next_config = self.cluster.config.digest();
        Checkpoint { position, root: root_called(root, position), next_config, signature: Signature([0; 64]) }
    }

    /// `checkpoint HEADER root ROOT by R [signed by R] to R…`
    fn checkpoint(&mut self, words: &mut Words<'_>) {
        let position = self.cluster.position(words.next());
        let root = words.after("root").expect("a root");
        let (author, keyring) = self.author(words);
        let message = keyring.sign_checkpoint(self.vote(position, root)).into_message();
        self.say(author, &Outgoing::Checkpoint(message), words);
    }

    /// `certificate HEADER root ROOT of R… [altered] by R to R…`
    fn certificate(&mut self, words: &mut Words<'_>) {
        let position = self.cluster.position(words.next());
        let vote = self.vote(position, words.after("root").expect("a root"));
        assert!(words.take("of"));
        let config = &self.cluster.config;
        let signatures = words
            .replicas()
            .into_iter()
            .map(|id| {
                let keyring = Keyring::new(Arc::clone(config), id, testing::replica_key(id.0));
                (id, keyring.sign_checkpoint(vote.clone()).message().signature)
            })
            .collect();
        let Checkpoint { position, mut root, next_config, .. } = vote;
        if words.take("altered") {
            root.0[0] ^= 1;
        }
        let (author, _) = self.author(words);
        let message = CheckpointCertificate { position, root, next_config, signatures };
        self.say(author, &Outgoing::CheckpointCertificate(Arc::new(message)), words);
    }

    /// `root HEADER ROOT at R…`: execution computes this root.
    fn root(&mut self, words: &mut Words<'_>) {
        let position = self.cluster.position(words.next());
        let root = root_called(words.next(), position);
        assert!(words.take("at"));
        for id in words.replicas() {
            self.cluster.with(id, |consensus, out| consensus.on_root(position, root, out));
            self.cluster.tick(id);
        }
    }

    /// `state [R…]`: how far replicas are and what they wait for.
    fn state(&mut self, words: &mut Words<'_>) {
        for id in self.named_or_all(words) {
            let positions = self.cluster.node(id).consensus.positions();
            let slot = |position| self.cluster.describe_position(position);
            let waiting = self.cluster.node(id).consensus.waiting();
            let waiting = if waiting.is_empty() { String::new() } else { format!("; waits: {waiting}") };
            let consensus = &self.cluster.node(id).consensus;
            let view = match (consensus.view(), consensus.has_entered()) {
                (View(0), true) => String::new(),
                (view, true) => format!("in v{view}: "),
                (view, false) => format!("before v{view}: "),
            };
            let text = format!(
                "{view}accepted {} prepared {} committed {} stable {}{waiting}",
                slot(positions.accepted),
                slot(positions.prepared),
                slot(positions.committed),
                slot(positions.stable),
            );
            self.cluster.log.push((id, text));
        }
    }

    /// `keep checkpoint of R…`: the last checkpoint of each stays beside newer ones.
    fn keep(&mut self, words: &mut Words<'_>) {
        assert!(words.take("checkpoint") && words.take("of"));
        for id in words.replicas() {
            let checkpoint = self.cluster.checkpoint(id);
            self.kept.insert(id, checkpoint);
        }
    }

    /// `damage R…`: the last checkpoint of each cannot be read any more; the one that was kept, if any, can.
    fn damage(&mut self, words: &mut Words<'_>) {
        for id in words.replicas() {
            let older = self.kept.get(&id).cloned();
            self.cluster.damage_checkpoint(id, older);
        }
    }

    /// `restart R… [as learner]`: what is not durable is lost.
    fn restart(&mut self, words: &mut Words<'_>) {
        let ids = words.replicas();
        let voting = if words.take("as") {
            assert!(words.take("learner"));
            Voting::Learner
        } else {
            Voting::Voter
        };
        ids.into_iter().for_each(|id| self.cluster.restart(id, voting));
    }

    /// `promises R…`: what replicas are bound by.
    fn promises(&mut self, words: &mut Words<'_>) {
        for id in words.replicas() {
            let text = self.cluster.node(id).consensus.promises();
            self.cluster.log.push((id, text));
        }
    }

    /// `install at R from R`: a state is taken over, as it stands at the last checkpoint of the other.
    fn install(&mut self, words: &mut Words<'_>) {
        assert!(words.take("at"));
        let id = words.replica();
        assert!(words.take("from"));
        let from = words.replica();
        self.cluster.install(id, from);
    }

    /// `suspect V by R [signed by R] to R…`
    fn suspect(&mut self, words: &mut Words<'_>) {
        let view = View(words.number());
        let (author, keyring) = self.author(words);
        let message = wish(&keyring, view);
        self.say(author, &Outgoing::Suspect(message), words);
    }

    fn keyring(&self, id: ReplicaId) -> Keyring {
        Keyring::new(Arc::clone(&self.cluster.config), id, testing::replica_key(id.0))
    }

    /// A certificate `H/V votes R…`, each vote for exactly H unless `range H…` follows: then each is for all these.
    fn certified(&self, words: &mut Words<'_>) -> PreparedCertificate {
        let (position, view) = self.slot_of_view(words.next());
        assert!(words.take("votes"));
        let voters = words.replicas();
        let mut range = vec![position];
        if words.take("range") {
            range.clear();
            while words.peek().is_some_and(|word| self.cluster.headers.contains_key(word)) {
                range.push(self.cluster.position(words.next()));
            }
        }
        let votes = voters.into_iter().map(|voter| {
            let digests = range.iter().map(|position| position.digest).collect();
            let vote = Prepare { view, lo: range[0].seq, digests, signature: Signature([0; 64]) };
            (voter, self.keyring(voter).sign_prepare(vote).into_message())
        });
        PreparedCertificate { view, position, votes: votes.collect() }
    }

    fn slot_of_view(&self, word: &str) -> (Position, View) {
        let (name, view) = word.split_once('/').expect("a slot with its view is H/V");
        (self.cluster.position(name), View(view.parse().expect("a view")))
    }

    fn certificate_of(&self, position: Position, signers: Vec<ReplicaId>) -> CheckpointCertificate {
        let vote = self.vote(position, "right");
        let sign = |id: ReplicaId| (id, self.keyring(id).sign_checkpoint(vote.clone()).message().signature);
        let signatures = signers.into_iter().map(sign).collect();
        CheckpointCertificate { position, root: vote.root, next_config: vote.next_config, signatures }
    }

    /// `change V by R [signed by R] [prepared H/V votes R…] [stable H of R…] [because R…] [proposals H H] to R…`
    fn change(&mut self, words: &mut Words<'_>) {
        let new_view = View(words.number());
        let (author, keyring) = self.author(words);
        let prepared = words.take("prepared").then(|| self.certified(words));
        let stable = words.take("stable").then(|| {
            let position = self.cluster.position(words.next());
            assert!(words.take("of"));
            self.certificate_of(position, words.replicas())
        });
        let because = if words.take("because") { words.replicas() } else { vec![author] };
        let view = new_view.previous();
        let suspects = because.into_iter().map(|id| (id, wish(&self.keyring(id), view))).collect();
        let mut proposals = Vec::new();
        if words.take("proposals") {
            let primary = self.keyring(self.cluster.config.primary(view));
            for _ in 0..2 {
                let header = self.header_called(words.next());
                let message = PrePrepare { view, header, signature: Signature([0; 64]) };
                proposals.push(primary.sign_pre_prepare(message).into_message());
            }
        }
        let signature = Signature([0; 64]);
        let message = ViewChange { new_view, stable, prepared, suspects, proposals, signature };
        let message = keyring.sign_view_change(message).into_message();
        self.say(author, &Outgoing::ViewChange(Arc::new(message)), words);
    }

    /// `newview V from R[=H/V][+H]… [proof H/V votes R…] [stable H of R…] by R [signed by R] to R…`: each summary
    /// with what is prepared and what is stable.
    fn new_view(&mut self, words: &mut Words<'_>) {
        let view = View(words.number());
        assert!(words.take("from"));
        let mut summaries = Vec::new();
        while let Some(word) = words.peek().filter(|word| word.starts_with('r')) {
            words.next();
            let (word, stable) = word.split_once('+').map_or((word, None), |(word, name)| (word, Some(name)));
            let (name, prepared) =
                word.split_once('=').map_or((word, None), |(word, slot)| (word, Some(slot)));
            let signer = replica(name).expect("a replica");
            let genesis = self.cluster.position("genesis");
            let stable = stable.map(|name| self.cluster.position(name));
            let mut summary = ViewChangeSummary {
                stable: stable.unwrap_or(genesis),
                root: stable.map_or(Digest::ZERO, |position| root_called("right", position)),
                prepared: prepared.map(|slot| self.slot_of_view(slot)).map(|(slot, view)| (view, slot)),
                signature: Signature([0; 64]),
            };
            let statement = Statement::view_change(&self.cluster.config, view, &summary);
            summary.signature = statement.sign(&testing::replica_key(signer.0));
            summaries.push((signer, summary));
        }
        let prepared = words.take("proof").then(|| self.certified(words));
        let stable = words.take("stable").then(|| {
            let position = self.cluster.position(words.next());
            assert!(words.take("of"));
            self.certificate_of(position, words.replicas())
        });
        let (author, keyring) = self.author(words);
        let message = NewView { view, summaries, prepared, stable, signature: Signature([0; 64]) };
        let message = keyring.sign_new_view(message).into_message();
        self.say(author, &Outgoing::NewView(Arc::new(message)), words);
    }

    /// Nobody broke a promise so far.
    fn agree(&mut self) {
        assert!(self.cluster.violations.is_empty(), "{:?}", self.cluster.violations);
        for id in self.cluster.ids() {
            self.cluster.log.push((id, "broke no promise".to_owned()));
        }
    }
}

fn wish(keyring: &Keyring, view: View) -> Suspect {
    let message = Suspect { view, reason: SuspectReason::Uncommitted, signature: Signature([0; 64]) };
    keyring.sign_suspect(message).into_message()
}

/// The state root that execution computes after a slot is called `right`; any other name is another root.
fn root_called(name: &str, position: Position) -> Digest {
    match name {
        "right" => Digest::of(Domain::StateRoot, &position.digest.0),
        other => Digest::of(Domain::StateRoot, other.as_bytes()),
    }
}

/// `LANE:K` or `LANE:KFORK`.
fn tip(word: &str) -> LaneTip {
    let (name, number) = word.split_once(':').expect("a tip is lane:number");
    let lane = lane(name);
    let digits = number.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(number.len());
    let upto: u64 = number[..digits].parse().expect("a batch number");
    LaneTip { lane, upto: LaneNumber(upto), chain: batch_chain(lane, upto, &number[digits..]) }
}
