//! What a liar sends in the place of what its core would.
//!
//! The core of a liar runs as any other, with its key; what leaves it passes its agent, which keeps frames back, changes
//! them, sends them later or adds others. So a liar is believable: whatever it lies about, in all else it takes part. Its
//! core knows nothing of that, and no oracle judges it.

mod acknowledgements;
mod avoid;
mod forks;
mod leave;
mod primary;
mod server;
mod views;
mod votes;

use crate::ledger::Ledger;
use crate::liars::{Habit, Liar};
use crate::plan::Plan;
use crate::random::{Random, Stream};
use avoid::Avoidance;
use forks::Forks;
use leave::Left;
use primary::Named;
use quorate_types::{ClusterConfig, Digest, LaneId, LinkId, Nanoseconds, ReplicaId, SigningKey, View};
use quorate_wire::{Frame, Kind, LaneTip};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use views::Views;

/// Of what a liar has heard of, the newest is lied about.
const KNOWN_MAX: usize = 48;

/// A frame that leaves a liar.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// After how long.
    pub after: Nanoseconds,
    /// To whom.
    pub to: ReplicaId,
    /// Over which link.
    pub link: LinkId,
    /// What.
    pub frame: Frame,
}

/// The agent of one liar.
#[derive(Debug)]
pub struct Agent {
    liar: Liar,
    key: SigningKey,
    config: Arc<ClusterConfig>,
    /// No honest batch is longer.
    batch_bytes_max: usize,
    random: Random,
    /// Tips that were acknowledged or made up.
    known: VecDeque<LaneTip>,
    /// What it has made up, with what comes before each.
    made: BTreeMap<(LaneId, Digest), (LaneTip, Frame)>,
    forks: Forks,
    named: Named,
    views: Views,
    avoidance: Avoidance,
    left: Left,
    /// The view that others lead.
    view: View,
}

impl Agent {
    /// The agent of a liar.
    #[must_use]
    pub fn new(plan: &Plan, liar: Liar, key: SigningKey, config: Arc<ClusterConfig>) -> Self {
        let stream = plan.seed ^ (u64::from(liar.replica.0) << 56);
        Self {
            batch_bytes_max: plan.batch_bytes_max(),
            random: Random::new(stream, Stream::Lies),
            known: VecDeque::new(),
            made: BTreeMap::new(),
            forks: Forks::new(config.members().len()),
            named: Named::default(),
            views: Views::default(),
            avoidance: Avoidance::new(plan, &mut Random::new(stream, Stream::Avoidance)),
            left: Left::new(&mut Random::new(stream, Stream::Leaving)),
            view: View(0),
            liar,
            key,
            config,
        }
    }

    /// What leaves in the place of a frame that its core sends.
    pub fn pass(
        &mut self,
        now: Nanoseconds,
        ledger: &Ledger,
        to: ReplicaId,
        link: LinkId,
        frame: Frame,
    ) -> Vec<Leaving> {
        let keeps_votes = self.liar.has(Habit::KeepsVotes) && now >= self.liar.votes_until;
        match frame.kind() {
            Kind::Batch if self.liar.has(Habit::KeepsBatches) => Vec::new(),
            Kind::Batch if self.liar.has(Habit::PartsLane) => self.part(now, to, link, frame),
            Kind::Batch if self.liar.has(Habit::AvoidsPrimary) => self.avoid(now, to, link, frame),
            Kind::Batch if self.liar.has(Habit::LeavesFork) => self.leave(to, link, frame),
            Kind::Batch => self.show_batch(to, link, frame),
            Kind::LaneAcks => self.say(to, link, frame),
            Kind::FetchedBatches | Kind::FetchedHeaders | Kind::FetchedPages => self.serve(to, link, frame),
            Kind::PrePrepare => vec![at_once(to, link, self.propose(ledger, to, frame))],
            Kind::Prepare | Kind::Commit | Kind::Checkpoint if keeps_votes => Vec::new(),
            Kind::Prepare | Kind::Commit | Kind::Checkpoint if self.liar.has(Habit::ForgesVotes) => {
                self.vote(to, link, frame)
            }
            Kind::Status if self.liar.has(Habit::LiesInStatus) => vec![at_once(to, link, self.claim(frame))],
            Kind::ViewChange if self.liar.has(Habit::LiesInViewChanges) => self.change_view(to, link, frame),
            Kind::NewView if self.liar.has(Habit::LiesInViewChanges) => self.begin_view(to, link, frame),
            _ => vec![at_once(to, link, frame)],
        }
    }

    fn note_known(&mut self, tip: LaneTip) {
        if self.known.contains(&tip) {
            return;
        }
        self.known.push_back(tip);
        if self.known.len() > KNOWN_MAX {
            self.known.pop_front();
        }
    }

