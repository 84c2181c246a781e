//! The reactor: what a caller asks for. What the kernel answers is in `completions.rs`.
//!
//! Why the kernel never touches freed memory. An operation is given to the kernel by `Reactor::submit` only, which
//! counts it, and is uncounted by its last completion only. The memory that it names is
//! - a connection's staged bytes, chunks, request and address: a connection leaves the slab only when none of its
//!   operations is with the kernel (`Connections::remove` asserts it), all of it is on the heap, so that a growing
//!   slab does not move it, and it is not changed meanwhile (`Outgoing`);
//! - the buffer of a write to a file: the write owns it, leaves its slab only when none of its operations is with the
//!   kernel, and gives it back to the caller with the event that says so (`files.rs`);
//! - receive buffers and the wake-up word: they belong to the reactor.
//!
//! Dropping the reactor cancels everything and reaps until the count is zero. Should the kernel fail to let go, the
//! memory is leaked, never freed. Completions name slot and generation; a slot is reused, with the next generation,
//! only after that same point, so a late completion cannot meet another connection.
//!
//! Registered (direct) descriptors are not used: they gain 1–2 % (DESIGN section 3), and with them an accepted
//! socket has no number that `getpeername` or `shutdown` could take.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};
use rustix::net::Shutdown;

use crate::address::{self, KernelAddress};
use crate::affinity::pin_current_thread;
use crate::buffers::{BUFFER_GROUP, BufferPool};
use crate::chunk::Chunk;
use crate::connections::{Connection, ConnectionId, Connections, ListenerId, Phase, Receiving};
use crate::counters::ReactorCounters;
use crate::doorbell::Bell;
use crate::error::{ReactorError, socket_remedy};
use crate::event::{CloseReason, Event};
use crate::files::Files;
use crate::mailbox::Mailbox;
use crate::operation::{INDEX_MAX, Kind, Operation};
use crate::options::ReactorOptions;
use crate::ring::{Gather, Ring, Wait};
use crate::signals::{Signal, SignalDescriptor};
use crate::waker::Waker;

/// Whoever received so much at once is under load for a while: sleeps end with several completions rather than one,
/// so that a tick has more to do and to send. A few small messages are no load, and what follows from them at once
/// does not wait. Neither does a write to a file, whose sync takes as long as that anyway: the time counts from the
/// enter that submits it.
const LOAD_BYTES: u64 = 8 * 1024;
const LOAD_LASTS: Duration = Duration::from_millis(10);
const UNDER_LOAD: Gather = Gather { completions: 16, micros: 200 };
/// How long a finished connection waits for the peer to close its side too.
const LINGER: Duration = Duration::from_secs(5);
/// How long dropping a reactor waits for the kernel to let go of its operations before it leaks their memory.
const REAP: Duration = Duration::from_secs(5);

/// The fewest receive buffers that a shortage of memory leads to.
const RECEIVE_BUFFERS_MIN: u16 = 8;

/// A socket that connections come in on.
pub(crate) struct Listener {
    /// None once the listener was stopped and the kernel has let go of it.
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) armed: bool,
    pub(crate) stopped: bool,
}

