//! One replica's lanes with the outputs that they made, and everything that an origin or a liar may send them.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use quorate_lanes::{Batch, Destination, Lanes, Output, Recovered, Reject, Sender};
use quorate_types::{
    BundleNumber, ClusterConfig, Condition, Digest, JournalId, KeyIndex, LaneId, LaneNumber, LaneUpdate,
    LinkId, Lsn, Mark, Nanoseconds, Operation, ReplicaId, Support, Tuning, Why,
};
use quorate_wire::message::{AskLanes, FetchBatches, LaneAcks, Message, encode_fetched_batches};
use quorate_wire::{
    BatchHead, BatchView, BundleView, Claims, Frame, Kind, LaneTip, Verdict, batch, bundle, testing,
};
use std::sync::Arc;

pub(crate) const LINK: LinkId = LinkId(0);
pub(crate) const JOURNAL: JournalId = JournalId(1);
pub(crate) const START: Nanoseconds = Nanoseconds::from_millis(1_000_000);
pub(crate) const R0: ReplicaId = ReplicaId(0);
pub(crate) const R1: ReplicaId = ReplicaId(1);
pub(crate) const R2: ReplicaId = ReplicaId(2);
pub(crate) const R3: ReplicaId = ReplicaId(3);

pub(crate) fn lane_of(origin: ReplicaId) -> LaneId {
    LaneId { origin, link: LINK }
}

pub(crate) fn config(tune: impl FnOnce(&mut Tuning)) -> Arc<ClusterConfig> {
    let mut tuning = Tuning::default();
    tune(&mut tuning);
    Arc::new(testing::config_with_links(4, 1).with_tuning(tuning))
}

/// A journal with these batches, from position 1 on, and executed tips in the state.
pub(crate) fn journal<'a>(frames: impl IntoIterator<Item = &'a Frame>, tips: &[LaneTip]) -> Recovered {
    let batches: Vec<(Lsn, Frame, Why)> = (1..)
        .map(Lsn)
        .zip(frames.into_iter().cloned())
        .map(|(lsn, frame)| (lsn, frame, Why::OwnLink))
        .collect();
    Recovered { last_lsn: Lsn(batches.len() as u64), tips: tips.to_vec(), batches, lost: Vec::new() }
}

/// A position as an index into a [`Chain`].
pub(crate) fn index(number: LaneNumber) -> usize {
    usize::try_from(number.0).expect("a small number")
}

/// A bundle of the first client with a value of `bytes` bytes.
pub(crate) fn bundle_of(config: &ClusterConfig, number: u64, bytes: usize) -> Vec<u8> {
    let key = testing::client_key();
    let session = testing::SESSION;
    let (key_bytes, value) = (number.to_le_bytes().to_vec(), vec![7; bytes]);
    let set = Operation::Set { key: key_bytes, value, condition: Condition::Always };
    let mut out = Vec::new();
    bundle::write(&mut out, config, &key, session, BundleNumber(number), &vec![set]);
    out
}

/// The first client by one of its connections.
pub(crate) fn sender(owner: u64) -> Sender {
    Sender { owner, key: KeyIndex(0) }
}

/// The verdict on the signature of a bundle.
pub(crate) fn verdict(config: &ClusterConfig, bundle: &[u8]) -> Verdict {
    let mut claims = Claims::new(config);
    claims.add_bundle(&BundleView::parse(bundle).expect("a bundle").head);
    claims.verdicts().next().expect("one verdict for one claim")
}

/// Batches that one origin chains, each on the one before.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) lane: LaneId,
    pub(crate) frames: Vec<Frame>,
    pub(crate) tips: Vec<LaneTip>,
}

impl Chain {
    /// `count` batches of one small bundle; `salt` tells the chains of an equivocating origin apart.
    pub(crate) fn new(config: &ClusterConfig, origin: ReplicaId, count: u64, salt: u64) -> Self {
        let lane = lane_of(origin);
        let start = LaneTip { lane, upto: LaneNumber(0), chain: Digest::ZERO };
        Self { lane, frames: Vec::new(), tips: vec![start] }.grown(config, count, salt, 16)
    }

    /// The same chain with more batches.
    pub(crate) fn grown(mut self, config: &ClusterConfig, count: u64, salt: u64, bytes: usize) -> Self {
        for _ in 0..count {
            let tip = self.tip();
            let content = bundle_of(config, 1000 * salt + tip.upto.0, bytes);
            self.push(config, &[content]);
        }
        self
    }

    /// The first `count` batches.
    pub(crate) fn upto(&self, count: usize) -> Self {
        Self { lane: self.lane, frames: self.frames[..count].to_vec(), tips: self.tips[..=count].to_vec() }
    }

