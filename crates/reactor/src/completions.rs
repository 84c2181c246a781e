//! What the kernel answers, turned into events. Each function handles the completion of one kind of operation.

use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::cqueue;
use rustix::net::Shutdown;

use crate::address::peer_address;
use crate::buffers::ReceivedBuffer;
use crate::connections::{Connection, ConnectionId, ListenerId, Phase, Receiving};
use crate::event::{CloseReason, Event};
use crate::operation::{Kind, Operation};
use crate::reactor::Reactor;
use crate::ring::Completion;

/// How long a listener rests when no descriptor or memory is left for what it would accept.
const ACCEPT_REST: Duration = Duration::from_millis(50);

impl Reactor {
    /// Handles one completion.
    pub(crate) fn complete(&mut self, completion: Completion) -> Option<Event> {
        let operation = Operation::decode(completion.user_data);
        match operation.kind {
            Kind::Accept => self.complete_accept(operation, completion),
            Kind::Connect => self.complete_connect(operation, completion.result),
            Kind::Receive => self.complete_receive(operation, completion),
            Kind::Send => self.complete_send(operation, completion.result),
            Kind::Cancel => self.complete_cancel(operation, completion.result),
            Kind::Wake => {
                self.operations -= 1;
                self.arm_wake();
                Some(Event::Woken)
            }
            Kind::Signal => self.complete_signal(),
            Kind::DoorbellHeard => {
                self.counters.doorbells_heard += 1;
                None
            }
            Kind::DoorbellFailed => {
                if let Some((bells, _)) = &self.bells {
                    bells[operation.index as usize].wake();
                    self.counters.other_syscalls += 1;
                }
                None
            }
            Kind::FileWrite | Kind::FileSync => self.complete_file(operation, completion.result),
            Kind::Ignored => None,
        }
    }

    /// Takes note of a completion while the reactor is dropped: nothing is armed again and nobody is told.
    pub(crate) fn reap(&mut self, completion: Completion) {
        let operation = Operation::decode(completion.user_data);
        let counted = match operation.kind {
            Kind::Accept => {
                drop(accepted_socket(completion.result));
                true
            }
            Kind::Receive => {
                drop(self.received_buffer(completion));
                true
            }
            Kind::Connect | Kind::Send | Kind::Wake | Kind::Signal | Kind::FileWrite | Kind::FileSync => true,
            Kind::Cancel | Kind::DoorbellHeard | Kind::DoorbellFailed | Kind::Ignored => false,
        };
        if counted && !cqueue::more(completion.flags) {
            self.operations -= 1;
        }
    }

    fn complete_accept(&mut self, operation: Operation, completion: Completion) -> Option<Event> {
        let listener = ListenerId { index: operation.index };
        let state = &mut self.listeners[operation.index as usize];
        let stopped = state.stopped;
        let ended = !cqueue::more(completion.flags);
        if ended {
            self.operations -= 1;
            state.armed = false;
            if stopped {
                state.socket = None;
                self.counters.other_syscalls += 1;
            }
        }
        let socket = accepted_socket(completion.result);
        if stopped {
            return None;
        }
        if socket.is_none() {
            self.counters.accept_failures += 1;
        }
        if ended {
            match -completion.result {
                ..=0 | libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO => {
                    self.arm_accept(listener)
                }
                _ => self.resting.push_back((Instant::now() + ACCEPT_REST, listener)),
            }
        }
        self.admit(listener, socket?)
    }

    fn admit(&mut self, listener: ListenerId, socket: OwnedFd) -> Option<Event> {
        self.counters.other_syscalls += 1;
        let Ok(peer) = peer_address(&socket) else {
            // Gone before we looked.
            self.counters.accept_failures += 1;
            return None;
        };
        let Some(connection) = self.connections.insert(Connection::new(socket)) else {
            self.counters.accept_failures += 1;
            return None;
        };
        self.counters.accepted += 1;
        self.arm_receive(connection);
        Some(Event::Accepted { listener, connection, peer })
    }

    fn complete_connect(&mut self, operation: Operation, result: i32) -> Option<Event> {
        self.operations -= 1;
        let (id, connection) = self.connections.of_completion(operation);
        connection.connecting = None;
        if connection.phase == Phase::Closing {
            self.release(id);
            return None;
        }
        if result < 0 {
            return Some(self.end(id, CloseReason::from_errno(-result)));
        }
        self.counters.connects += 1;
        let (phase, queued) = (connection.phase, connection.outgoing.queued_bytes());
        self.arm_receive(id);
        if queued > 0 {
            self.list_sendable(id);
        }
        match phase {
            Phase::Draining if queued == 0 => self.linger(id),
            Phase::Draining => None,
            _ => Some(Event::Connected { connection: id }),
        }
    }