/// One core's ring with its connections, deadlines and mailbox. It stays on the thread that made it.
pub struct Reactor {
    pub(crate) ring: Ring,
    pub(crate) pool: Rc<BufferPool>,
    pub(crate) connections: Connections,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) files: Files,
    /// Connections that have something to send and nothing in flight.
    sendable: Vec<ConnectionId>,
    /// Connections whose receive found no buffer, first come first served.
    pub(crate) starved: VecDeque<ConnectionId>,
    /// Events that did not come from the completion at hand.
    pub(crate) ready: VecDeque<Event>,
    /// Listeners that rest after a failed accept, with the time to go on. All rest equally long, so the first ends
    /// first.
    pub(crate) resting: VecDeque<(Instant, ListenerId)>,
    /// Finished connections that wait for their peers, in the order of their deadlines.
    lingering: VecDeque<(Instant, ConnectionId)>,
    waker: Waker,
    /// Where the kernel puts the count of the waker's eventfd. Never read.
    wake_count: Box<UnsafeCell<u64>>,
    pub(crate) signals: Option<SignalDescriptor>,
    /// The bells of the mesh that this reactor waits with, and the own core.
    pub(crate) bells: Option<(Arc<[Bell]>, usize)>,
    /// Operations whose last completion has not been seen.
    pub(crate) operations: usize,
    pub(crate) counters: ReactorCounters,
    /// What had been received when this reactor last went to sleep.
    received_before: u64,
    /// When it last had received so much at once that it is under load.
    loaded: Option<Instant>,
    /// The bytes of each send that completed since the last wait.
    pub(crate) sent: Vec<usize>,
    spin: Duration,
    /// A ring with SINGLE_ISSUER works on one thread only.
    not_send: PhantomData<*const ()>,
}

impl Reactor {
    /// A reactor for the calling thread, which it stays on; the thread is pinned if the options say so.
    ///
    /// Needs no privileges. Set-up flags that the kernel does not know are left out; a ring or a set of buffers that
    /// does not fit into memory is halved until it does.
    ///
    /// # Errors
    /// When io_uring is forbidden or too old, memory or descriptors are short, or an option has no sense. The message
    /// says what to change.
    pub fn new(options: &ReactorOptions) -> Result<Reactor, ReactorError> {
        options.check()?;
        if let Some(cpu) = options.cpu {
            pin_current_thread(cpu)?;
        }
        let ring = Ring::new(options.submission_entries)?;
        let pool = registered_pool(&ring, options)?;
        let waker = Waker::new()
            .map_err(|source| ReactorError::Descriptor { what: "waker's eventfd", source: source.into() })?;
        let mut reactor = Reactor {
            ring,
            pool,
            connections: Connections::default(),
            listeners: Vec::new(),
            files: Files::default(),
            sendable: Vec::new(),
            starved: VecDeque::new(),
            ready: VecDeque::new(),
            resting: VecDeque::new(),
            lingering: VecDeque::new(),
            waker,
            wake_count: Box::new(UnsafeCell::new(0)),
            signals: None,
            bells: None,
            operations: 0,
            // Ring set-up, probe, ring descriptor, buffers, their registration, eventfd.
            counters: ReactorCounters { other_syscalls: 6, ..ReactorCounters::default() },
            received_before: 0,
            loaded: None,
            sent: Vec::new(),
            spin: options.spin,
            not_send: PhantomData,
        };
        reactor.arm_wake();
        Ok(reactor)
    }

    /// Listens on `address` and returns the address that is bound, which tells the port when 0 was asked for.
    /// Connections arrive as [`Event::Accepted`]. With `reuse_port` several reactors may listen on one port and the
    /// kernel spreads the connections.
    ///
    /// # Errors
    /// [`ReactorError::Listen`] with address and remedy.
    pub fn listen(
        &mut self,
        address: SocketAddr,
        reuse_port: bool,
    ) -> Result<(ListenerId, SocketAddr), ReactorError> {
        let (socket, bound) = address::listening_socket(address, reuse_port).map_err(|source| {
            let source = io::Error::from(source);
            ReactorError::Listen { address, remedy: socket_remedy(&source), source }
        })?;
        self.counters.other_syscalls += 6;
        let index = u32::try_from(self.listeners.len()).unwrap_or(INDEX_MAX);
        assert!(index < INDEX_MAX, "a reactor has at most 16 million listeners in its life");
        self.listeners.push(Listener { socket: Some(socket), armed: false, stopped: false });
        let listener = ListenerId { index };
        self.arm_accept(listener);
        Ok((listener, bound))
    }