    pub(crate) fn push(&mut self, config: &ClusterConfig, bundles: &[Vec<u8>]) {
        let tip = self.tip();
        let head = BatchHead { lane: self.lane, number: tip.upto.next(), previous: tip.chain };
        let frame = batch_frame(&head, bundles);
        let checked = Batch::check(config, frame.clone()).expect("a batch of well-formed bundles");
        self.tips.push(checked.tip());
        self.frames.push(frame);
    }

    pub(crate) fn tip(&self) -> LaneTip {
        self.tips[self.tips.len() - 1]
    }

    pub(crate) fn frame(&self, number: usize) -> &Frame {
        &self.frames[number - 1]
    }

    /// An answer to a fetch: the batches `from` down to `to`.
    pub(crate) fn answer(&self, from: usize, to: usize) -> Frame {
        let payloads = (to..=from).rev().map(|number| self.frame(number).payload());
        encode_fetched_batches(&self.tips[from], payloads)
    }

    /// An answer to a question that was asked, and that begins elsewhere.
    pub(crate) fn answer_to(&self, asked: &FetchBatches, from: usize, to: usize) -> Frame {
        let payloads = (to..=from).rev().map(|number| self.frame(number).payload());
        let tip = LaneTip { lane: self.lane, upto: asked.upto, chain: asked.chain };
        encode_fetched_batches(&tip, payloads)
    }
}

pub(crate) fn batch_frame(head: &BatchHead, bundles: &[Vec<u8>]) -> Frame {
    Frame::encode(Kind::Batch, |out| {
        batch::write_head(out, head, bundles.len());
        bundles.iter().for_each(|bundle| batch::write_bundle(out, bundle));
    })
}

/// The lanes of one replica.
pub(crate) struct Node {
    pub(crate) config: Arc<ClusterConfig>,
    pub(crate) lanes: Lanes,
    pub(crate) me: ReplicaId,
    pub(crate) now: Nanoseconds,
    /// What was put out since it was last taken.
    pub(crate) out: Vec<Output>,
    /// The number of the bundle that was admitted last.
    pub(crate) next_bundle: u64,
    /// The verdict on all signatures, where none is worth checking.
    pub(crate) trusted: Option<Verdict>,
    /// How many signatures were checked together the last time.
    pub(crate) checked: usize,
}

impl Node {
    /// A replica of four with all others connected, whose first tick is over.
    pub(crate) fn new(me: ReplicaId) -> Self {
        Self::with(me, |_| ())
    }

    pub(crate) fn with(me: ReplicaId, tune: impl FnOnce(&mut Tuning)) -> Self {
        let config = config(tune);
        let lanes = Lanes::new(Arc::clone(&config), me, &[LINK], JOURNAL);
        let (out, next_bundle, trusted, checked) = (Vec::new(), 0, None, 0);
        let mut node = Self { config, lanes, me, now: START, out, next_bundle, trusted, checked };
        for peer in node.peers() {
            node.lanes.on_connected(peer, LINK);
        }
        node.tick();
        node.out.clear();
        node
    }

    /// A replica that was restarted, with all others connected, before its first tick.
    pub(crate) fn recovered(me: ReplicaId, config: Arc<ClusterConfig>, recovered: Recovered) -> Self {
        let lanes = Lanes::recover(Arc::clone(&config), me, &[LINK], JOURNAL, recovered);
        let (out, next_bundle, trusted, checked) = (Vec::new(), 0, None, 0);
        let mut node = Self { config, lanes, me, now: START, out, next_bundle, trusted, checked };
        for peer in node.peers() {
            node.lanes.on_connected(peer, LINK);
        }
        node
    }

    pub(crate) fn peers(&self) -> Vec<ReplicaId> {
        self.config.replica_ids().filter(|id| *id != self.me).collect()
    }

    /// Admits a bundle of owner 1.
    pub(crate) fn admit(&mut self, bytes: usize) -> bool {
        self.next_bundle += 1;
        let bundle = bundle_of(&self.config, self.next_bundle, bytes);
        self.lanes.admit(LINK, sender(1), &BundleView::parse(&bundle).expect("a bundle"), 1000)
    }

    /// Has the signatures checked that came since the last time.
    fn check(&mut self) {
        let mut claims = Claims::new(&self.config);
        self.lanes.claim(&mut claims);
        self.checked = claims.len();
        if let Some(trusted) = self.trusted {
            return self.lanes.settle(&mut vec![trusted; claims.len()].into_iter(), &mut self.out);
        }
        let mut verdicts = claims.verdicts();
        self.lanes.settle(&mut verdicts, &mut self.out);
        assert!(verdicts.next().is_none(), "each verdict was asked for by somebody");
    }

    pub(crate) fn tick(&mut self) {
        self.check();
        self.lanes.on_tick_end(self.now, &mut self.out);
    }

