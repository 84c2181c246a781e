//! The network: connections that carry encoded frames as bytes, late, in pieces, or not at all.
//!
//! A stream connection behaves as TCP under a driver that has one send in flight: what comes meanwhile
//! queues up to a budget and leaves as one send; bytes arrive in order or the connection breaks and is
//! dialled again. While a direction is blocked its bytes are held back, as retransmission would. A
//! connection of single frames loses, doubles and reorders them instead.

use crate::event::Event;
use crate::plan::{Carriage, NetworkPlan};
use crate::queue::Queue;
use crate::random::{Random, Stream};
use quorate_replica::Answered;
use quorate_types::{Nanoseconds, limits};
use quorate_wire::{Assembler, DecodeError, Frame};
use std::collections::VecDeque;

/// A connection, counted from 0 in the order of their making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub usize);

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that dials.
    Dialer,
    /// The end that listens.
    Listener,
}

impl Side {
    /// Both ends.
    pub const BOTH: [Self; 2] = [Self::Dialer, Self::Listener];

    /// The other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Listener,
            Self::Listener => Self::Dialer,
        }
    }
}

/// What happens inside the network.
#[derive(Debug)]
pub struct NetworkEvent {
    connection: ConnectionId,
    /// Events of an incarnation that is gone mean nothing.
    incarnation: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Redial,
    Opened(Side),
    Closed(Side),
    /// The oldest bytes in flight to a side arrive.
    Arrived(Side),
    /// A frame that travels by itself arrives at a side.
    Single(Side, Vec<u8>),
    /// What a side sent has left.
    Transmitted(Side),
    /// A side that had nothing queued waits for that to be taken.
    Took(Side, Answered),
    /// What a process that is gone had sent has arrived: the other end hears of it.
    HungUp,
}

/// What an end sees.
#[derive(Debug)]
pub enum Notice {
    /// The connection stands.
    Opened,
    /// The connection is gone.
    Closed,
    /// A frame arrived.
    Frame(Frame),
    /// Frames were dropped and the queue is empty again.
    Drained,
    /// What this end had sent before it asked has left.
    Took(Answered),
    /// The bytes that arrived are no frames, though they were sent as frames.
    Garbled(DecodeError),
}

/// A notice with the end that sees it.
#[derive(Debug)]
pub struct Noticed {
    /// The connection.
    pub connection: ConnectionId,
    /// The end.
    pub side: Side,
    /// What it sees.
    pub notice: Notice,
}

/// The way to one end.
#[derive(Debug)]
struct Direction {
    queue: VecDeque<Frame>,
    queued_bytes: usize,
    transmitting: bool,
    dropped: bool,
    /// What is to be told when what is queued has left, and when what is being transmitted has.
    awaited: [Vec<Answered>; 2],
    flight: VecDeque<Vec<u8>>,
    last_arrival: Nanoseconds,
    assembler: Assembler,
    /// How many faults block it.
    blocks: u32,
    /// Arrivals and a transmission that fell due while it was blocked.
    held_arrivals: usize,
    held_transmission: bool,
}

impl Direction {
    fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            queued_bytes: 0,
            transmitting: false,
            dropped: false,
            awaited: [Vec::new(), Vec::new()],
            flight: VecDeque::new(),
            last_arrival: Nanoseconds(0),
            assembler: Assembler::new(limits::FRAME_BYTES_MAX),
            blocks: 0,
            held_arrivals: 0,
            held_transmission: false,
        }
    }

    /// Loses everything but the blocks, which belong to the path and not to the connection.
    fn reset(&mut self) {
        *self = Self { blocks: self.blocks, ..Self::new() };
    }
}

#[derive(Debug)]
struct Connection {
    incarnation: u64,
    alive: bool,
    single_frames: bool,
    queue_bytes_max: usize,
    /// Whether each side has been told that the connection stands.
    open: [bool; 2],
    /// Whether the process of each side is gone.
    down: [bool; 2],
    opens_at: [Nanoseconds; 2],
    /// The directions, by the side at which they end.
    towards: [Direction; 2],
}

/// All connections.
#[derive(Debug)]
pub struct Network {
    plan: NetworkPlan,
    random: Random,
    connections: Vec<Connection>,
    healed: bool,
}

impl Network {
    /// A network without connections.
    #[must_use]
    pub fn new(seed: u64, plan: NetworkPlan) -> Self {
        Self { plan, random: Random::new(seed, Stream::Network), connections: Vec::new(), healed: false }
    }

    /// Adds a connection between two replicas and dials it.
    pub fn add_peer(&mut self, queue: &mut Queue<Event>) -> ConnectionId {
        let single_frames = self.plan.carriage != Carriage::Stream;
        self.add(single_frames, self.plan.queue_bytes_max, Nanoseconds(0), queue)
    }