    /// The buffer that a completion names, if it names one. It goes back when it is dropped.
    fn received_buffer(&self, completion: Completion) -> Option<ReceivedBuffer> {
        let length = u32::try_from(completion.result).unwrap_or(0);
        cqueue::buffer_select(completion.flags).map(|buffer| self.pool.take(buffer, length))
    }

    fn complete_receive(&mut self, operation: Operation, completion: Completion) -> Option<Event> {
        let buffer = self.received_buffer(completion);
        let ended = !cqueue::more(completion.flags);
        let (id, connection) = self.connections.of_completion(operation);
        if ended {
            self.operations -= 1;
            connection.receiving = Receiving::Idle;
        }
        let phase = connection.phase;
        if phase == Phase::Closing {
            self.release(id);
            return None;
        }
        match (-completion.result, buffer) {
            (..0, Some(buffer)) => {
                self.counters.receives += 1;
                self.counters.bytes_received += buffer.len() as u64;
                if ended {
                    self.receive_again(id);
                } else if connection.paused {
                    // It was busy when it was to be given up.
                    self.give_up_receive(id);
                }
                (phase == Phase::Open).then_some(Event::Received { connection: id, buffer })
            }
            (0, _) => match phase {
                Phase::Lingering => Some(self.end(id, CloseReason::Finished)),
                Phase::Draining => {
                    connection.receiving = Receiving::Ended;
                    None
                }
                Phase::Open | Phase::Closing => Some(self.end(id, CloseReason::EndOfStream)),
            },
            (libc::ENOBUFS, _) => {
                self.counters.buffers_exhausted += 1;
                connection.receiving = Receiving::Starved;
                self.starved.push_back(id);
                None
            }
            (libc::EINTR | libc::EAGAIN, _) => {
                self.receive_again(id);
                None
            }
            // Only a pause cancels the receive of a connection that is not ended.
            (libc::ECANCELED, _) => {
                self.receive_again(id);
                None
            }
            (errno, _) => Some(self.end(id, CloseReason::from_errno(errno))),
        }
    }

    fn complete_send(&mut self, operation: Operation, result: i32) -> Option<Event> {
        self.operations -= 1;
        let (id, connection) = self.connections.of_completion(operation);
        let sent = usize::try_from(result).unwrap_or(0);
        connection.outgoing.completed(sent);
        let (phase, queued) = (connection.phase, connection.outgoing.queued_bytes());
        if phase == Phase::Closing {
            self.release(id);
            return None;
        }
        if result < 0 && !matches!(-result, libc::EINTR | libc::EAGAIN) {
            return Some(self.end(id, CloseReason::from_errno(-result)));
        }
        self.counters.sends += 1;
        self.counters.bytes_sent += sent as u64;
        self.sent.push(sent);
        if queued > 0 {
            self.list_sendable(id);
            return None;
        }
        match phase {
            Phase::Draining => self.linger(id),
            _ => Some(Event::Drained { connection: id }),
        }
    }

    /// A cancellation that failed met its target in a moment when it could not be found, or found it about to complete.
    /// Shutting the socket down ends whatever is still there.
    fn complete_cancel(&mut self, operation: Operation, result: i32) -> Option<Event> {
        let id = ConnectionId { index: operation.index, generation: operation.generation };
        if result < 0
            && let Some(connection) = self.connections.any(id)
        {
            let _ = rustix::net::shutdown(&connection.socket, Shutdown::Both);
            self.counters.other_syscalls += 1;
        }
        None
    }

    fn complete_signal(&mut self) -> Option<Event> {
        self.operations -= 1;
        let signal = self.signals.as_ref()?.read();
        self.counters.other_syscalls += 1;
        // The poll answers at once while more signals are pending.
        self.arm_signals();
        signal.map(Event::Signal)
    }
}

/// The socket that an accept brought, if it did.
fn accepted_socket(result: i32) -> Option<OwnedFd> {
    // SAFETY: a result that is not negative is a descriptor that the kernel has just made for this completion, which
    // is handled once; nobody else knows it.
    (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) })
}
