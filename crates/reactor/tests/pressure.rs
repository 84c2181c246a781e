//! Scarcity: few buffers, few entries, little memory. Nothing is lost and nobody is left out.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use quorate_reactor::{ConnectionId, Event, Reactor, ReactorOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{PATIENCE, loopback, pair, pattern, run};

/// Sends `total` patterned bytes from each of `streams`, a piece from each in turn.
fn flood(address: SocketAddr, streams: usize, total: u64) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut streams: Vec<_> = (0..streams).map(|_| TcpStream::connect(address).unwrap()).collect();
        let bytes: Vec<u8> = (0..total).map(pattern).collect();
        for piece in bytes.chunks(10_000) {
            for stream in &mut streams {
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(piece).unwrap();
            }
        }
    })
}

#[test]
fn with_few_buffers_and_many_connections_nothing_is_lost() {
    const STREAMS: usize = 100;
    const TOTAL: u64 = 200_000;
    let options = ReactorOptions {
        receive_buffers: 4,
        receive_buffer_bytes: 1024,
        submission_entries: 32,
        ..ReactorOptions::default()
    };
    let mut reactor = Reactor::new(&options).unwrap();
    let (_, address) = reactor.listen(loopback(), false).unwrap();
    let peer = flood(address, STREAMS, TOTAL);
    let mut positions: BTreeMap<ConnectionId, u64> = BTreeMap::new();
    let mut ended = 0;
    run(&mut reactor, |_, event| {
        match event {
            Some(Event::Received { connection, buffer }) => {
                let position = positions.entry(connection).or_default();
                for byte in buffer.iter() {
                    assert_eq!(*byte, pattern(*position), "{connection:?} at {position}");
                    *position += 1;
                }
            }
            Some(Event::Closed { .. }) => ended += 1,
            _ => {}
        }
        ended == STREAMS
    });
    peer.join().unwrap();
    assert!(positions.len() == STREAMS && positions.values().all(|position| *position == TOTAL));
    assert!(reactor.counters().buffers_exhausted > 0, "there was no pressure");
}

fn greedy_against_modest(receive_buffers: u16) {
    const TURNS: usize = 200;
    let options = ReactorOptions { receive_buffers, receive_buffer_bytes: 512, ..ReactorOptions::default() };
    let mut reactor = Reactor::new(&options).unwrap();
    let (_, greedy, _) = pair(&mut reactor);
    let (_, modest, server) = pair(&mut reactor);
    let (mut turns, mut greedy_bytes) = (0, 0);
    reactor.send(modest, b"ping");
    run(&mut reactor, |reactor, event| {
        match event {
            Some(Event::Received { connection, buffer }) if connection == server => {
                assert_eq!(&buffer[..], b"ping");
                turns += 1;
                reactor.send(modest, b"ping");
            }
            Some(Event::Received { buffer, .. }) => greedy_bytes += buffer.len(),
            None if reactor.queued_bytes(greedy) < 1 << 20 => reactor.send(greedy, &[0; 1 << 18]),
            _ => {}
        }
        turns == TURNS
    });
    let greedy_buffers = greedy_bytes / 512;
    assert!(greedy_buffers > TURNS / 2, "the other one was busy all the time, yet got {greedy_buffers}");
    // The buffers go round; the slack is for the turns in which the modest one has nothing to say.
    let fair = usize::from(receive_buffers) * 20 * TURNS;
    assert!(greedy_buffers < fair, "{greedy_buffers} buffers for the greedy one in {TURNS} turns");
}

#[test]
fn a_greedy_connection_does_not_starve_a_modest_one() {
    for receive_buffers in [1, 2, 8] {
        greedy_against_modest(receive_buffers);
    }
}

#[test]
fn kept_buffers_stop_the_flow_and_returned_ones_resume_it() {
    let options =
        ReactorOptions { receive_buffers: 2, receive_buffer_bytes: 100, ..ReactorOptions::default() };
    let mut reactor = Reactor::new(&options).unwrap();
    let (_, client, _) = pair(&mut reactor);
    let bytes: Vec<u8> = (0..1000).map(pattern).collect();
    reactor.send(client, &bytes);
    let mut kept = Vec::new();
    run(&mut reactor, |reactor, event| {
        if let Some(Event::Received { buffer, .. }) = event {
            kept.push(buffer);
        }
        reactor.counters().buffers_exhausted > 0
    });
    assert_eq!(kept.len(), 2);
    let mut received: Vec<u8> = kept.iter().flat_map(|buffer| buffer.to_vec()).collect();
    kept.clear();
    run(&mut reactor, |_, event| {
        if let Some(Event::Received { buffer, .. }) = event {
            received.extend_from_slice(&buffer);
        }
        received.len() == bytes.len()
    });
    assert_eq!(received, bytes);
}

