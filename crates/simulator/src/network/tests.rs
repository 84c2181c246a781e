//! The network carries frames as its plan says: in order or not, whole, late, lost or doubled.

use super::*;
use crate::plan::Plan;
use quorate_wire::Kind;

fn plan(carriage: Carriage) -> NetworkPlan {
    NetworkPlan { carriage, queue_bytes_max: 4096, cut_percent: 50, ..Plan::of(0).network }
}

struct World {
    network: Network,
    queue: Queue<Event>,
    connection: ConnectionId,
    now: Nanoseconds,
    seen: Vec<(Side, String)>,
}

impl World {
    fn new(carriage: Carriage) -> Self {
        let mut network = Network::new(1, plan(carriage));
        let mut queue = Queue::new(1);
        let connection = network.add_peer(&mut queue);
        let mut world = Self { network, queue, connection, now: Nanoseconds(0), seen: Vec::new() };
        world.run();
        world
    }

    fn run(&mut self) {
        while let Some((at, event)) = self.queue.pop() {
            self.now = at;
            let Event::Network(event) = event else { panic!("only the network runs here") };
            let mut noticed = Vec::new();
            self.network.handle(at, event, &mut self.queue, &mut noticed);
            for Noticed { side, notice, .. } in noticed {
                let text = match notice {
                    Notice::Frame(frame) => String::from_utf8(frame.payload().to_vec()).unwrap(),
                    other => format!("{other:?}").to_lowercase(),
                };
                self.seen.push((side, text));
            }
        }
    }

    fn send(&mut self, text: &str) {
        let frame = Frame::encode(Kind::Batch, |out| out.extend_from_slice(text.as_bytes()));
        self.network.send(self.now, self.connection, Side::Dialer, frame, &mut self.queue);
    }

    fn seen_by(&self, side: Side) -> Vec<&str> {
        self.seen.iter().filter(|(seen, _)| *seen == side).map(|(_, text)| text.as_str()).collect()
    }
}

#[test]
fn a_stream_keeps_order_through_blocks_and_cuts() {
    let mut world = World::new(Carriage::Stream);
    world.network.block(world.connection, Side::Listener);
    for number in 0..20 {
        world.send(&number.to_string());
        world.run();
    }
    assert_eq!(world.seen_by(Side::Listener), ["opened"]);
    world.network.unblock(world.now, world.connection, Side::Listener, &mut world.queue);
    world.run();
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(world.seen_by(Side::Listener)[1..], expected);
}

#[test]
fn a_full_queue_drops_and_tells_the_sender_when_it_is_empty() {
    let mut world = World::new(Carriage::Stream);
    world.network.block(world.connection, Side::Listener);
    for _ in 0..5 {
        world.send(&"x".repeat(2000));
    }
    world.network.unblock(world.now, world.connection, Side::Listener, &mut world.queue);
    world.run();
    // One was in flight at once, two fitted into the queue.
    assert_eq!(world.seen_by(Side::Listener).len(), 1 + 3);
    assert_eq!(world.seen_by(Side::Dialer), ["opened", "drained"]);
}

#[test]
fn a_broken_connection_loses_what_is_in_flight_and_comes_back() {
    let mut world = World::new(Carriage::Stream);
    world.send("lost");
    world.network.disconnect(world.now, world.connection, &mut world.queue);
    world.run();
    world.send("kept");
    world.run();
    assert_eq!(world.seen_by(Side::Listener), ["opened", "closed", "opened", "kept"]);
    assert_eq!(world.seen_by(Side::Dialer), ["opened", "closed", "opened"]);
}

#[test]
fn single_frames_are_lost_doubled_and_overtaken_until_healed() {
    let mut world = World::new(Carriage::Single { lost_permille: 200, doubled_permille: 200 });
    for number in 100..200 {
        world.send(&number.to_string());
    }
    world.run();
    let seen = world.seen_by(Side::Listener).split_off(1);
    let distinct: std::collections::BTreeSet<&&str> = seen.iter().collect();
    assert!(distinct.len() < 100, "some are lost");
    assert!(seen.len() > distinct.len(), "some are doubled");
    assert!(!seen.is_sorted(), "some are overtaken");
    world.seen.clear();
    world.network.heal();
    for number in 100..200 {
        world.send(&number.to_string());
    }
    world.run();
    assert_eq!(world.seen.len(), 100);
}
