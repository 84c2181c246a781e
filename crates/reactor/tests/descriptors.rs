//! File descriptors of the process: none leaks, and running out of them is survived. The tests change or count what
//! belongs to the whole process, so they take turns and have a file of their own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use quorate_reactor::{Chunk, Event, ReactorError, Signal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{loopback, pair, reactor, run};

static TURN: Mutex<()> = Mutex::new(());

fn open_descriptors() -> usize {
    // The directory that is being read counts itself each time alike.
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_dropped_reactor_leaves_no_descriptor_and_no_memory() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = open_descriptors();
    let owner = std::sync::Arc::new(vec![1u8; 32 << 20]);
    for round in 0..20 {
        let mut reactor = reactor();
        reactor.watch_signals(&[Signal::User1]).unwrap();
        let pairs: Vec<_> = (0..10).map(|_| pair(&mut reactor)).collect();
        for (_, client, server) in &pairs {
            reactor.send_shared(*client, Chunk::from_arc(std::sync::Arc::clone(&owner)));
            reactor.send(*server, b"something small");
        }
        let _half_open = reactor.connect("192.0.2.1:9".parse().unwrap()).unwrap();
        // On every other round everything is in flight, else it is only queued.
        if round % 2 == 0 {
            reactor.wait(Some(Instant::now())).unwrap();
        }
        let (_, address) = reactor.listen(loopback(), false).unwrap();
        reactor.wait(Some(Instant::now())).unwrap();
        // Accepted by the kernel, perhaps; never seen by the reactor's caller.
        let _unseen = TcpStream::connect(address).unwrap();
        if round % 3 == 0 {
            reactor.close(pairs[0].1);
        }
        let started = Instant::now();
        drop(reactor);
        assert!(started.elapsed() < support::PATIENCE, "the kernel did not let go");
        assert_eq!(std::sync::Arc::strong_count(&owner), 1);
    }
    assert_eq!(open_descriptors(), before);
}

#[test]
fn closed_connections_give_their_descriptors_back() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut reactor = reactor();
    let before = open_descriptors();
    for round in 0..50 {
        let (listener, client, server) = pair(&mut reactor);
        reactor.send(client, &[0; 5_000_000]);
        reactor.wait(Some(Instant::now())).unwrap();
        reactor.close(if round % 2 == 0 { client } else { server });
        reactor.stop_listening(listener);
        let mut ends = 0;
        run(&mut reactor, |_, event| {
            ends += usize::from(matches!(event, Some(Event::Closed { .. })));
            ends == 2
        });
    }
    // The last answers of the kernel may still be on their way.
    run(&mut reactor, |reactor, _| {
        reactor.wait(Some(Instant::now())).unwrap();
        open_descriptors() == before
    });
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut reactor = reactor();
    // The accept takes the limit of the moment when it is submitted, which is the first wait below.
    let (_, address) = reactor.listen(loopback(), false).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    let limit = getrlimit(Resource::Nofile);
    let highest = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u64>().ok())
        .max()
        .unwrap();
    // Fill the gaps below the highest number, so that the new limit leaves none.
    let fillers: Vec<_> = std::iter::from_fn(|| {
        let filler = std::fs::File::open("/dev/null").unwrap();
        let number = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&filler)).unwrap();
        (number <= highest).then_some(filler)
    })
    .collect();
    let second = TcpStream::connect(address).unwrap();
    let used = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&second)).unwrap() + 1;
    setrlimit(Resource::Nofile, Rlimit { current: Some(used), maximum: limit.maximum }).unwrap();
    run(&mut reactor, |reactor, _| reactor.counters().accept_failures > 0);
    let refused = reactor.connect(address);
    assert!(matches!(refused, Err(ReactorError::Connect { .. })), "{refused:?}");
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("limit of open files"), "{message}");
    setrlimit(Resource::Nofile, limit).unwrap();
    run(&mut reactor, |reactor, _| reactor.counters().accepted == 2);
    drop((stream, second, fillers));
}
