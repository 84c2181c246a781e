//! When a reactor sleeps, what wakes it, and how few system calls that takes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use quorate_reactor::{Event, Reactor, ReactorOptions, Signal, signals};
use support::{PATIENCE, pair, reactor, run};

#[test]
fn an_idle_wait_sleeps_until_its_deadline_in_one_enter() {
    let mut reactor = reactor();
    let _pair = pair(&mut reactor);
    // The receives of the pair are still to be armed.
    reactor.wait(Some(Instant::now())).unwrap();
    assert!(reactor.next_event().is_none());
    let before = reactor.counters();
    let deadline = Instant::now() + Duration::from_millis(100);
    while Instant::now() < deadline {
        reactor.wait(Some(deadline)).unwrap();
        assert!(reactor.next_event().is_none());
    }
    let after = reactor.counters();
    assert!(after.enters - before.enters <= 2, "{} enters in an idle wait", after.enters - before.enters);
    assert_eq!(after.entries_submitted, before.entries_submitted);
}

#[test]
fn a_past_deadline_does_not_sleep_and_needs_no_system_call() {
    let mut reactor = reactor();
    reactor.wait(Some(Instant::now())).unwrap();
    let before = reactor.counters();
    for _ in 0..1000 {
        reactor.wait(Some(Instant::now())).unwrap();
    }
    assert_eq!(reactor.counters(), before);
}

#[test]
fn pending_events_are_not_slept_on() {
    let mut reactor = reactor();
    let (_, client, server) = pair(&mut reactor);
    reactor.close(client);
    reactor.close(server);
    let started = Instant::now();
    reactor.wait(Some(started + PATIENCE)).unwrap();
    assert!(started.elapsed() < PATIENCE / 2);
    assert!(matches!(reactor.next_event(), Some(Event::Closed { .. })));
}

#[test]
fn a_waker_ends_a_wait_without_a_deadline() {
    let mut reactor = reactor();
    let waker = reactor.waker();
    let waking = thread::spawn(move || {
        for _ in 0..10 {
            waker.wake();
        }
        waker
    });
    loop {
        reactor.wait(None).unwrap();
        if let Some(event) = reactor.next_event() {
            assert!(matches!(event, Event::Woken));
            break;
        }
    }
    let waker = waking.join().unwrap();
    // It works again and again, also when it was used before the wait.
    for _ in 0..100 {
        while reactor.next_event().is_some() {}
        waker.wake();
        run(&mut reactor, |_, event| matches!(event, Some(Event::Woken)));
    }
    drop(reactor);
    waker.wake();
}

#[test]
fn a_spinning_reactor_catches_answers_and_still_sleeps_when_there_are_none() {
    let options = ReactorOptions { spin: Duration::from_micros(50), ..ReactorOptions::default() };
    let mut reactor = Reactor::new(&options).unwrap();
    let (_, client, server) = pair(&mut reactor);
    let mut turns = 0;
    reactor.send(client, b"x");
    run(&mut reactor, |reactor, event| {
        if let Some(Event::Received { connection, buffer }) = event {
            let other = if connection == client { server } else { client };
            reactor.send(if turns % 2 == 0 { connection } else { other }, &buffer);
            turns += 1;
        }
        turns == 1000
    });
    assert!(reactor.counters().spins > 0);
    let sleeps = reactor.counters().sleeps;
    let end = Instant::now() + PATIENCE;
    while reactor.counters().sleeps == sleeps {
        assert!(Instant::now() < end, "it spins for ever");
        reactor.wait(Some(Instant::now() + Duration::from_millis(5))).unwrap();
        while reactor.next_event().is_some() {}
    }
}

#[test]
fn watched_signals_arrive_as_events() {
    // Blocked here and in the threads spawned below. The signal is sent to this thread alone, so that the other
    // threads of the test process, where it is not blocked, are not hit.
    signals::block(&[Signal::User1, Signal::Hangup]).unwrap();
    let mut reactor = reactor();
    reactor.watch_signals(&[Signal::User1, Signal::Hangup]).unwrap();
    assert!(reactor.watch_signals(&[Signal::User1]).is_err());
    let target = rustix::thread::gettid().as_raw_nonzero().get();
    let process = rustix::process::getpid().as_raw_nonzero().get();
    for (number, signal) in [(libc::SIGUSR1, Signal::User1), (libc::SIGHUP, Signal::Hangup)] {
        let sender = thread::spawn(move || {
            // SAFETY: tgkill takes three numbers; the thread is alive, it joins this one.
            assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, process, target, number) }, 0);
        });
        run(&mut reactor, |_, event| match event {
            Some(Event::Signal(arrived)) => {
                assert_eq!(arrived, signal);
                true
            }
            _ => false,
        });
        sender.join().unwrap();
    }
}
