//! In the steady state nothing is allocated, and a message costs few system calls.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use quorate_reactor::{CountingAllocator, Event, Reactor, allocations};
use support::{pair, reactor, run};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// One test only: the counter is the process's.
#[test]
fn a_warm_ping_pong_does_not_allocate_and_takes_few_enters() {
    const TURNS: u64 = 10_000;
    let mut reactor = reactor();
    let (_, client, server) = pair(&mut reactor);
    let play = |reactor: &mut Reactor| {
        let mut turns = 0;
        reactor.send(client, &[0; 64]);
        run(reactor, |reactor, event| {
            if let Some(Event::Received { connection, buffer }) = event {
                turns += 1;
                if turns < TURNS {
                    reactor.send(if connection == server { server } else { client }, &buffer);
                }
            }
            turns == TURNS
        });
    };
    play(&mut reactor);
    let (allocated, counters) = (allocations(), reactor.counters());
    play(&mut reactor);
    assert_eq!(allocations() - allocated, 0, "allocations in {TURNS} messages");
    let after = reactor.counters();
    let enters = after.enters - counters.enters;
    assert!(enters <= 2 * TURNS + 2, "{enters} enters for {TURNS} messages");
    assert_eq!(after.other_syscalls, counters.other_syscalls);
}
