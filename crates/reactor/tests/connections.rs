//! Connections over the loopback interface: bytes in order, every end told once, nothing that a late id can break.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use quorate_reactor::{Chunk, CloseReason, ConnectionId, Event, Reactor, ReactorError, ReactorOptions};
use support::{PATIENCE, loopback, pair, pattern, reactor, run};

#[test]
fn an_echo_returns_every_byte() {
    let mut reactor = reactor();
    let (_, client, server) = pair(&mut reactor);
    reactor.send(client, b"hello, ");
    reactor.send(client, b"world");
    let mut answer = Vec::new();
    run(&mut reactor, |reactor, event| {
        if let Some(Event::Received { connection, buffer }) = event {
            if connection == server {
                reactor.send(server, &buffer);
            } else {
                answer.extend_from_slice(&buffer);
            }
        }
        answer.len() == 12
    });
    assert_eq!(answer, b"hello, world");
}

#[test]
fn small_messages_leave_together_and_in_order() {
    const MESSAGES: u32 = 100_000;
    let mut reactor = reactor();
    let (_, client, server) = pair(&mut reactor);
    let mut received: Vec<u8> = Vec::new();
    let mut next = 0;
    run(&mut reactor, |reactor, event| {
        match event {
            Some(Event::Received { connection, buffer }) => {
                assert_eq!(connection, server);
                received.extend_from_slice(&buffer);
            }
            // One tick: a thousand messages of four bytes.
            None => {
                for number in (next..MESSAGES).take(1000) {
                    reactor.send(client, &number.to_le_bytes());
                    next = number + 1;
                }
            }
            Some(_) => {}
        }
        received.len() == MESSAGES as usize * 4
    });
    let numbers = received.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    assert!(numbers.eq(0..MESSAGES));
    let counters = reactor.counters();
    assert!(counters.sends <= 200, "{} sends for {MESSAGES} messages", counters.sends);
    assert!(counters.enters <= 1000, "{} enters for {MESSAGES} messages", counters.enters);
}

#[test]
fn one_chunk_goes_to_all_without_a_copy_and_keeps_its_place() {
    const PEERS: usize = 5;
    let mut reactor = reactor();
    let pairs: Vec<_> = (0..PEERS).map(|_| pair(&mut reactor)).collect();
    let owner = Arc::new((0..50_000).map(pattern).collect::<Vec<u8>>());
    let chunk = Chunk::from_arc(Arc::clone(&owner));
    for (_, client, _) in &pairs {
        reactor.send(*client, b"before");
        reactor.send_shared(*client, chunk.clone());
        reactor.send(*client, b"after");
    }
    assert_eq!(Arc::strong_count(&owner), PEERS + 2);
    let expected = [b"before", owner.as_slice(), b"after"].concat();
    let mut received = vec![Vec::new(); PEERS];
    run(&mut reactor, |_, event| {
        if let Some(Event::Received { connection, buffer }) = event {
            let peer = pairs.iter().position(|(_, _, server)| *server == connection).unwrap();
            received[peer].extend_from_slice(&buffer);
        }
        received.iter().all(|bytes| bytes.len() == expected.len())
    });
    assert!(received.iter().all(|bytes| *bytes == expected));
    run(&mut reactor, |_, _| Arc::strong_count(&owner) == 2);
    assert_eq!(reactor.counters().sends, PEERS as u64, "one send per peer");
}

/// A peer with blocking sockets: reads slowly in odd pieces, then answers with as much.
fn slow_peer(mut stream: TcpStream, total: u64) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 77_777];
    let mut position = 0;
    while position < total {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "ended after {position} bytes");
        for byte in &buffer[..length] {
            assert_eq!(*byte, pattern(position), "at {position}");
            position += 1;
        }
        thread::yield_now();
    }
    let bytes: Vec<u8> = (0..total).map(pattern).collect();
    stream.write_all(&bytes).unwrap();
}