    /// Stops listening; connections that were accepted stay. A stale id does nothing.
    pub fn stop_listening(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(id.index as usize).filter(|listener| !listener.stopped)
        else {
            return;
        };
        listener.stopped = true;
        if listener.armed {
            self.cancel(Operation::new(Kind::Accept, id.index, 0), Operation::new(Kind::Ignored, 0, 0));
        } else {
            listener.socket = None;
            self.counters.other_syscalls += 1;
        }
    }

    /// Starts to connect to `address`. [`Event::Connected`] or [`Event::Closed`] follows; what is sent before leaves
    /// after.
    ///
    /// # Errors
    /// [`ReactorError::Connect`] when no socket can be made, for example for want of descriptors.
    pub fn connect(&mut self, address: SocketAddr) -> Result<ConnectionId, ReactorError> {
        let failed =
            |source: io::Error| ReactorError::Connect { address, remedy: socket_remedy(&source), source };
        let socket = address::stream_socket(address).map_err(|source| failed(source.into()))?;
        self.counters.other_syscalls += 2;
        let Some(id) = self.connections.insert(Connection::new(socket)) else {
            return Err(failed(io::Error::from_raw_os_error(libc::ENFILE)));
        };
        let (_, connection) = self.connections.of_completion(id.operation(Kind::Connect));
        let destination = connection.connecting.insert(Box::new(KernelAddress::new(address)));
        let (pointer, length) = (destination.pointer(), destination.length());
        let entry = opcode::Connect::new(types::Fd(connection.descriptor()), pointer, length).build();
        // SAFETY: the address is boxed in the connection and stays there, unchanged, until the connect completes.
        unsafe { self.submit(entry, id.operation(Kind::Connect)) };
        Ok(id)
    }

    /// Queues a copy of `bytes` behind what is queued already. It leaves with the next wait, together with all else
    /// for this connection. The queue has no bound of its own: the caller keeps a budget by
    /// [`queued_bytes`](Self::queued_bytes) (DESIGN section 7). Does nothing for a stale id.
    pub fn send(&mut self, connection: ConnectionId, bytes: &[u8]) {
        if let Some(outgoing) = self.outgoing(connection) {
            outgoing.copy(bytes);
        }
    }

    /// Queues `chunk` without copying it, behind what is queued already. Worth it from a few hundred bytes on.
    pub fn send_shared(&mut self, connection: ConnectionId, chunk: Chunk) {
        if let Some(outgoing) = self.outgoing(connection) {
            outgoing.share(chunk);
        }
    }

    /// Much is sent on this connection all the time: its sends are large, and it keeps memory for that, about 2 MiB, where another gives back all
    /// but some 40 KiB when what was queued is sent. Does nothing for a stale id.
    pub fn expect_bursts(&mut self, connection: ConnectionId) {
        if let Some(connection) = self.connections.live(connection) {
            connection.outgoing.expect_bursts();
        }
    }

    /// The outgoing side of a connection that the caller may send on, marked as having something to send.
    fn outgoing(&mut self, id: ConnectionId) -> Option<&mut crate::outgoing::Outgoing> {
        let connection = self.connections.live(id).filter(|connection| connection.phase == Phase::Open)?;
        if !connection.listed {
            connection.listed = true;
            self.sendable.push(id);
        }
        Some(&mut connection.outgoing)
    }

    /// Receives nothing more on a connection until [`resume`](Self::resume), so that what is not taken of it stays in the
    /// kernel and takes no buffer from others. What has arrived before still comes; the end of the stream is not seen
    /// meanwhile. Does nothing for a stale id.
    pub fn pause(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.live(id) else { return };
        connection.paused = true;
        if connection.receiving == Receiving::Armed {
            self.give_up_receive(id);
        }
    }

    /// Ends the receive of a connection that is paused. It ends by itself if it was about to, or goes on if it was busy.
    pub(crate) fn give_up_receive(&mut self, id: ConnectionId) {
        self.cancel(id.operation(Kind::Receive), Operation::new(Kind::Ignored, 0, 0));
    }

