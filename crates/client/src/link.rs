//! The connection to one replica: a reader, a writer and the attempts to have them.
//!
//! The reader is never cancelled while a read is in flight, because tokio-uring 0.5 loses the bytes that
//! arrive for a dropped read; a connection ends by shutting its socket down. The writer sends everything that
//! was queued since its last write in one write.

use crate::LinkError;
use crate::driver::Shared;
use quorate_types::{ReplicaId, limits};
use quorate_wire::handshake::{Dialer, DialerStep, HandshakeError, Identity, Refusal};
use quorate_wire::message::{Message, Report};
use quorate_wire::{Assembler, Frame, FrameRef, Kind};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio_uring::net::TcpStream;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(2);
const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(10);
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 64 * 1024;
/// A whole window of the largest bundles, with their frames and what else is asked. More than that waits
/// only for a replica that does not read.
const QUEUE_BYTES_MAX: usize = limits::OPEN_BUNDLES_MAX * (limits::BUNDLE_BYTES_MAX + 1024);

/// How the connection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// The handshake is complete.
    Connected,
    /// It does not stand, for the reason of the last attempt.
    Down(LinkError),
}

/// One replica's connection.
#[derive(Debug)]
pub(crate) struct Link {
    replica: ReplicaId,
    address: SocketAddr,
    state: RefCell<LinkState>,
    stream: RefCell<Option<Rc<TcpStreamDebug>>>,
    /// Why this side has shut the present connection down.
    doom: RefCell<Option<LinkError>>,
    outbox: RefCell<Vec<u8>>,
    queued: Notify,
    /// Who waits for reports, in the order of the requests.
    reports: RefCell<VecDeque<oneshot::Sender<String>>>,
}

/// [`TcpStream`] has no `Debug` of its own.
struct TcpStreamDebug(TcpStream);

impl std::fmt::Debug for TcpStreamDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TcpStream")
    }
}

