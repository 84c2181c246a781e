//! Mailboxes and doorbells between threads with a reactor each: nothing lost, nothing out of order, nobody left asleep.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use quorate_reactor::{Mailbox, Reactor, ReactorCounters, ReactorOptions, mailbox};
use support::{PATIENCE, reactor};

/// (from, number)
type Message = (usize, u64);

/// Every core sends `messages` to every other core, in bursts, and takes what comes until it has all.
fn exchange(mut mailbox: Mailbox<Message>, messages: u64, burst: u64, spin: Duration) -> ReactorCounters {
    let options = ReactorOptions { spin, receive_buffers: 2, ..ReactorOptions::default() };
    let mut reactor = Reactor::new(&options).unwrap();
    let (core, cores) = (mailbox.core(), mailbox.cores());
    let end = Instant::now() + PATIENCE;
    let mut expected = vec![0; cores];
    expected[core] = messages;
    let mut sent = 0;
    loop {
        while let Some((from, number)) = mailbox.take() {
            assert_eq!(number, expected[from], "core {core} from {from}");
            expected[from] += 1;
        }
        let burst_end = messages.min(sent + burst);
        for number in sent..burst_end {
            for to in (0..cores).filter(|to| *to != core) {
                mailbox.post(to, (core, number));
            }
        }
        sent = burst_end;
        let complete = sent == messages && expected.iter().all(|count| *count == messages);
        let done = complete && mailbox.spilled() == 0;
        // Who still expects messages sleeps until they come, also with a spill. Who has them all has nothing to sleep
        // for: it polls until its spill is gone, and the last wait announces what was posted last.
        let deadline = if complete || sent < messages { Instant::now() } else { end };
        reactor.wait_with(Some(deadline), &mut mailbox).unwrap();
        while reactor.next_event().is_some() {}
        if done {
            return reactor.counters();
        }
        assert!(
            Instant::now() < end,
            "core {core} has {expected:?} of {messages}, {} spilled",
            mailbox.spilled()
        );
    }
}

fn exchange_between(
    cores: usize,
    capacity: usize,
    messages: u64,
    burst: u64,
    spin: Duration,
) -> ReactorCounters {
    let threads: Vec<_> = mailbox::mesh_with_capacity(cores, capacity)
        .into_iter()
        .map(|mailbox| thread::spawn(move || exchange(mailbox, messages, burst, spin)))
        .collect();
    let mut total = ReactorCounters::default();
    for thread in threads {
        let counters = thread.join().unwrap();
        total.doorbells_rung += counters.doorbells_rung;
        total.doorbells_heard += counters.doorbells_heard;
        total.sleeps += counters.sleeps;
    }
    total
}

#[test]
fn nothing_is_lost_or_reordered_between_2_4_and_8_cores() {
    for cores in [2, 4, 8] {
        exchange_between(cores, 1024, 20_000, 100, Duration::ZERO);
    }
}

#[test]
fn full_rings_spill_and_their_senders_are_called_back() {
    for cores in [2, 4, 8] {
        // Bursts far beyond the ring, so that every core depends on being called when there is room.
        exchange_between(cores, 4, 3_000, 1_000, Duration::ZERO);
    }
}

#[test]
fn spinning_cores_lose_nothing_either() {
    exchange_between(2, 16, 20_000, 50, Duration::from_micros(20));
}

/// Two cores throw one message back and forth, each sleeping without a deadline: a lost wake-up hangs the test.
fn ping_pong(message_ring: bool) {
    const TURNS: u64 = 5_000;
    let mailboxes = mailbox::mesh::<u64>(2);
    let players: Vec<_> = mailboxes
        .into_iter()
        .map(|mut mailbox| {
            thread::spawn(move || {
                let mut reactor = reactor();
                let other = 1 - mailbox.core();
                if !message_ring {
                    reactor.use_eventfd_doorbells();
                }
                if mailbox.core() == 0 {
                    mailbox.post(other, 0);
                }
                loop {
                    while let Some(turn) = mailbox.take() {
                        if turn <= TURNS {
                            mailbox.post(other, turn + 1);
                        }
                        if turn >= TURNS {
                            reactor.wait_with(Some(Instant::now()), &mut mailbox).unwrap();
                            return reactor.counters();
                        }
                    }
                    reactor.wait_with(None, &mut mailbox).unwrap();
                    while reactor.next_event().is_some() {}
                }
            })
        })
        .collect();
    let counters: Vec<_> = players.into_iter().map(|player| player.join().unwrap()).collect();
    let rung: u64 = counters.iter().map(|counters| counters.doorbells_rung).sum();
    let heard: u64 = counters.iter().map(|counters| counters.doorbells_heard).sum();
    assert!(rung > 0 && rung <= TURNS + 2, "{rung} rings for {TURNS} turns");
    assert_eq!(heard > 0, message_ring);
}

#[test]
fn a_sleeping_core_is_woken_through_its_ring() {
    ping_pong(true);
}

#[test]
fn a_sleeping_core_is_woken_through_its_eventfd_where_rings_cannot_post() {
    ping_pong(false);
}

#[test]
fn a_message_to_a_core_that_is_gone_harms_nobody() {
    let mut mailboxes = mailbox::mesh::<u64>(2);
    let mut gone = mailboxes.pop().unwrap();
    let mut stays = mailboxes.pop().unwrap();
    let mut reactor = reactor();
    thread::spawn(move || {
        let mut reactor = support::reactor();
        reactor.wait_with(Some(Instant::now()), &mut gone).unwrap();
    })
    .join()
    .unwrap();
    for number in 0..5_000 {
        stays.post(1, number);
        reactor.wait_with(Some(Instant::now()), &mut stays).unwrap();
    }
    assert!(reactor.next_event().is_none());
}