    /// Receives again on a connection that was paused.
    pub fn resume(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.live(id) else { return };
        connection.paused = false;
        // A receive that is still being given up is armed again when it has ended.
        if connection.receiving == Receiving::Idle && connection.connecting.is_none() {
            self.receive_again(id);
        }
    }

    /// Bytes that were queued and that the kernel has not taken yet, those in flight included. Zero for a stale id.
    pub fn queued_bytes(&self, connection: ConnectionId) -> usize {
        self.connections.live_ref(connection).map_or(0, |connection| connection.outgoing.queued_bytes())
    }

    /// Bytes of a connection that the kernel has taken since it stands: what is queued now is taken when this has grown by
    /// [`queued_bytes`](Self::queued_bytes). None for a stale id.
    #[must_use]
    pub fn taken_bytes(&self, connection: ConnectionId) -> Option<u64> {
        self.connections.live_ref(connection).map(|connection| connection.outgoing.taken_bytes())
    }

    /// Ends a connection at once; what is queued is discarded. [`Event::Closed`] follows with
    /// [`CloseReason::Requested`], and nothing else does.
    pub fn close(&mut self, connection: ConnectionId) {
        if self.connections.live(connection).is_some() {
            let event = self.end(connection, CloseReason::Requested);
            self.ready.push_back(event);
        }
    }

    /// Ends a connection after what is queued was sent. Arriving bytes are discarded from now on, and
    /// [`Event::Closed`] follows when the peer has closed too, 5 seconds later at most. While the peer does not take
    /// what is queued, this waits; [`close`](Self::close) cuts it short.
    pub fn finish(&mut self, connection: ConnectionId) {
        let Some(state) = self.connections.live(connection).filter(|state| state.phase == Phase::Open) else {
            return;
        };
        state.phase = Phase::Draining;
        if state.outgoing.queued_bytes() == 0
            && state.connecting.is_none()
            && let Some(event) = self.linger(connection)
        {
            self.ready.push_back(event);
        }
    }

    /// Submits everything that was queued and sleeps until there is an event, the deadline has passed, or another
    /// thread used the waker. Does not sleep while events or completions are there, or when the deadline is past.
    /// May return without an event.
    ///
    /// # Errors
    /// [`ReactorError::Enter`] when the ring is broken; there is no way on from that.
    pub fn wait(&mut self, deadline: Option<Instant>) -> Result<(), ReactorError> {
        self.wait_for(deadline, None::<&mut Mailbox<()>>)
    }

