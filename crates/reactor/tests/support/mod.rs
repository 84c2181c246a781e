//! What the tests share: a loop with a deadline.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quorate_reactor::{ConnectionId, Event, ListenerId, Reactor, ReactorOptions};

/// No test waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn reactor() -> Reactor {
    Reactor::new(&ReactorOptions::default()).unwrap()
}

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Turns the loop until `done` says so, giving it every event and, between waits, none.
pub(crate) fn run(reactor: &mut Reactor, mut done: impl FnMut(&mut Reactor, Option<Event>) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        while let Some(event) = reactor.next_event() {
            if done(reactor, Some(event)) {
                return;
            }
        }
        if done(reactor, None) {
            return;
        }
        assert!(Instant::now() < end, "nothing came of it; {reactor:?}");
        reactor.wait(Some(end)).unwrap();
    }
}

/// A connection between two ends of one reactor: the listener, the connecting and the accepted end.
pub(crate) fn pair(reactor: &mut Reactor) -> (ListenerId, ConnectionId, ConnectionId) {
    let (listener, address) = reactor.listen(loopback(), false).unwrap();
    let outgoing = reactor.connect(address).unwrap();
    let (mut incoming, mut connected) = (None, false);
    run(reactor, |_, event| {
        match event {
            Some(Event::Accepted { connection, .. }) => incoming = Some(connection),
            Some(Event::Connected { connection }) => connected = connection == outgoing,
            _ => {}
        }
        incoming.is_some() && connected
    });
    (listener, outgoing, incoming.unwrap())
}

/// Bytes that depend on their position, so that a gap or a swap shows.
pub(crate) fn pattern(position: u64) -> u8 {
    u8::try_from((position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) & 0xFF).unwrap()
}