#[test]
fn many_sends_through_a_small_submission_queue_all_leave() {
    const PAIRS: usize = 150;
    let options = ReactorOptions { submission_entries: 32, ..ReactorOptions::default() };
    let mut reactor = Reactor::new(&options).unwrap();
    let pairs: Vec<_> = (0..PAIRS).map(|_| pair(&mut reactor)).collect();
    for round in 0..20u8 {
        for (_, client, server) in &pairs {
            reactor.send(*client, &[round]);
            reactor.send(*server, &[round]);
        }
        let mut received = 0;
        run(&mut reactor, |_, event| {
            if let Some(Event::Received { buffer, .. }) = event {
                assert_eq!(&buffer[..], [round]);
                received += 1;
            }
            received == 2 * PAIRS
        });
    }
}

#[test]
fn several_reactors_of_an_unprivileged_user_fit_into_8_mib_of_locked_memory() {
    const REACTORS: usize = 8;
    // Tightens the limit of this process for good, which none of the other tests here minds.
    let limit = getrlimit(Resource::Memlock);
    let current = Some(limit.current.unwrap_or(u64::MAX).min(8 << 20));
    setrlimit(Resource::Memlock, Rlimit { current, maximum: limit.maximum }).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let threads: Vec<_> = (0..REACTORS)
        .map(|_| {
            let sender = sender.clone();
            thread::spawn(move || {
                // Only this thread changes its user; without the capability the limit counts.
                let nobody = rustix::process::Uid::from_raw(65534);
                if rustix::process::getuid().is_root() {
                    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
                }
                let mut reactor = Reactor::new(&ReactorOptions::default()).unwrap();
                sender.send(()).unwrap();
                let (_, client, server) = pair(&mut reactor);
                reactor.send(client, b"works");
                run(&mut reactor, |_, event| {
                    matches!(event, Some(Event::Received { connection, .. }) if connection == server)
                });
                reactor.counters().accepted
            })
        })
        .collect();
    for _ in 0..REACTORS {
        receiver.recv_timeout(PATIENCE).unwrap();
    }
    assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 1));
}

/// Who does not take what comes on one connection leaves it in the kernel, and loses none of it.
#[test]
fn a_paused_connection_takes_no_buffers_from_others_and_goes_on_where_it_stood() {
    // Where buffers are few, receives end for want of them; else a pause has to end them.
    for receive_buffers in [8, 1024] {
        greedy_and_paused(receive_buffers);
    }
}

fn greedy_and_paused(receive_buffers: u16) {
    const TOTAL: u64 = 4_000_000;
    let options = ReactorOptions { receive_buffers, receive_buffer_bytes: 512, ..ReactorOptions::default() };
    let mut reactor = Reactor::new(&options).unwrap();
    let (_, greedy, taken) = pair(&mut reactor);
    let (_, modest, server) = pair(&mut reactor);
    let bytes: Vec<u8> = (0..TOTAL).map(pattern).collect();
    for piece in bytes.chunks(10_000) {
        reactor.send(greedy, piece);
    }
    reactor.send(modest, b"ping");
    let (mut position, mut turns) = (0, 0);
    while position < TOTAL {
        // Pauses come at any time, and so do those that are over before the kernel has heard of them.
        let (upto, turn, at_once) = (position + 70_000, turns, turns % 7 == 0);
        run(&mut reactor, |reactor, event| {
            match event {
                Some(Event::Received { connection, buffer }) if connection == taken => {
                    for byte in buffer.iter() {
                        assert_eq!(*byte, pattern(position), "at {position}");
                        position += 1;
                    }
                }
                Some(Event::Received { connection, .. }) if connection == server => {
                    turns += 1;
                    reactor.send(modest, b"ping");
                }
                _ => {}
            }
            position >= upto.min(TOTAL)
        });
        reactor.pause(taken);
        if at_once {
            reactor.resume(taken);
            continue;
        }
        // What had arrived before, and then nothing.
        let mut last = position;
        run(&mut reactor, |reactor, event| {
            match event {
                Some(Event::Received { connection, buffer }) if connection == taken => {
                    for byte in buffer.iter() {
                        assert_eq!(*byte, pattern(position), "at {position}");
                        position += 1;
                    }
                }
                Some(Event::Received { connection, .. }) if connection == server => {
                    turns += 1;
                    if turns == turn + 30 {
                        last = position;
                    }
                    reactor.send(modest, b"ping");
                }
                Some(Event::Closed { reason, .. }) => panic!("{reason:?}"),
                _ => {}
            }
            turns >= turn + 40
        });
        assert_eq!(position, last, "more has come");
        reactor.resume(taken);
    }
    assert!(turns > 200);
}