    /// The same, and also moves what was posted to `mailbox`, wakes the cores that sleep and got something, and
    /// returns when there is something to take from it. A reactor waits with one mailbox, a mailbox in one reactor.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn wait_with<M: Send>(
        &mut self,
        deadline: Option<Instant>,
        mailbox: &mut Mailbox<M>,
    ) -> Result<(), ReactorError> {
        self.wait_for(deadline, Some(mailbox))
    }

    fn wait_for<M: Send>(
        &mut self,
        deadline: Option<Instant>,
        mut mailbox: Option<&mut Mailbox<M>>,
    ) -> Result<(), ReactorError> {
        self.sent.clear();
        self.keep_internal_deadlines();
        self.feed_starved();
        self.start_sends();
        if let Some(mailbox) = &mut mailbox {
            self.ring_doorbells(mailbox);
        }
        let mailbox = mailbox.as_deref();
        let idle = |mailbox: Option<&Mailbox<M>>| mailbox.is_none_or(Mailbox::may_sleep);
        let deadline = [deadline, self.internal_deadline()].into_iter().flatten().min();
        let past = deadline.is_some_and(|deadline| deadline <= Instant::now());
        if past || !self.ready.is_empty() || !idle(mailbox) || self.ring.has_completions() {
            return self.enter_if_needed();
        }
        if !self.spin.is_zero() && self.spin_until(deadline, || idle(mailbox))? {
            return Ok(());
        }
        let Some(mailbox) = mailbox else { return self.sleep(deadline) };
        mailbox.bell().sleeping.announce();
        // Once more, now that the others can see that this core is about to sleep (see `doorbell.rs`).
        let result = match mailbox.may_sleep() {
            true => self.sleep(deadline),
            false => self.enter_if_needed(),
        };
        mailbox.bell().sleeping.withdraw();
        result
    }

    /// One enter if something is to be submitted or the kernel holds completions back, else none.
    fn enter_if_needed(&mut self) -> Result<(), ReactorError> {
        if self.ring.has_submissions() || self.ring.needs_enter() {
            self.ring.enter(Wait::No)
        } else {
            Ok(())
        }
    }

    fn sleep(&mut self, deadline: Option<Instant>) -> Result<(), ReactorError> {
        self.counters.sleeps += 1;
        let now = Instant::now();
        let limit = deadline.map(|deadline| deadline.saturating_duration_since(now));
        if self.counters.bytes_received - self.received_before >= LOAD_BYTES {
            self.loaded = Some(now);
        }
        self.received_before = self.counters.bytes_received;
        let under_load = self.loaded.is_some_and(|at| now.duration_since(at) < LOAD_LASTS);
        let gather = under_load.then_some(UNDER_LOAD);
        self.ring.enter(Wait::Sleep { limit, gather })
    }

    /// Submits, then polls without sleeping. True when there is something to do.
    fn spin_until(
        &mut self,
        deadline: Option<Instant>,
        idle: impl Fn() -> bool,
    ) -> Result<bool, ReactorError> {
        let end = Instant::now() + self.spin;
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        loop {
            self.enter_if_needed()?;
            if self.ring.has_completions() || !idle() {
                self.counters.spins += 1;
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    /// The next event, if one is there; never waits.
    pub fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        while let Some(completion) = self.ring.next_completion() {
            self.counters.completions += 1;
            if let Some(event) = self.complete(completion) {
                return Some(event);
            }
        }
        None
    }

    /// What this reactor did so far.
    pub fn counters(&self) -> ReactorCounters {
        ReactorCounters {
            enters: self.ring.enters,
            entries_submitted: self.ring.entries_submitted,
            ..self.counters
        }
    }

    /// The bytes of each send whose completion was taken since the last wait; at most one per connection.
    pub fn sent(&self) -> &[usize] {
        &self.sent
    }

    /// A handle that makes [`wait`](Self::wait) return from any thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Delivers `signals` as [`Event::Signal`]. They must have been blocked in every thread, by
    /// [`signals::block`](crate::signals::block) before the first one was spawned. Replaces nothing: to be called once.
    ///
    /// # Errors
    /// [`ReactorError::Signals`] when the signalfd cannot be made, or there is one already.
    pub fn watch_signals(&mut self, signals: &[Signal]) -> Result<(), ReactorError> {
        if self.signals.is_some() {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "this reactor watches signals already");
            return Err(ReactorError::Signals { what: "watch", source });
        }
        self.signals = Some(SignalDescriptor::new(signals)?);
        self.counters.other_syscalls += 1;
        self.arm_signals();
        Ok(())
    }

    /// Rings other cores through their eventfds, as on a kernel without MSG_RING. For tests of that way.
    #[doc(hidden)]
    pub fn use_eventfd_doorbells(&mut self) {
        self.ring.forbid_message_ring();
    }

    /// Gives an operation to the kernel and counts it until its last completion.
    ///
    /// # Safety
    /// The memory that `entry` names stays valid, unmoved and unchanged until then. `complete` frees or changes it
    /// only after it has seen that completion.
    pub(crate) unsafe fn submit(&mut self, entry: squeue::Entry, operation: Operation) {
        self.operations += 1;
        // SAFETY: the caller's promise is the one that `push` asks for.
        unsafe { self.ring.push(entry.user_data(operation.encode())) };
    }

    /// Gives two operations to the kernel, the second to start when the first has succeeded in full, with the caveat
    /// of `Ring::push_linked`. Counts both.
    ///
    /// # Safety
    /// As for [`submit`](Self::submit), for both.
    pub(crate) unsafe fn submit_linked(
        &mut self,
        (first, first_operation): (squeue::Entry, Operation),
        (second, second_operation): (squeue::Entry, Operation),
    ) {
        self.operations += 2;
        let first = first.user_data(first_operation.encode());
        let second = second.user_data(second_operation.encode());
        // SAFETY: the caller's promise is the one that `push_linked` asks for.
        unsafe { self.ring.push_linked(first, second) };
    }

    /// Submits an operation whose completion need not be waited for.
    ///
    /// # Safety
    /// `entry` names no memory.
    unsafe fn submit_uncounted(&mut self, entry: squeue::Entry, operation: Operation) {
        // SAFETY: the caller's promise is more than `push` asks for.
        unsafe { self.ring.push(entry.user_data(operation.encode())) };
    }

    pub(crate) fn arm_accept(&mut self, id: ListenerId) {
        let listener = &mut self.listeners[id.index as usize];
        let Some(socket) = listener.socket.as_ref().filter(|_| !listener.armed && !listener.stopped) else {
            return;
        };
        listener.armed = true;
        let entry = opcode::AcceptMulti::new(types::Fd(socket.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: a multishot accept names no memory.
        unsafe { self.submit(entry, Operation::new(Kind::Accept, id.index, 0)) };
    }

    /// Arms the receive of a connection, which must have none. While others starve for buffers it is a single one,
    /// so that everybody gets one buffer in turn; else it is a multishot.
    pub(crate) fn arm_receive(&mut self, id: ConnectionId) {
        let single = !self.starved.is_empty();
        let (_, connection) = self.connections.of_completion(id.operation(Kind::Receive));
        assert!(connection.receiving != Receiving::Armed, "invariant: one receive per connection");
        connection.receiving = Receiving::Armed;
        let socket = types::Fd(connection.descriptor());
        let entry = if single {
            opcode::Recv::new(socket, std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(socket, BUFFER_GROUP).build()
        };
        // SAFETY: the entry names the buffer group, whose memory lives until the reactor has reaped everything; a
        // buffer is out of the group while it is ours.
        unsafe { self.submit(entry, id.operation(Kind::Receive)) };
    }

    /// A receive has ended, and the stream has not: the next one, unless the connection is paused. While others wait for
    /// a buffer, this one goes to the end of their queue, or it would take theirs.
    pub(crate) fn receive_again(&mut self, id: ConnectionId) {
        let is_free = self.starved.is_empty();
        let Some(connection) = self.connections.live(id).filter(|connection| !connection.paused) else {
            return;
        };
        if is_free {
            self.arm_receive(id);
        } else {
            connection.receiving = Receiving::Starved;
            self.starved.push_back(id);
        }
    }

    /// Arms the receives that found no buffer, as many as there are buffers now.
    fn feed_starved(&mut self) {
        let mut buffers = self.pool.available();
        while buffers > 0 {
            let Some(id) = self.starved.pop_front() else { return };
            let waits = |connection: &&mut Connection| connection.receiving == Receiving::Starved;
            let Some(connection) = self.connections.live(id).filter(waits) else { continue };
            if connection.paused {
                connection.receiving = Receiving::Idle;
                continue;
            }
            self.arm_receive(id);
            buffers -= 1;
        }
    }

    fn start_sends(&mut self) {
        let mut sendable = std::mem::take(&mut self.sendable);
        for id in sendable.drain(..) {
            let Some(connection) = self.connections.live(id) else { continue };
            connection.listed = false;
            if connection.connecting.is_some() {
                continue;
            }
            let descriptor = connection.descriptor();
            if let Some(entry) = connection.outgoing.start(descriptor) {
                // SAFETY: `start` names heap memory of the connection's Outgoing, which leaves it alone until
                // `completed`; the connection is not removed while a send is in flight.
                unsafe { self.submit(entry, id.operation(Kind::Send)) };
            }
        }
        self.sendable = sendable;
    }

    /// Puts a connection back into the list of those with something to send.
    pub(crate) fn list_sendable(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.live(id).filter(|connection| !connection.listed) {
            connection.listed = true;
            self.sendable.push(id);
        }
    }

    pub(crate) fn arm_wake(&mut self) {
        let place = self.wake_count.get().cast::<u8>();
        let descriptor = types::Fd(self.waker.descriptor().as_raw_fd());
        let entry = opcode::Read::new(descriptor, place, 8).offset(u64::MAX).build();
        // SAFETY: the word is boxed in the reactor, in a cell, never read, and freed only after the reactor has
        // reaped everything. The eventfd is open as long as `waker`.
        unsafe { self.submit(entry, Operation::new(Kind::Wake, 0, 0)) };
    }

    pub(crate) fn arm_signals(&mut self) {
        let Some(signals) = &self.signals else { return };
        let events = u32::from(libc::POLLIN.unsigned_abs());
        let entry = opcode::PollAdd::new(types::Fd(signals.descriptor()), events).build();
        // SAFETY: a poll names no memory.
        unsafe { self.submit(entry, Operation::new(Kind::Signal, 0, 0)) };
    }

    fn ring_doorbells<M: Send>(&mut self, mailbox: &mut Mailbox<M>) {
        if !self.bells.as_ref().is_some_and(|(bells, _)| Arc::ptr_eq(bells, mailbox.bells())) {
            self.detach_bell();
            mailbox.bell().attach(self.ring.descriptor(), self.waker.clone());
            self.bells = Some((Arc::clone(mailbox.bells()), mailbox.core()));
        }
        mailbox.flush(|to, bell| {
            self.counters.doorbells_rung += 1;
            let ring = bell.ring().filter(|_| self.ring.message_ring());
            let (Some(ring), Ok(index)) = (ring, u32::try_from(to)) else {
                self.counters.other_syscalls += 1;
                return bell.wake();
            };
            // A ring that is gone meanwhile answers EBADFD, an overflown one EOVERFLOW; `complete` then takes the
            // other way. Success needs no completion here.
            let heard = Operation::new(Kind::DoorbellHeard, 0, 0).encode();
            let entry = opcode::MsgRingData::new(types::Fd(ring), 0, heard, None).build();
            let entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
            // SAFETY: a message to a ring names a descriptor and values, no memory.
            unsafe { self.submit_uncounted(entry, Operation::new(Kind::DoorbellFailed, index, 0)) };
        });
    }

    fn detach_bell(&mut self) {
        if let Some((bells, core)) = self.bells.take() {
            bells[core].detach();
        }
    }

    /// Asks the kernel to give up `target`; the answer comes as `answer`.
    fn cancel(&mut self, target: Operation, answer: Operation) {
        // SAFETY: a cancellation names its target by number; it names no memory.
        unsafe { self.submit_uncounted(opcode::AsyncCancel::new(target.encode()).build(), answer) };
    }

    /// Ends a live connection for the caller. Its slot is freed now or when the kernel has let go of it.
    pub(crate) fn end(&mut self, id: ConnectionId, reason: CloseReason) -> Event {
        self.counters.closed += 1;
        let (_, connection) = self.connections.of_completion(id.operation(Kind::Cancel));
        connection.phase = Phase::Closing;
        let with_kernel = [
            (connection.receiving == Receiving::Armed, Kind::Receive),
            (connection.outgoing.is_in_flight(), Kind::Send),
            (connection.connecting.is_some(), Kind::Connect),
        ];
        for (_, kind) in with_kernel.into_iter().filter(|(armed, _)| *armed) {
            self.cancel(id.operation(kind), id.operation(Kind::Cancel));
        }
        self.release(id);
        Event::Closed { connection: id, reason }
    }

    /// Frees the slot and closes the socket of a closing connection if the kernel has let go of it.
    pub(crate) fn release(&mut self, id: ConnectionId) {
        let gone =
            |connection: &mut Connection| connection.phase == Phase::Closing && !connection.is_with_kernel();
        if self.connections.any(id).is_some_and(gone) {
            drop(self.connections.remove(id));
            self.counters.other_syscalls += 1;
        }
    }

    /// A draining connection has sent everything: shuts our half and waits for the peer's end.
    pub(crate) fn linger(&mut self, id: ConnectionId) -> Option<Event> {
        let (_, connection) = self.connections.of_completion(id.operation(Kind::Send));
        if connection.receiving == Receiving::Ended {
            return Some(self.end(id, CloseReason::Finished));
        }
        connection.phase = Phase::Lingering;
        let shut = rustix::net::shutdown(&connection.socket, Shutdown::Write);
        self.counters.other_syscalls += 1;
        if shut.is_err() {
            return Some(self.end(id, CloseReason::Finished));
        }
        self.lingering.push_back((Instant::now() + LINGER, id));
        None
    }

    fn internal_deadline(&self) -> Option<Instant> {
        let resting = self.resting.front().map(|(end, _)| *end);
        let lingering = self.lingering.front().map(|(end, _)| *end);
        [resting, lingering].into_iter().flatten().min()
    }

    fn keep_internal_deadlines(&mut self) {
        if self.resting.is_empty() && self.lingering.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((_, listener)) = self.resting.pop_front_if(|(end, _)| *end <= now) {
            self.arm_accept(listener);
        }
        while let Some((end, id)) = self.lingering.pop_front() {
            // Those that are over already need no waiting for their time.
            let lingers = |connection: &mut Connection| connection.phase == Phase::Lingering;
            if !self.connections.live(id).is_some_and(lingers) {
                continue;
            }
            if end > now {
                self.lingering.push_front((end, id));
                return;
            }
            let event = self.end(id, CloseReason::Finished);
            self.ready.push_back(event);
        }
    }
}

/// The receive buffers that the options ask for, or fewer when memory is short.
fn registered_pool(ring: &Ring, options: &ReactorOptions) -> Result<Rc<BufferPool>, ReactorError> {
    let mut buffers = options.receive_buffers;
    loop {
        let pool = BufferPool::new(buffers, options.receive_buffer_bytes)
            .and_then(|pool| pool.register(ring).map(|()| pool));
        match pool {
            Err(ReactorError::Memory { .. }) if buffers > RECEIVE_BUFFERS_MIN => buffers /= 2,
            result => return result,
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.detach_bell();
        self.ready.clear();
        let end = Instant::now() + REAP;
        while self.operations > 0 && Instant::now() < end {
            let everything = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
            // SAFETY: a cancellation names no memory.
            unsafe { self.submit_uncounted(everything, Operation::new(Kind::Ignored, 0, 0)) };
            if self.ring.enter(Wait::at_most(Duration::from_millis(50))).is_err() {
                break;
            }
            while let Some(completion) = self.ring.next_completion() {
                self.reap(completion);
            }
        }
        if self.operations > 0 {
            // The kernel may still use the memory, so it must not be freed; this loses it and its descriptors.
            std::mem::forget(std::mem::take(&mut self.connections));
            std::mem::forget(std::mem::take(&mut self.files));
            std::mem::forget(Rc::clone(&self.pool));
            std::mem::forget(std::mem::replace(&mut self.wake_count, Box::new(UnsafeCell::new(0))));
            return;
        }
        let _ = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP);
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Reactor")
            .field("ring", &self.ring.descriptor())
            .field("operations", &self.operations)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}