    /// Lets the retransmission timer pass, `times` times.
    pub(crate) fn wait(&mut self, times: u64) {
        for _ in 0..times {
            self.now = self.now.plus(self.config.tuning().retransmit.0);
            self.tick();
        }
    }

    pub(crate) fn batch(&mut self, frame: &Frame) -> Result<(), Reject> {
        let from = ReplicaId(frame.payload()[0]);
        self.lanes.on_batch(from, LINK, frame.as_frame_ref(), &mut self.out)
    }

    pub(crate) fn receive(&mut self, chain: &Chain, numbers: std::ops::RangeInclusive<usize>) {
        for number in numbers {
            self.batch(chain.frame(number)).expect("a batch that continues its lane");
        }
    }

    pub(crate) fn ack(&mut self, from: ReplicaId, tip: LaneTip) {
        self.acks(from, false, vec![tip]);
    }

    pub(crate) fn acks(&mut self, from: ReplicaId, full: bool, tips: Vec<LaneTip>) {
        self.lanes.on_acks(from, LINK, &LaneAcks { full, tips }).expect("lanes of this link");
    }

    pub(crate) fn want(&mut self, tip: LaneTip) {
        self.lanes.want(self.now, tip, &mut self.out);
    }

    pub(crate) fn want_proposed(&mut self, tip: LaneTip, primary: ReplicaId) {
        self.lanes.want_proposed(self.now, tip, Mark::default(), primary, &mut self.out);
    }

    pub(crate) fn disconnect(&mut self, peer: ReplicaId) {
        self.lanes.on_disconnected(self.now, peer, LINK);
    }

    pub(crate) fn fetched(&mut self, from: ReplicaId, frame: &Frame) -> Result<(), Reject> {
        self.lanes.on_fetched(self.now, from, LINK, frame.as_frame_ref(), &mut self.out)
    }

    /// Asks as `from` and returns the numbers of the batches in the answer.
    pub(crate) fn asked(&mut self, from: ReplicaId, tip: LaneTip, above: u64) -> Vec<u64> {
        let (lane, upto, chain) = (tip.lane, tip.upto, tip.chain);
        let question = FetchBatches { lane, upto, chain, above: LaneNumber(above) };
        self.lanes.on_fetch(from, LINK, &question).expect("a lane of this link");
        self.take();
        self.tick();
        let mut answers = self.take().answers();
        assert_eq!(answers.len(), 1, "one answer");
        let (to, numbers) = answers.remove(0);
        assert_eq!(to, from);
        numbers
    }

    pub(crate) fn take(&mut self) -> Outputs {
        self.check();
        let mut out = std::mem::take(&mut self.out);
        // Connections take all at once here.
        for output in out.extract_if(.., |output| matches!(output, Output::Answered { .. })) {
            let Output::Answered { to, link } = output else { unreachable!() };
            self.lanes.on_taken(to, link);
        }
        Outputs(out)
    }
}

/// What was put out, to be looked at.
pub(crate) struct Outputs(pub(crate) Vec<Output>);

impl Outputs {
    /// Frames of one kind: to whom, the frame, and what must be durable first.
    pub(crate) fn sent(&self, kind: Kind) -> Vec<(Destination, Frame, Option<Lsn>)> {
        let of_kind = |output: &Output| match output {
            Output::Send { to, frame, after, .. } if frame.kind() == kind => {
                Some((*to, frame.clone(), *after))
            }
            _ => None,
        };
        self.0.iter().filter_map(of_kind).collect()
    }

    /// Batches sent to all: number and number of bundles.
    pub(crate) fn broadcasts(&self) -> Vec<(u64, usize)> {
        let view = |frame: &Frame| {
            let view = BatchView::parse(frame.payload()).expect("an own batch");
            (view.head.number.0, view.bundles.len())
        };
        let all = self.sent(Kind::Batch).into_iter().filter(|(to, ..)| *to == Destination::Others);
        all.map(|(_, frame, _)| view(&frame)).collect()
    }

    /// Batches sent again to one peer.
    pub(crate) fn resent(&self, peer: ReplicaId) -> Vec<u64> {
        let to_peer = self.sent(Kind::Batch).into_iter().filter(|(to, ..)| *to == Destination::One(peer));
        to_peer.map(|(_, frame, _)| batch::parse_head(frame.payload()).expect("a batch").number.0).collect()
    }

    /// Acknowledgements to all with what must be durable first.
    pub(crate) fn acknowledgements(&self) -> Vec<(LaneTip, Lsn)> {
        let tips = |output: &Output| match output {
            Output::Acknowledge { acks, after, .. } => acks.tips.iter().map(|tip| (*tip, *after)).collect(),
            _ => Vec::new(),
        };
        self.0.iter().flat_map(tips).collect()
    }