    /// Adds a connection from a client to a replica and dials it, not before `from`. Clients always speak over
    /// streams.
    pub fn add_client(&mut self, from: Nanoseconds, queue: &mut Queue<Event>) -> ConnectionId {
        self.add(false, usize::MAX, from, queue)
    }

    fn add(
        &mut self,
        single_frames: bool,
        queue_bytes_max: usize,
        from: Nanoseconds,
        queue: &mut Queue<Event>,
    ) -> ConnectionId {
        let connection = ConnectionId(self.connections.len());
        self.connections.push(Connection {
            incarnation: 0,
            alive: false,
            single_frames,
            queue_bytes_max,
            open: [false; 2],
            down: [false; 2],
            opens_at: [Nanoseconds(0); 2],
            towards: [Direction::new(), Direction::new()],
        });
        let at = from.plus(self.random.below(self.plan.redial_max.0));
        queue.push(at, NetworkEvent { connection, incarnation: 0, what: What::Redial });
        connection
    }

    /// Frames are neither lost nor doubled any more; the caller lifts the blocks.
    pub fn heal(&mut self) {
        self.healed = true;
    }

    /// The bytes that wait in the queues of one connection.
    #[must_use]
    pub fn queued_bytes(&self, connection: ConnectionId) -> usize {
        self.connections[connection.0].towards.iter().map(|direction| direction.queued_bytes).sum()
    }

    /// Sends a frame from one end; without a connection it is lost.
    pub fn send(
        &mut self,
        now: Nanoseconds,
        connection: ConnectionId,
        from: Side,
        frame: Frame,
        queue: &mut Queue<Event>,
    ) {
        let target = &mut self.connections[connection.0];
        if !target.alive || !target.open[from as usize] {
            return;
        }
        if target.single_frames {
            self.send_single(now, connection, from.other(), &frame, queue);
            return;
        }
        let direction = &mut target.towards[from.other() as usize];
        let bytes = frame.bytes().len();
        // A frame above the budget passes alone, or it would never pass.
        if direction.queued_bytes + bytes > target.queue_bytes_max && !direction.queue.is_empty() {
            direction.dropped = true;
            return;
        }
        direction.queued_bytes += bytes;
        direction.queue.push_back(frame);
        if !direction.transmitting {
            self.transmit(now, connection, from.other(), queue);
        }
    }

    /// Has an end told when what it has sent so far has left; without a connection it is not told.
    pub fn await_taken(
        &mut self,
        now: Nanoseconds,
        connection: ConnectionId,
        from: Side,
        answered: Answered,
        queue: &mut Queue<Event>,
    ) {
        let target = &mut self.connections[connection.0];
        if !target.alive || !target.open[from as usize] {
            return;
        }
        let direction = &mut target.towards[from.other() as usize];
        let [queued, transmitted] = &mut direction.awaited;
        if !direction.queue.is_empty() {
            queued.push(answered);
        } else if direction.transmitting {
            transmitted.push(answered);
        } else {
            let incarnation = target.incarnation;
            queue
                .push(now.next(), NetworkEvent { connection, incarnation, what: What::Took(from, answered) });
        }
    }

    fn send_single(
        &mut self,
        now: Nanoseconds,
        connection: ConnectionId,
        to: Side,
        frame: &Frame,
        queue: &mut Queue<Event>,
    ) {
        let Carriage::Single { lost_permille, doubled_permille } = self.plan.carriage else { return };
        let mut copies = 1;
        if !self.healed && self.random.permille(lost_permille) {
            copies = 0;
        } else if !self.healed && self.random.permille(doubled_permille) {
            copies = 2;
        }
        for _ in 0..copies {
            let at = now.plus(self.delay(frame.bytes().len()));
            let at = at.max(self.connections[connection.0].opens_at[to as usize].next());
            let what = What::Single(to, frame.bytes().to_vec());
            let incarnation = self.connections[connection.0].incarnation;
            queue.push(at, NetworkEvent { connection, incarnation, what });
        }
    }

    /// The time that so many bytes travel.
    fn delay(&mut self, bytes: usize) -> u64 {
        let way = self.random.between(self.plan.delay_min.0, self.plan.delay_max.0);
        let way = if self.random.permille(self.plan.straggler_permille) { 20 * way } else { way };
        way + self.transmission(bytes)
    }

    fn transmission(&self, bytes: usize) -> u64 {
        bytes as u64 * 1_000_000 / self.plan.bytes_per_millisecond
    }