impl Link {
    pub(crate) fn new(replica: ReplicaId, address: SocketAddr) -> Self {
        Self {
            replica,
            address,
            state: RefCell::new(LinkState::Down(LinkError::NotTried)),
            stream: RefCell::new(None),
            doom: RefCell::new(None),
            outbox: RefCell::new(Vec::new()),
            queued: Notify::new(),
            reports: RefCell::new(VecDeque::new()),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        *self.state.borrow() == LinkState::Connected
    }

    /// Whether one side has refused the other, which waiting does not mend.
    pub(crate) fn is_refused(&self) -> bool {
        match &*self.state.borrow() {
            // There may be room for this client the next time.
            LinkState::Down(LinkError::Handshake(HandshakeError::RefusedByPeer(Refusal::Full))) => false,
            LinkState::Down(LinkError::Handshake(_)) => true,
            LinkState::Connected | LinkState::Down(_) => false,
        }
    }

    /// One line for error messages.
    pub(crate) fn describe(&self) -> String {
        let (replica, address) = (self.replica, self.address);
        match &*self.state.borrow() {
            LinkState::Connected => format!("\n  replica {replica} at {address}: connected"),
            LinkState::Down(error) => format!("\n  replica {replica} at {address}: {error}"),
        }
    }

    /// Queues a frame; without a connection it is dropped, since the session sends again what is open.
    pub(crate) fn queue(&self, frame: &Frame) {
        if self.stream.borrow().is_none() {
            return;
        }
        let mut outbox = self.outbox.borrow_mut();
        if outbox.is_empty() {
            self.queued.notify_one();
        }
        outbox.extend_from_slice(frame.bytes());
        let bytes = outbox.len();
        if bytes > QUEUE_BYTES_MAX {
            outbox.clear();
            self.shut(LinkError::Stalled { bytes });
        }
    }

    /// Sends `request` and notes who waits for the report. Without a connection nobody answers.
    pub(crate) fn ask(&self, request: &Frame) -> oneshot::Receiver<String> {
        let (sender, receiver) = oneshot::channel();
        if self.stream.borrow().is_some() {
            self.reports.borrow_mut().push_back(sender);
            self.queue(request);
        }
        receiver
    }

    /// Ends the present connection, if there is one; its reader then cleans up.
    pub(crate) fn shut(&self, reason: LinkError) {
        if let Some(stream) = &*self.stream.borrow() {
            *self.doom.borrow_mut() = Some(reason);
            // A socket that the other side has already reset cannot be shut down, and need not be.
            let _ = stream.0.shutdown(Shutdown::Both);
        }
        self.queued.notify_one();
    }

    fn start(&self, stream: &Rc<TcpStreamDebug>) {
        *self.doom.borrow_mut() = None;
        self.outbox.borrow_mut().clear();
        *self.stream.borrow_mut() = Some(Rc::clone(stream));
    }

    /// Forgets the connection; whoever waits for a report learns that none comes.
    fn end(&self, error: LinkError) {
        self.shut(error);
        *self.stream.borrow_mut() = None;
        self.outbox.borrow_mut().clear();
        self.reports.borrow_mut().clear();
        self.queued.notify_one();
    }
}

/// Keeps a connection to `replica` until the client is closed.
pub(crate) async fn keep_connected(shared: Rc<Shared>, replica: ReplicaId) {
    let mut wait = RECONNECT_WAIT_MIN;
    while !shared.is_closed() {
        let link = shared.link(replica);
        let error = connection(&shared, replica).await;
        let was_connected = link.is_connected();
        tracing::debug!(%replica, address = %link.address, %error, "connection ended");
        *link.state.borrow_mut() = LinkState::Down(error);
        shared.on_disconnected(replica);
        if was_connected {
            wait = RECONNECT_WAIT_MIN;
        }
        if !shared.is_closed() {
            shared.pause(wait).await;
        }
        wait = (wait * 2).min(RECONNECT_WAIT_MAX);
    }
}

/// Makes a connection and serves it; returns why it ended.
async fn connection(shared: &Rc<Shared>, replica: ReplicaId) -> LinkError {
    let link = shared.link(replica);
    let stream = match tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(link.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return LinkError::Io(error.to_string()),
        Err(_) => return LinkError::ConnectDeadline,
    };
    if let Err(error) = stream.set_nodelay(true) {
        return LinkError::Io(error.to_string());
    }
    let mut nonce = [0; 32];
    if let Err(error) = getrandom::fill(&mut nonce) {
        return LinkError::Random(error.to_string());
    }
    let stream = Rc::new(TcpStreamDebug(stream));
    link.start(&stream);
    if shared.is_closed() {
        link.shut(LinkError::Ended);
    }
    let key = shared.key().clone();
    let identity = Identity::Client { key: *key.public().as_bytes() };
    let (dialer, hello) = Dialer::start(Arc::clone(shared.config()), key, identity, replica, nonce);
    link.queue(&hello);
    let writer = tokio_uring::spawn(write_all_queued(Rc::clone(shared), replica, Rc::clone(&stream)));
    let watchdog = tokio_uring::spawn(watch_handshake(Rc::clone(shared), replica));
    let found = read_frames(shared, replica, &stream, dialer).await;
    let error = link.doom.borrow_mut().take().unwrap_or(found);
    watchdog.abort();
    link.end(error.clone());
    if let Err(error) = writer.await {
        tracing::error!(%replica, %error, "the writer failed");
    }
    error
}

async fn watch_handshake(shared: Rc<Shared>, replica: ReplicaId) {
    tokio::time::sleep(HANDSHAKE_DEADLINE).await;
    let link = shared.link(replica);
    if !link.is_connected() {
        link.shut(LinkError::HandshakeDeadline);
    }
}

/// Writes whatever is queued until the connection ends.
async fn write_all_queued(shared: Rc<Shared>, replica: ReplicaId, stream: Rc<TcpStreamDebug>) {
    let link = shared.link(replica);
    let mut buffer = Vec::new();
    loop {
        while link.outbox.borrow().is_empty() {
            if link.stream.borrow().is_none() {
                return;
            }
            link.queued.notified().await;
        }
        std::mem::swap(&mut buffer, &mut *link.outbox.borrow_mut());
        let (result, returned) = stream.0.write_all(buffer).await;
        buffer = returned;
        buffer.clear();
        if let Err(error) = result {
            link.shut(LinkError::Io(error.to_string()));
            return;
        }
    }
}

/// Reads until the connection ends; returns why.
async fn read_frames(
    shared: &Rc<Shared>,
    replica: ReplicaId,
    stream: &Rc<TcpStreamDebug>,
    mut dialer: Dialer,
) -> LinkError {
    let link = shared.link(replica);
    let mut assembler = Assembler::new(limits::HANDSHAKE_BYTES_MAX);
    let mut buffer = Vec::with_capacity(READ_BYTES);
    loop {
        let (result, returned) = stream.0.read(buffer).await;
        buffer = returned;
        let mut input = match result {
            Ok(0) => return LinkError::Ended,
            Ok(count) => &buffer[..count],
            Err(error) => return LinkError::Io(error.to_string()),
        };
        loop {
            let taken = match assembler.next(&mut input) {
                Ok(Some(frame)) if link.is_connected() => on_frame(shared, replica, frame),
                Ok(Some(frame)) => shake_hands(shared, replica, &mut dialer, frame),
                Ok(None) => break,
                Err(error) => Err(LinkError::Protocol(error)),
            };
            match taken {
                Ok(()) if link.is_connected() => assembler.set_limit(limits::FRAME_BYTES_MAX),
                Ok(()) => {}
                Err(error) => return error,
            }
        }
    }
}

fn shake_hands(
    shared: &Shared,
    replica: ReplicaId,
    dialer: &mut Dialer,
    frame: FrameRef<'_>,
) -> Result<(), LinkError> {
    let link = shared.link(replica);
    match dialer.on_frame(frame) {
        Ok(DialerStep::Send(proof)) => link.queue(&proof),
        Ok(DialerStep::Done) => {
            *link.state.borrow_mut() = LinkState::Connected;
            tracing::debug!(%replica, address = %link.address, "connected");
            shared.on_connected(replica);
        }
        Err(HandshakeError::Decode(error)) => return Err(LinkError::Protocol(error)),
        Err(error) => return Err(LinkError::Handshake(error)),
    }
    Ok(())
}

fn on_frame(shared: &Shared, replica: ReplicaId, frame: FrameRef<'_>) -> Result<(), LinkError> {
    if frame.kind == Kind::Report {
        let report = Report::from_frame(frame).map_err(LinkError::Protocol)?;
        if let Some(waiter) = shared.link(replica).reports.borrow_mut().pop_front() {
            // Whoever asked may have given up.
            let _ = waiter.send(report.json);
        }
        return Ok(());
    }
    shared.on_frame(replica, frame).map_err(LinkError::Protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_is_full_may_have_room_later_and_one_that_refuses_will_not() {
        let link = Link::new(ReplicaId(0), "127.0.0.1:1".parse().unwrap());
        for (refusal, is_final) in [(Refusal::Full, false), (Refusal::UnknownKey, true)] {
            let error = LinkError::Handshake(HandshakeError::RefusedByPeer(refusal));
            *link.state.borrow_mut() = LinkState::Down(error);
            assert_eq!(link.is_refused(), is_final, "{refusal:?}");
        }
    }

    #[test]
    fn a_replica_that_does_not_read_costs_bounded_memory_and_then_its_connection() {
        tokio_uring::start(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let link = Link::new(ReplicaId(0), address);
            let frame = Frame::encode(Kind::Bundle, |out| out.extend_from_slice(&[0; 1_000_000]));
            link.queue(&frame);
            assert!(link.outbox.borrow().is_empty(), "nothing is kept without a connection");

            link.start(&Rc::new(TcpStreamDebug(TcpStream::connect(address).await.unwrap())));
            let answer = link.ask(&frame);
            for _ in 0..3 * limits::OPEN_BUNDLES_MAX {
                link.queue(&frame);
                assert!(link.outbox.borrow().len() <= QUEUE_BYTES_MAX);
            }
            let doom = link.doom.borrow().clone();
            assert!(matches!(doom, Some(LinkError::Stalled { .. })), "{doom:?}");
            link.end(LinkError::Ended);
            assert!(answer.await.is_err(), "who waits for a report is told");
        });
    }
}