    fn note_made(&mut self, tip: LaneTip, before: LaneTip, frame: Frame) {
        self.made.insert((tip.lane, tip.chain), (before, frame));
        self.note_known(tip);
    }
}

fn at_once(to: ReplicaId, link: LinkId, frame: Frame) -> Leaving {
    Leaving { after: Nanoseconds(0), to, link, frame }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{BundleNumber, LaneNumber, Operation};
    use quorate_wire::message::{
        FetchedHeaders, FetchedPages, LaneAcks, Message, NewView, PrePrepare, Prepare, Status, ViewChange,
        decode_fetched_batches, encode_fetched_batches,
    };
    use quorate_wire::{BatchView, Header, PreparedCertificate, Statement, bundle, header, testing};
    use std::collections::BTreeSet;

    const LINK: LinkId = LinkId(0);

    fn agent(habit: Habit) -> Agent {
        let plan = Plan { replicas: 4, links: 1, ..Plan::of(0) };
        let liar = Liar { replica: ReplicaId(0), habits: vec![habit], votes_until: Nanoseconds(5) };
        Agent::new(&plan, liar, testing::replica_key(0), Arc::new(testing::config(4)))
    }

    fn pass(agent: &mut Agent, to: u8, frame: &Frame) -> Vec<Leaving> {
        agent.pass(Nanoseconds(9), &Ledger::default(), ReplicaId(to), LINK, frame.clone())
    }

    /// A chain of batches of the liar's lane, as its core would seal it.
    fn sealed(count: usize) -> Vec<Frame> {
        let lane = LaneId { origin: ReplicaId(0), link: LINK };
        let mut tip = LaneTip { lane, upto: LaneNumber(0), chain: Digest::ZERO };
        let config = testing::config(4);
        let mut batch = |number: u64| {
            let mut bundle = Vec::new();
            let (key, operations) = (testing::client_key(), [Operation::Get { key: vec![7] }].to_vec());
            bundle::write(&mut bundle, &config, &key, testing::SESSION, BundleNumber(number), &operations);
            let (next, frame) = forks::make_batch(&tip, &[&bundle]);
            tip = next;
            frame
        };
        (1..).map(&mut batch).take(count).collect()
    }

    #[test]
    fn one_who_forks_shows_other_batches_of_one_number_each_behind_what_it_names() {
        let mut agent = agent(Habit::ForksLane);
        let mut shown: BTreeSet<(u64, Digest)> = BTreeSet::new();
        let mut known = BTreeSet::from([Digest::ZERO]);
        for frame in sealed(20) {
            for to in 1..4 {
                for leaving in pass(&mut agent, to, &frame) {
                    if leaving.frame.kind() == Kind::Batch {
                        let view = BatchView::parse(leaving.frame.payload()).unwrap();
                        known.insert(view.chain());
                        shown.insert((view.head.number.0, view.chain()));
                    }
                }
            }
        }
        let numbers: BTreeSet<u64> = shown.iter().map(|(number, _)| *number).collect();
        assert!(shown.len() > numbers.len(), "{shown:?}");
        // What it has made can be had of it, by digest.
        let made: Vec<LaneTip> = agent.known.iter().copied().collect();
        let made = made.iter().find(|tip| agent.made.contains_key(&(tip.lane, tip.chain))).unwrap();
        let nothing = encode_fetched_batches(made, std::iter::empty());
        let answer = pass(&mut agent, 1, &nothing).remove(0).frame;
        let (asked, payloads) = decode_fetched_batches(answer.payload()).unwrap();
        assert_eq!((asked, BatchView::parse(payloads[0]).unwrap().chain()), (*made, made.chain));
    }

    #[test]
    fn one_who_leaves_a_fork_shows_it_first_and_not_to_who_leads_and_goes_on_beside_it() {
        // It leads view 0 itself.
        let mut agent = agent(Habit::LeavesFork);
        let batches = sealed(6);
        assert_eq!(pass(&mut agent, 2, &batches[0])[0].frame.bytes(), batches[0].bytes());
        agent.view = View(1);
        let mut long = 0;
        for frame in &batches[1..] {
            let lone = pass(&mut agent, 1, frame);
            assert_eq!((lone.len(), lone[0].frame.bytes()), (1, frame.bytes()));
            let shown = pass(&mut agent, 2, frame);
            let last = shown.last().unwrap();
            assert_eq!(last.frame.bytes(), frame.bytes());
            let Some(acks) = shown.iter().find(|leaving| leaving.frame.kind() == Kind::LaneAcks) else {
                assert_eq!(shown.len(), 1);
                continue;
            };
            let fork = shown.iter().filter(|leaving| leaving.after < last.after);
            let fork: Vec<&Leaving> = fork.filter(|leaving| leaving.frame.kind() == Kind::Batch).collect();
            let view = |frame: &Frame| BatchView::parse(frame.payload()).unwrap().head.number;
            assert_eq!(view(&fork[0].frame), view(frame));
            let tip = LaneAcks::decode(acks.frame.payload()).unwrap().tips[0];
            let end = BatchView::parse(fork.last().unwrap().frame.payload()).unwrap();
            assert_eq!((tip.upto, tip.chain), (end.head.number, end.chain()));
            assert_eq!(lone[0].after, last.after);
            long += 1;
        }
        assert_eq!(long, 1, "one fork is left behind");
    }

    #[test]
    fn a_lying_primary_says_to_one_peer_again_what_it_has_said_and_goes_on_from_there() {
        let mut agent = agent(Habit::NamesAnything);
        let config = testing::config(4);
        sealed(1).iter().for_each(|frame| drop(pass(&mut agent, 1, frame)));
        let mut parents = (header::genesis(config.digest()).digest, header::genesis(config.digest()).digest);
        let (mut differs, mut ledger) = (false, Ledger::default());
        for seq in 1..20 {
            let header = Header {
                epoch: config.epoch(),
                seq: quorate_types::Seq(seq),
                parent: parents.0,
                timestamp: Nanoseconds(seq),
                cut: Vec::new(),
            };
            parents.0 = header.digest();
            let statement = Statement::pre_prepare(&config, View(0), header.seq, &header.digest());
            let signature = statement.sign(&testing::replica_key(0));
            let frame = PrePrepare { view: View(0), header, signature }.encode();
            let mut say = || {
                let now = Nanoseconds(0);
                let said = agent.pass(now, &ledger, ReplicaId(1), LINK, frame.clone()).remove(0).frame;
                PrePrepare::decode(said.payload()).unwrap()
            };
            let said = say();
            assert_eq!(say(), said);
            assert_eq!(said.header.parent, parents.1);
            parents.1 = ledger.note_header(&Arc::new(said.header));
            differs |= parents.0 != parents.1;
        }
        assert!(differs);
    }

    #[test]
    fn one_who_drips_gives_one_of_what_was_asked_for_and_late_and_one_who_forges_gives_others() {
        let batches = sealed(3);
        let lane = LaneId { origin: ReplicaId(0), link: LINK };
        let asked = LaneTip { lane, upto: LaneNumber(3), chain: Digest([7; 32]) };
        let payloads = || batches.iter().rev().map(Frame::payload);
        let answer = encode_fetched_batches(&asked, payloads());
        let dripped = pass(&mut agent(Habit::Drips), 1, &answer).remove(0);
        assert!(dripped.after > Nanoseconds(0));
        let (_, given) = decode_fetched_batches(dripped.frame.payload()).unwrap();
        assert_eq!(given, [batches[2].payload()]);
        let trickled = pass(&mut agent(Habit::Trickles), 1, &answer).remove(0);
        assert_eq!(trickled.frame.bytes(), dripped.frame.bytes());
        // Somebody else is asked after half of four retransmission times.
        assert!(trickled.after < Nanoseconds(2 * testing::config(4).tuning().retransmit.0));
        let header = |seq| Header {
            epoch: testing::config(4).epoch(),
            seq: quorate_types::Seq(seq),
            parent: Digest([3; 32]),
            timestamp: Nanoseconds(seq),
            cut: vec![asked],
        };
        let headers = FetchedHeaders { headers: vec![header(2), header(1)] };
        let pages = FetchedPages {
            request: 4,
            root: Digest([4; 32]),
            top: Some((1, Digest([5; 32]))),
            pages: vec![vec![1, 2], vec![3]],
            values: Vec::new(),
        };
        let mut forger = agent(Habit::Forges);
        for genuine in [answer, headers.encode(), pages.encode()] {
            let given: BTreeSet<Vec<u8>> =
                (0..40).map(|_| pass(&mut forger, 1, &genuine).remove(0).frame.payload().to_vec()).collect();
            assert!(given.len() > 1 && given.contains(genuine.payload()));
        }
    }

    #[test]
    fn what_one_who_lies_in_view_changes_shows_is_signed_and_is_not_the_same_for_all() {
        let config = testing::config(4);
        let change = |id: u8, seq: u64| {
            let position = quorate_wire::Position { seq: quorate_types::Seq(seq), digest: Digest([id; 32]) };
            let prepared = PreparedCertificate { view: View(0), position, votes: Vec::new() };
            ViewChange {
                new_view: View(4),
                stable: None,
                prepared: Some(prepared),
                suspects: Vec::new(),
                proposals: Vec::new(),
                signature: quorate_types::Signature([id; 64]),
            }
        };
        let mut liar = agent(Habit::LiesInViewChanges);
        (1..4).for_each(|id| liar.hear(ReplicaId(id), &change(id, u64::from(id)).encode()));
        let own = change(0, 1).encode();
        let said: Vec<ViewChange> = (0..60)
            .flat_map(|_| pass(&mut liar, 1, &own))
            .map(|said| ViewChange::decode(said.frame.payload()).unwrap())
            .collect();
        let genesis = header::genesis(config.digest());
        for said in said.iter().filter(|said| said.signature != quorate_types::Signature([0; 64])) {
            let statement = Statement::view_change(&config, View(4), &said.summary(genesis));
            assert!(statement.is_signed_by_replica(&config, ReplicaId(0), &said.signature));
        }
        let shown: BTreeSet<Option<u64>> =
            said.iter().map(|said| said.prepared.as_ref().map(|found| found.position.seq.0)).collect();
        assert!(shown.is_superset(&BTreeSet::from([None, Some(1), Some(3)])), "{shown:?}");
        assert!(said.len() < 60, "it says nothing at times");
        let begun = NewView {
            view: View(4),
            summaries: Vec::new(),
            prepared: None,
            stable: None,
            signature: quorate_types::Signature([0; 64]),
        };
        let begun: BTreeSet<Vec<u8>> = (0..60)
            .flat_map(|_| pass(&mut liar, 2, &begun.encode()))
            .map(|said| NewView::decode(said.frame.payload()).unwrap())
            .filter(|said| !said.summaries.is_empty())
            .map(|said| {
                let statement = Statement::new_view(&config, said.view, &said.digest());
                assert!(statement.is_signed_by_replica(&config, ReplicaId(0), &said.signature));
                assert_eq!(said.summaries.len(), config.quorums().quorum);
                said.summaries.iter().map(|(signer, _)| signer.0).collect()
            })
            .collect();
        assert!(begun.len() > 1, "{begun:?}");
    }

    #[test]
    fn one_who_forges_votes_contradicts_itself_and_one_who_lies_in_status_is_anywhere() {
        let vote = Prepare {
            view: View(0),
            lo: quorate_types::Seq(3),
            digests: vec![Digest([3; 32])],
            signature: quorate_types::Signature([0; 64]),
        };
        let mut forger = agent(Habit::ForgesVotes);
        let said: Vec<Leaving> = (0..80).flat_map(|_| pass(&mut forger, 1, &vote.encode())).collect();
        let votes = said.iter().filter(|said| said.frame.kind() == Kind::Prepare);
        let votes: BTreeSet<Vec<u8>> = votes.map(|said| said.frame.payload().to_vec()).collect();
        assert!(votes.len() > 10);
        assert!(said.iter().any(|said| said.frame.kind() == Kind::Suspect));
        let genesis = header::genesis(testing::config(4).digest());
        let status = Status {
            view: View(2),
            entered: true,
            stable: genesis,
            accepted: genesis,
            prepared: genesis,
            committed: genesis,
            executed: genesis,
        };
        let mut liar = agent(Habit::LiesInStatus);
        let said: Vec<Status> = (0..80)
            .map(|_| pass(&mut liar, 1, &status.encode()).remove(0).frame)
            .map(|frame| Status::decode(frame.payload()).unwrap())
            .collect();
        assert!(said.contains(&status));
        assert!(said.iter().any(|said| said.committed.seq > genesis.seq));
        assert!(said.iter().any(|said| said.stable.seq > genesis.seq));
        assert!(said.iter().any(|said| said.view != status.view));
    }

    #[test]
    fn a_liar_about_acknowledgements_says_more_and_less_and_one_who_keeps_votes_says_none() {
        let lane = LaneId { origin: ReplicaId(2), link: LINK };
        let tip = LaneTip { lane, upto: LaneNumber(3), chain: Digest([7; 32]) };
        let frame = LaneAcks { full: false, tips: vec![tip] }.encode();
        let mut liar = agent(Habit::DistortsAcknowledgements);
        let said: BTreeSet<Option<usize>> = (0..40)
            .map(|_| pass(&mut liar, 1, &frame).pop())
            .map(|said| said.map(|said| LaneAcks::decode(said.frame.payload()).unwrap().tips.len()))
            .collect();
        assert!(said.is_superset(&BTreeSet::from([None, Some(0), Some(1), Some(2)])), "{said:?}");
        let commit = quorate_wire::message::Commit { view: View(0), position: Default::default() }.encode();
        let mut mute = agent(Habit::KeepsVotes);
        assert!(pass(&mut mute, 1, &commit).is_empty());
        assert_eq!(pass(&mut mute, 1, &frame).len(), 1);
        assert_eq!(mute.pass(Nanoseconds(1), &Ledger::default(), ReplicaId(1), LINK, commit).len(), 1);
    }
}