#[test]
fn large_transfers_survive_a_slow_reader_both_ways() {
    const TOTAL: u64 = 64 << 20;
    const PIECE: u64 = 300_000;
    let mut reactor = reactor();
    let (_, address) = reactor.listen(loopback(), false).unwrap();
    let peer = thread::spawn(move || slow_peer(TcpStream::connect(address).unwrap(), TOTAL));
    let (mut queued, mut position) = (0, 0);
    let mut connection = None;
    run(&mut reactor, |reactor, event| {
        match event {
            Some(Event::Accepted { connection: accepted, .. }) => connection = Some(accepted),
            Some(Event::Received { buffer, .. }) => {
                for byte in buffer.iter() {
                    assert_eq!(*byte, pattern(position), "at {position}");
                    position += 1;
                }
            }
            Some(Event::Closed { reason, .. }) => {
                assert_eq!((position, reason), (TOTAL, CloseReason::EndOfStream))
            }
            _ => {}
        }
        let Some(connection) = connection else { return false };
        while queued < TOTAL && reactor.queued_bytes(connection) < 4 << 20 {
            let bytes: Vec<u8> = (queued..TOTAL.min(queued + PIECE)).map(pattern).collect();
            queued += bytes.len() as u64;
            if queued % 2 == 0 {
                reactor.send(connection, &bytes)
            } else {
                reactor.send_shared(connection, Chunk::new(bytes))
            }
        }
        position == TOTAL
    });
    peer.join().unwrap();
}

#[test]
fn a_refused_connect_is_an_ordinary_end() {
    let mut reactor = reactor();
    let address = TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
    let refused = reactor.connect(address).unwrap();
    reactor.send(refused, b"never sent");
    run(&mut reactor, |_, event| {
        let Some(event) = event else { return false };
        assert!(
            matches!(event, Event::Closed { connection, reason: CloseReason::Refused } if connection == refused)
        );
        true
    });
    assert_eq!(reactor.queued_bytes(refused), 0);
}

fn accepted(reactor: &mut Reactor) -> (ConnectionId, TcpStream) {
    let (_, address) = reactor.listen(loopback(), false).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    let mut accepted = None;
    run(reactor, |_, event| {
        if let Some(Event::Accepted { connection, peer, .. }) = event {
            assert_eq!(peer, stream.local_addr().unwrap());
            accepted = Some(connection);
        }
        accepted.is_some()
    });
    (accepted.unwrap(), stream)
}

