//! The lanes of four replicas over a network that loses and delays: whatever happens, once it heals every batch is
//! held everywhere on one chain with a quorum's acknowledgement, and nothing was acknowledged before it was durable.

mod common;

use common::*;
use proptest::prelude::*;
use quorate_lanes::{Destination, Output};
use quorate_types::{LinkId, Lsn, ReplicaId};
use quorate_wire::message::{AskLanes, FetchBatches, LaneAcks, Message};
use quorate_wire::{Frame, Kind};
use std::collections::VecDeque;

/// One replica with its disk.
struct Machine {
    node: Node,
    appended: Lsn,
    durable: Lsn,
    /// Frames that wait for the disk: to whom, and the acknowledgements that are its own too.
    gated: VecDeque<(Lsn, Destination, Frame)>,
}

struct Network {
    machines: Vec<Machine>,
    flights: VecDeque<(ReplicaId, ReplicaId, Frame)>,
}

impl Network {
    fn new(batches_in_flight: u64) -> Self {
        let tune = |tuning: &mut quorate_types::Tuning| {
            tuning.batches_in_flight = batches_in_flight;
            tuning.batch_bytes_full = 2000;
            tuning.fetch_bytes_max = 800;
        };
        let machine = |id| Machine {
            node: Node::with(ReplicaId(id), tune),
            appended: Lsn(0),
            durable: Lsn(0),
            gated: VecDeque::new(),
        };
        Self { machines: (0..4).map(machine).collect(), flights: VecDeque::new() }
    }

    fn tick(&mut self, at: usize) {
        self.machines[at].node.tick();
        self.carry_out(at);
    }

    fn carry_out(&mut self, at: usize) {
        for output in self.machines[at].node.take().0 {
            match output {
                Output::Append { lsn, .. } => {
                    let machine = &mut self.machines[at];
                    assert_eq!(lsn, machine.appended.next(), "records of a journal are consecutive");
                    machine.appended = lsn;
                }
                Output::Send { to, frame, after, .. } => self.send(at, to, frame, after.unwrap_or_default()),
                Output::Acknowledge { acks, after, .. } => {
                    self.send(at, Destination::Others, acks.encode(), after);
                    self.send(at, Destination::One(self.machines[at].node.me), acks.encode(), after);
                }
                Output::Held(_)
                | Output::Answered { .. }
                | Output::Progress(_)
                | Output::Forged { .. }
                | Output::Stage(_)
                | Output::Waits(_)
                | Output::LetGo(_)
                | Output::Unserved { .. }
                | Output::Trim { .. } => {}
                Output::ReadBack { .. } => unreachable!("everything is in memory"),
            }
        }
    }

    fn send(&mut self, at: usize, to: Destination, frame: Frame, after: Lsn) {
        let machine = &mut self.machines[at];
        if after > machine.durable {
            return machine.gated.push_back((after, to, frame));
        }
        let me = machine.node.me;
        let all = machine.node.peers();
        let to = match to {
            Destination::Others => all,
            Destination::One(peer) => vec![peer],
        };
        self.flights.extend(to.into_iter().map(|peer| (me, peer, frame.clone())));
    }

    fn sync(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        machine.durable = machine.appended;
        for (after, to, frame) in std::mem::take(&mut machine.gated) {
            self.send(at, to, frame, after);
        }
    }

    /// Delivers the flight at `index`; the order of one connection is kept, as TCP keeps it.
    fn deliver(&mut self, index: usize, lost: bool) {
        let Some((from, to, _)) = self.flights.get(index) else { return };
        let pair = (*from, *to);
        let first = self.flights.iter().position(|(from, to, _)| (*from, *to) == pair).unwrap_or(index);
        let Some((from, to, frame)) = self.flights.remove(first) else { return };
        if lost && from != to {
            return;
        }
        let node = &mut self.machines[to.index()].node;
        let (link, now) = (LinkId(0), node.now);
        let result = match frame.kind() {
            Kind::Batch => node.lanes.on_batch(from, link, frame.as_frame_ref(), &mut node.out),
            Kind::LaneAcks => {
                node.lanes.on_acks(from, link, &LaneAcks::decode(frame.payload()).expect("own messages"))
            }
            Kind::AskLanes => {
                node.lanes.on_ask(from, link, AskLanes::decode(frame.payload()).expect("own messages"))
            }
            Kind::FetchBatches => {
                node.lanes.on_fetch(from, link, &FetchBatches::decode(frame.payload()).expect("own messages"))
            }
            _ => node.lanes.on_fetched(now, from, link, frame.as_frame_ref(), &mut node.out),
        };
        let honest = matches!(result, Ok(()) | Err(quorate_lanes::Reject::Gap));
        assert!(honest, "{result:?} among honest replicas");
        self.carry_out(to.index());
    }

    fn settle(&mut self) {
        for round in 0..400 {
            while !self.flights.is_empty() {
                self.deliver(0, false);
            }
            for at in 0..4 {
                self.sync(at);
                self.machines[at].node.now = self.machines[at].node.now.plus(50_000_000);
                self.tick(at);
            }
            if round % 10 == 9 && self.is_settled() {
                return;
            }
        }
        panic!("the lanes do not settle");
    }

    /// Everybody asked for everybody's frontier shows the same tips.
    fn is_settled(&mut self) -> bool {
        let frontiers: Vec<_> = (0..4)
            .map(|at| {
                let node = &mut self.machines[at].node;
                let peer = ReplicaId(if at == 0 { 1 } else { 0 });
                node.lanes.on_connected(peer, LinkId(0));
                node.tick();
                let outputs = node.take();
                let (_, frame, _) = outputs.sent(Kind::LaneAcks).pop().expect("a frontier");
                LaneAcks::decode(frame.payload()).expect("own messages").tips
            })
            .collect();
        frontiers.iter().all(|tips| *tips == frontiers[0])
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit(usize),
    Tick(usize),
    Sync(usize),
    Deliver(prop::sample::Index),
    Lose(prop::sample::Index),
    Wait(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..4).prop_map(Step::Admit),
        4 => (0usize..4).prop_map(Step::Tick),
        2 => (0usize..4).prop_map(Step::Sync),
        8 => any::<prop::sample::Index>().prop_map(Step::Deliver),
        2 => any::<prop::sample::Index>().prop_map(Step::Lose),
        1 => (0usize..4).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lanes_settle_on_one_chain_after_any_loss(
        steps in prop::collection::vec(step(), 1..150),
        batches_in_flight in 1u64..5,
    ) {
        let mut network = Network::new(batches_in_flight);
        let mut admitted = 0;
        for step in steps {
            match step {
                Step::Admit(at) => admitted += usize::from(network.machines[at].node.admit(100)),
                Step::Tick(at) => network.tick(at),
                Step::Sync(at) => network.sync(at),
                Step::Deliver(at) if !network.flights.is_empty() => {
                    network.deliver(at.index(network.flights.len()), false);
                }
                Step::Lose(at) if !network.flights.is_empty() => {
                    network.deliver(at.index(network.flights.len()), true);
                }
                Step::Wait(at) => {
                    let node = &mut network.machines[at].node;
                    node.now = node.now.plus(50_000_000);
                    network.tick(at);
                }
                Step::Deliver(_) | Step::Lose(_) => {}
            }
        }
        network.settle();
        let held = network.machines[0].node.lanes.held_bytes();
        prop_assert_eq!(held == 0, admitted == 0);
        for machine in &network.machines {
            prop_assert_eq!(machine.node.lanes.held_bytes(), held, "nothing is left pending or half fetched");
        }
    }
}