    /// Full acknowledgements: to whom, of one lane, with what must be durable first.
    pub(crate) fn frontiers(&self, lane: LaneId) -> Vec<(ReplicaId, u64, Option<Lsn>)> {
        let of_lane = |(to, frame, after): (Destination, Frame, Option<Lsn>)| {
            let Destination::One(peer) = to else { panic!("a frontier for all") };
            let acks = LaneAcks::decode(frame.payload()).expect("own acknowledgements");
            let highest = acks.tips.iter().filter(|tip| tip.lane == lane).map(|tip| tip.upto.0).max();
            assert!(acks.full);
            (peer, highest.expect("all lanes"), after)
        };
        self.sent(Kind::LaneAcks).into_iter().map(of_lane).collect()
    }

    pub(crate) fn questions(&self) -> Vec<(ReplicaId, FetchBatches)> {
        let question = |(to, frame, _): (Destination, Frame, Option<Lsn>)| match to {
            Destination::One(peer) => (peer, FetchBatches::decode(frame.payload()).expect("a question")),
            Destination::Others => panic!("a question for all"),
        };
        self.sent(Kind::FetchBatches).into_iter().map(question).collect()
    }

    /// The one question that was asked.
    pub(crate) fn question(&self) -> (ReplicaId, FetchBatches) {
        let questions = self.questions();
        assert_eq!(questions.len(), 1, "one question: {questions:?}");
        questions[0].clone()
    }

    /// Answers to fetches: to whom, and the numbers in them.
    pub(crate) fn answers(&self) -> Vec<(ReplicaId, Vec<u64>)> {
        let answer = |(to, frame, _): (Destination, Frame, Option<Lsn>)| {
            let Destination::One(peer) = to else { panic!("an answer for all") };
            let (_, payloads) =
                quorate_wire::message::decode_fetched_batches(frame.payload()).expect("an own answer");
            let number = |payload: &&[u8]| batch::parse_head(payload).expect("a batch").number.0;
            (peer, payloads.iter().map(number).collect())
        };
        self.sent(Kind::FetchedBatches).into_iter().map(answer).collect()
    }

    pub(crate) fn held(&self) -> Vec<Arc<Batch>> {
        let held = |output: &Output| match output {
            Output::Held(batch) => Some(Arc::clone(batch)),
            _ => None,
        };
        self.0.iter().filter_map(held).collect()
    }

    pub(crate) fn held_numbers(&self) -> Vec<u64> {
        self.held().iter().map(|batch| batch.number().0).collect()
    }

    pub(crate) fn unserved(&self) -> Vec<Option<LaneTip>> {
        let of = |output: &Output| match output {
            Output::Unserved { unserved, .. } => Some(*unserved),
            _ => None,
        };
        self.0.iter().filter_map(of).collect()
    }

    pub(crate) fn appended(&self) -> Vec<Lsn> {
        let lsn = |output: &Output| match output {
            Output::Append { lsn, .. } => Some(*lsn),
            _ => None,
        };
        self.0.iter().filter_map(lsn).collect()
    }

    /// The journal positions that are to be read back.
    pub(crate) fn read_back(&self) -> Vec<u64> {
        let lsn = |output: &Output| match output {
            Output::ReadBack { lsn } => Some(lsn.0),
            _ => None,
        };
        self.0.iter().filter_map(lsn).collect()
    }

    pub(crate) fn trims(&self) -> Vec<u64> {
        let upto = |output: &Output| match output {
            Output::Trim { upto } => Some(upto.0),
            _ => None,
        };
        self.0.iter().filter_map(upto).collect()
    }

    pub(crate) fn progress(&self, lane: LaneId) -> Vec<LaneUpdate> {
        let update = |output: &Output| match output {
            Output::Progress(update) if update.lane == lane => Some(update.clone()),
            _ => None,
        };
        self.0.iter().filter_map(update).collect()
    }

    /// The highest numbers that f+1 and q replicas have acknowledged, as far as that was reported; zero is no news.
    pub(crate) fn tips(&self, lane: LaneId) -> Option<(u64, u64)> {
        let reported = self.progress(lane);
        let supported = || reported.iter().flat_map(|update| &update.supported);
        let highest = |wanted: Support| {
            supported()
                .filter(|(support, _)| *support == wanted)
                .map(|(_, mark)| mark.upto.0)
                .max()
                .unwrap_or(0)
        };
        (!reported.is_empty()).then(|| (highest(Support::Weak), highest(Support::Quorum)))
    }

    /// Questions for acknowledgements: to whom, and the tips in them.
    pub(crate) fn asked(&self) -> Vec<(ReplicaId, Vec<LaneTip>)> {
        let question = |(to, frame, _): (Destination, Frame, Option<Lsn>)| match to {
            Destination::One(peer) => (peer, AskLanes::decode(frame.payload()).expect("a question").tips),
            Destination::Others => panic!("a question for all"),
        };
        self.sent(Kind::AskLanes).into_iter().map(question).collect()
    }
}