    /// Sends everything queued towards `to` as one send, in one piece or several.
    fn transmit(&mut self, now: Nanoseconds, connection: ConnectionId, to: Side, queue: &mut Queue<Event>) {
        let direction = &mut self.connections[connection.0].towards[to as usize];
        let mut bytes = Vec::with_capacity(direction.queued_bytes);
        for frame in direction.queue.drain(..) {
            bytes.extend_from_slice(frame.bytes());
        }
        direction.queued_bytes = 0;
        direction.transmitting = true;
        let [queued, transmitted] = &mut direction.awaited;
        transmitted.append(queued);
        let length = bytes.len();
        let pieces = if self.random.percent(self.plan.cut_percent) { self.random.between(2, 4) } else { 1 };
        let incarnation = self.connections[connection.0].incarnation;
        let mut rest = bytes;
        for piece in (1..=pieces).rev() {
            let after =
                if piece == 1 { Vec::new() } else { rest.split_off(self.random.index(rest.len() + 1)) };
            let at = now.plus(self.delay(rest.len()));
            let target = &mut self.connections[connection.0];
            let opened = target.opens_at[to as usize];
            let direction = &mut target.towards[to as usize];
            let at = at.max(direction.last_arrival.next()).max(opened.next());
            direction.last_arrival = at;
            direction.flight.push_back(rest);
            queue.push(at, NetworkEvent { connection, incarnation, what: What::Arrived(to) });
            rest = after;
        }
        let left = now.plus(self.transmission(length).max(1));
        queue.push(left, NetworkEvent { connection, incarnation, what: What::Transmitted(to.other()) });
    }

    /// Breaks a connection: what is in flight is lost, both ends hear of it, and it is dialled again later.
    pub fn disconnect(&mut self, now: Nanoseconds, connection: ConnectionId, queue: &mut Queue<Event>) {
        let target = &mut self.connections[connection.0];
        if !target.alive {
            return;
        }
        target.alive = false;
        target.incarnation += 1;
        let incarnation = target.incarnation;
        let told = target.open;
        for direction in &mut target.towards {
            direction.reset();
        }
        let mut all_told = now;
        for side in Side::BOTH.into_iter().filter(|side| told[*side as usize]) {
            let at = now.plus(1 + self.random.below(self.plan.delay_max.0));
            all_told = all_told.max(at);
            queue.push(at, NetworkEvent { connection, incarnation, what: What::Closed(side) });
        }
        let redial = self.random.between(self.plan.redial_min.0, self.plan.redial_max.0);
        let at = all_told.plus(redial.max(1));
        queue.push(at, NetworkEvent { connection, incarnation, what: What::Redial });
    }

    /// The process of a side is gone, and with it what it had not sent yet. What it had sent may arrive or not; then
    /// the other side hears of it. Nobody can dial until [`Network::rise`].
    pub fn fall(&mut self, now: Nanoseconds, connection: ConnectionId, side: Side, queue: &mut Queue<Event>) {
        let target = &mut self.connections[connection.0];
        target.down[side as usize] = true;
        // One that does not stand yet at both ends goes at once: a process that runs again is no end of it.
        let stands = target.open == [true; 2];
        target.open[side as usize] = false;
        if !target.alive {
            return;
        }
        let direction = &mut target.towards[side.other() as usize];
        direction.queue.clear();
        direction.queued_bytes = 0;
        direction.dropped = false;
        direction.awaited = [Vec::new(), Vec::new()];
        let arrived = direction.last_arrival;
        if !stands || self.random.percent(50) {
            self.disconnect(now, connection, queue);
            return;
        }
        let incarnation = target.incarnation;
        let at = arrived.max(now).plus(1 + self.random.below(self.plan.delay_max.0));
        queue.push(at, NetworkEvent { connection, incarnation, what: What::HungUp });
    }

    /// The process of a side runs again.
    pub fn rise(&mut self, connection: ConnectionId, side: Side) {
        self.connections[connection.0].down[side as usize] = false;
    }

    /// Lets nothing pass towards a side, until as many calls of [`Network::unblock`] follow.
    pub fn block(&mut self, connection: ConnectionId, to: Side) {
        self.connections[connection.0].towards[to as usize].blocks += 1;
    }

    /// Takes back one [`Network::block`]; what was held back arrives.
    pub fn unblock(
        &mut self,
        now: Nanoseconds,
        connection: ConnectionId,
        to: Side,
        queue: &mut Queue<Event>,
    ) {
        let incarnation = self.connections[connection.0].incarnation;
        let direction = &mut self.connections[connection.0].towards[to as usize];
        assert!(direction.blocks > 0, "a direction is unblocked as often as it is blocked");
        direction.blocks -= 1;
        if direction.blocks > 0 {
            return;
        }
        let held = std::mem::take(&mut direction.held_arrivals);
        let transmission = std::mem::take(&mut direction.held_transmission);
        for _ in 0..held {
            let at = now.plus(self.delay(0));
            queue.push(at, NetworkEvent { connection, incarnation, what: What::Arrived(to) });
        }
        if transmission {
            let what = What::Transmitted(to.other());
            queue.push(now.next(), NetworkEvent { connection, incarnation, what });
        }
    }

