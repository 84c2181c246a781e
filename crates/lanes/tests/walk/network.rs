//! The network: frames in order on each connection, to whoever is up and not cut off, once what they say is durable.

use super::{Random, World};
use crate::common::*;
use quorate_lanes::Destination;
use quorate_types::{Lsn, ReplicaId};
use quorate_wire::message::{AskLanes, FetchBatches, LaneAcks, Message};
use quorate_wire::{Frame, Kind};

impl World {
    /// The connections of a replica stand anew.
    pub(super) fn connect(&mut self, at: usize) {
        let me = self.machines[at].me;
        self.flights.retain(|(from, to, _)| (*from != me && *to != me) || from == to);
        let peers: Vec<ReplicaId> = self.config.replica_ids().filter(|id| *id != me).collect();
        for peer in peers {
            let reaches = self.reaches(me, peer);
            let both = [(me, peer), (peer, me)];
            for (end, other) in both {
                let Some(at) = self.at(end) else { continue };
                let Some(node) = &mut self.machines[at].node else { continue };
                node.disconnect(other);
                if reaches {
                    node.lanes.on_connected(other, LINK);
                }
            }
        }
    }

    /// All connections stand anew.
    pub(crate) fn reconnect(&mut self) {
        (0..self.machines.len()).for_each(|at| self.connect(at));
    }

    /// Nothing reaches this replica from here on, if it is any.
    pub(crate) fn cut_off(&mut self, at: Option<usize>) {
        let before = std::mem::replace(&mut self.cut_off, at);
        before.into_iter().chain(at).for_each(|at| self.connect(at));
    }

    pub(super) fn send(&mut self, at: usize, to: Destination, frame: Frame, after: Lsn) {
        let machine = &mut self.machines[at];
        if after > machine.disk.durable() {
            return machine.gated.push_back((after, to, frame));
        }
        let me = machine.me;
        if frame.kind() == Kind::LaneAcks {
            let acks = LaneAcks::decode(frame.payload()).expect("own messages");
            acks.tips.iter().for_each(|tip| self.check_durable(at, tip));
        }
        let Some(frame) = self.distort(frame) else { return };
        match to {
            Destination::One(peer) if self.reaches(me, peer) => self.flights.push_back((me, peer, frame)),
            Destination::One(_) => {}
            Destination::Others => {
                let peers = self.config.replica_ids().filter(|id| *id != me && self.reaches(me, *id));
                let peers: Vec<ReplicaId> = peers.collect();
                self.flights.extend(peers.into_iter().map(|peer| (me, peer, frame.clone())));
            }
        }
    }

    pub(crate) fn sync(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(node) = &mut machine.node else { return };
        machine.disk.sync();
        node.lanes.on_durable(node.now, machine.disk.durable(), &mut node.out);
        for (after, to, frame) in std::mem::take(&mut machine.gated) {
            self.send(at, to, frame, after);
        }
        self.carry_out(at);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Delivers a flight; the order of one connection is kept, as TCP keeps it.
    pub(crate) fn deliver(&mut self, index: usize, lost: bool, random: &mut Random) {
        let Some((from, to, _)) = self.flights.get(index) else { return };
        let pair = (*from, *to);
        let first = self.flights.iter().position(|(from, to, _)| (*from, *to) == pair).unwrap_or(index);
        let Some((from, to, frame)) = self.flights.remove(first) else { return };
        if self.liars.contains(&to) {
            return self.ask_liar(from, to, &frame, random);
        }
        if !lost || from == to {
            self.receive(from, to, &frame);
        }
    }

    pub(super) fn receive(&mut self, from: ReplicaId, to: ReplicaId, frame: &Frame) {
        let Some(at) = self.at(to) else { return };
        if !self.reaches(from, to) || self.is_refused(at, frame) {
            return;
        }
        let is_honest = !self.liars.contains(&from);
        let Some(node) = &mut self.machines[at].node else { return };
        let payload = frame.payload();
        let result = match frame.kind() {
            Kind::Batch => node.lanes.on_batch(from, LINK, frame.as_frame_ref(), &mut node.out),
            Kind::LaneAcks => {
                let acks = LaneAcks::decode(payload).expect("acks");
                let result = node.lanes.on_acks(from, LINK, &acks);
                self.note_last(at, from, &acks);
                result
            }
            Kind::AskLanes => node.lanes.on_ask(from, LINK, AskLanes::decode(payload).expect("a question")),
            Kind::FetchBatches => {
                node.lanes.on_fetch(from, LINK, &FetchBatches::decode(payload).expect("a question"))
            }
            _ => node.lanes.on_fetched(node.now, from, LINK, frame.as_frame_ref(), &mut node.out),
        };
        if is_honest && result == Err(quorate_lanes::Reject::FetchMismatch) {
            self.violations.push(format!("r{to} condemns r{from}, which is honest"));
        }
        self.carry_out(at);
    }
}