fn close_reason(reactor: &mut Reactor, expected: ConnectionId) -> CloseReason {
    let mut found = None;
    run(reactor, |_, event| {
        if let Some(Event::Closed { connection, reason }) = event {
            assert_eq!(connection, expected);
            found = Some(reason);
        }
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_half_close_of_the_peer_is_the_end_of_the_stream() {
    let mut reactor = reactor();
    let (connection, mut stream) = accepted(&mut reactor);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    run(&mut reactor, |_, event| match event {
        Some(Event::Received { buffer, .. }) => {
            heard.extend_from_slice(&buffer);
            false
        }
        Some(Event::Closed { connection: closed, reason }) => {
            assert_eq!((closed, reason), (connection, CloseReason::EndOfStream));
            true
        }
        _ => false,
    });
    assert_eq!(heard, b"last words");
}

#[test]
fn a_reset_of_the_peer_is_told_and_kills_nobody() {
    let mut reactor = reactor();
    let (connection, stream) = accepted(&mut reactor);
    // Closing with unread bytes makes the kernel send a reset.
    reactor.send(connection, &[0; 100_000]);
    run(&mut reactor, |reactor, event| {
        matches!(event, Some(Event::Drained { .. })) || reactor.queued_bytes(connection) == 0
    });
    drop(stream);
    for _ in 0..3 {
        reactor.send(connection, b"into the void");
    }
    assert_eq!(close_reason(&mut reactor, connection), CloseReason::Reset);
    reactor.send(connection, b"to a stale id");
    assert_eq!(reactor.queued_bytes(connection), 0);
}

#[test]
fn a_close_with_a_send_in_flight_ends_once_and_frees_the_memory() {
    let mut reactor = reactor();
    let (connection, stream) = accepted(&mut reactor);
    let owner = Arc::new(vec![7u8; 64 << 20]);
    reactor.send_shared(connection, Chunk::from_arc(Arc::clone(&owner)));
    // The peer reads nothing, so a send stays in flight.
    reactor.wait(Some(std::time::Instant::now())).unwrap();
    assert!(reactor.next_event().is_none());
    assert!(reactor.queued_bytes(connection) > 32 << 20);
    reactor.close(connection);
    reactor.close(connection);
    assert_eq!(reactor.queued_bytes(connection), 0);
    assert!(Arc::strong_count(&owner) > 1, "the kernel still reads from the chunk");
    assert_eq!(close_reason(&mut reactor, connection), CloseReason::Requested);
    run(&mut reactor, |_, event| {
        assert!(event.is_none(), "{event:?} after the end");
        Arc::strong_count(&owner) == 1
    });
    drop(stream);
}

#[test]
fn finish_sends_what_is_queued_and_then_closes() {
    const TOTAL: u64 = 8 << 20;
    let mut reactor = reactor();
    let (connection, mut stream) = accepted(&mut reactor);
    reactor.send_shared(connection, Chunk::new((0..TOTAL).map(pattern).collect::<Vec<u8>>()));
    reactor.finish(connection);
    reactor.send(connection, b"too late");
    let peer = thread::spawn(move || {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    assert_eq!(close_reason(&mut reactor, connection), CloseReason::Finished);
    let bytes = peer.join().unwrap();
    assert!(bytes.into_iter().eq((0..TOTAL).map(pattern)));
}

#[test]
fn finish_before_the_connect_completes_still_delivers() {
    let mut reactor = reactor();
    let listener = TcpListener::bind(loopback()).unwrap();
    let connection = reactor.connect(listener.local_addr().unwrap()).unwrap();
    reactor.send(connection, b"short visit");
    reactor.finish(connection);
    let peer = thread::spawn(move || {
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(close_reason(&mut reactor, connection), CloseReason::Finished);
    assert_eq!(peer.join().unwrap(), "short visit");
}

#[test]
fn a_close_while_connecting_ends_once() {
    let mut reactor = reactor();
    // An address of a documentation network: nobody answers, or the kernel has no route.
    let connection = reactor.connect("192.0.2.1:9".parse().unwrap()).unwrap();
    reactor.close(connection);
    assert_eq!(close_reason(&mut reactor, connection), CloseReason::Requested);
}

#[test]
fn stale_ids_do_nothing_even_when_the_slot_is_used_again() {
    let mut reactor = reactor();
    let (_, client, server) = pair(&mut reactor);
    reactor.close(client);
    reactor.close(server);
    let mut ends = 0;
    run(&mut reactor, |_, event| {
        ends += usize::from(matches!(event, Some(Event::Closed { .. })));
        ends == 2
    });
    // Let the kernel's answers free both slots.
    run(&mut reactor, |reactor, _| {
        reactor.wait(Some(std::time::Instant::now())).unwrap();
        reactor.counters().completions >= 6
    });
    let (_, new_client, new_server) = pair(&mut reactor);
    for stale in [client, server] {
        assert!(stale != new_client && stale != new_server);
        reactor.send(stale, b"stale");
        reactor.send_shared(stale, Chunk::new(b"stale".to_vec()));
        assert_eq!(reactor.queued_bytes(stale), 0);
        reactor.finish(stale);
        reactor.close(stale);
    }
    reactor.send(new_client, b"fresh");
    run(&mut reactor, |_, event| match event {
        Some(Event::Received { connection, buffer }) => {
            assert_eq!((connection, &buffer[..]), (new_server, b"fresh".as_slice()));
            true
        }
        Some(Event::Closed { .. }) => panic!("a stale id closed a fresh connection"),
        _ => false,
    });
}

#[test]
fn a_stopped_listener_accepts_no_more_and_keeps_what_it_has() {
    let mut reactor = reactor();
    let (listener, client, server) = pair(&mut reactor);
    let (other, address) = reactor.listen(loopback(), false).unwrap();
    reactor.stop_listening(listener);
    reactor.stop_listening(other);
    reactor.stop_listening(other);
    run(&mut reactor, |_, _| TcpStream::connect(address).is_err());
    reactor.send(client, b"still here");
    run(
        &mut reactor,
        |_, event| matches!(event, Some(Event::Received { connection, .. }) if connection == server),
    );
}

#[test]
fn a_taken_port_is_named_with_a_remedy() {
    let taken = TcpListener::bind(loopback()).unwrap();
    let address = taken.local_addr().unwrap();
    let error = reactor().listen(address, false).unwrap_err();
    assert!(matches!(error, ReactorError::Listen { .. }));
    let message = error.to_string();
    assert!(message.contains(&address.to_string()) && message.contains("port is taken"), "{message}");
}

#[test]
fn several_reactors_share_a_port() {
    let mut first = reactor();
    let mut second = reactor();
    let (_, address) = first.listen(loopback(), true).unwrap();
    assert_eq!(second.listen(address, true).unwrap().1, address);
}

#[test]
fn options_without_sense_are_refused_by_name() {
    let options = ReactorOptions { receive_buffers: 100, ..ReactorOptions::default() };
    let message = Reactor::new(&options).unwrap_err().to_string();
    assert!(message.contains("receive_buffers is 100"), "{message}");
}