    /// Lets an event of the network happen; tells what the ends see of it, in order.
    pub fn handle(
        &mut self,
        now: Nanoseconds,
        event: NetworkEvent,
        queue: &mut Queue<Event>,
        noticed: &mut Vec<Noticed>,
    ) {
        let NetworkEvent { connection, incarnation, what } = event;
        let target = &mut self.connections[connection.0];
        if incarnation != target.incarnation {
            return;
        }
        match what {
            What::Redial => self.redial(now, connection, queue),
            What::Opened(side) => {
                target.open[side as usize] = true;
                noticed.push(Noticed { connection, side, notice: Notice::Opened });
            }
            What::Closed(side) => {
                if std::mem::take(&mut target.open[side as usize]) {
                    noticed.push(Noticed { connection, side, notice: Notice::Closed });
                }
            }
            What::HungUp => self.disconnect(now, connection, queue),
            What::Arrived(side) => self.arrive(connection, side, noticed),
            What::Single(side, bytes) => {
                if target.towards[side as usize].blocks == 0 && target.open[side as usize] {
                    let mut assembler = Assembler::new(limits::FRAME_BYTES_MAX);
                    assemble(&mut assembler, &bytes, connection, side, noticed);
                }
            }
            What::Transmitted(side) => self.transmitted(now, connection, side, queue, noticed),
            What::Took(side, answered) => {
                noticed.push(Noticed { connection, side, notice: Notice::Took(answered) });
            }
        }
    }

    fn redial(&mut self, now: Nanoseconds, connection: ConnectionId, queue: &mut Queue<Event>) {
        let target = &mut self.connections[connection.0];
        let incarnation = target.incarnation;
        if target.towards.iter().any(|direction| direction.blocks > 0) || target.down.contains(&true) {
            let at = now.plus(self.random.between(self.plan.redial_min.0, self.plan.redial_max.0).max(1));
            queue.push(at, NetworkEvent { connection, incarnation, what: What::Redial });
            return;
        }
        target.alive = true;
        for side in Side::BOTH {
            let at = now.plus(self.random.between(self.plan.delay_min.0, self.plan.delay_max.0));
            self.connections[connection.0].opens_at[side as usize] = at;
            queue.push(at, NetworkEvent { connection, incarnation, what: What::Opened(side) });
        }
    }

    fn arrive(&mut self, connection: ConnectionId, side: Side, noticed: &mut Vec<Noticed>) {
        let direction = &mut self.connections[connection.0].towards[side as usize];
        if direction.blocks > 0 {
            direction.held_arrivals += 1;
            return;
        }
        let bytes = direction.flight.pop_front().expect("invariant: one arrival for each piece in flight");
        if !self.connections[connection.0].open[side as usize] {
            return;
        }
        let direction = &mut self.connections[connection.0].towards[side as usize];
        assemble(&mut direction.assembler, &bytes, connection, side, noticed);
    }

    fn transmitted(
        &mut self,
        now: Nanoseconds,
        connection: ConnectionId,
        from: Side,
        queue: &mut Queue<Event>,
        noticed: &mut Vec<Noticed>,
    ) {
        let direction = &mut self.connections[connection.0].towards[from.other() as usize];
        if direction.blocks > 0 {
            direction.held_transmission = true;
            return;
        }
        direction.transmitting = false;
        let took = direction.awaited[1].drain(..);
        noticed.extend(took.map(|answered| Noticed {
            connection,
            side: from,
            notice: Notice::Took(answered),
        }));
        if !direction.queue.is_empty() {
            self.transmit(now, connection, from.other(), queue);
        } else if std::mem::take(&mut direction.dropped) {
            noticed.push(Noticed { connection, side: from, notice: Notice::Drained });
        }
    }
}

fn assemble(
    assembler: &mut Assembler,
    mut bytes: &[u8],
    connection: ConnectionId,
    side: Side,
    noticed: &mut Vec<Noticed>,
) {
    loop {
        let notice = match assembler.next(&mut bytes) {
            Ok(None) => return,
            Ok(Some(frame)) => Notice::Frame(Frame::keep(frame)),
            Err(error) => Notice::Garbled(error),
        };
        let garbled = matches!(notice, Notice::Garbled(_));
        noticed.push(Noticed { connection, side, notice });
        if garbled {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
