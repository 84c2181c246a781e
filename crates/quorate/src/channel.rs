//! A blocking connection to one replica, as one of its clients, that asks one question at a time.
//!
//! It opens no session and orders nothing.

use quorate_types::{ClusterConfig, ReplicaId, SigningKey, limits};
use quorate_wire::handshake::{Dialer, DialerStep, HandshakeError, Identity};
use quorate_wire::message::Message;
use quorate_wire::{Assembler, Frame, FrameRef};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BUFFER_BYTES: usize = 64 * 1024;

/// Why there is no connection, in one line.
#[derive(Debug)]
pub(crate) struct Unopened {
    /// Whether the replica is there and has refused.
    pub(crate) refused: bool,
    pub(crate) text: String,
}

impl fmt::Display for Unopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for Unopened {
    fn from(text: String) -> Self {
        Self { refused: false, text }
    }
}

/// The connection, its handshake done. Errors are one line that says why there is no answer.
pub(crate) struct Channel {
    connection: Connection,
    assembler: Assembler,
    buffer: Vec<u8>,
    /// What has come and was not looked at yet, in the buffer.
    from: usize,
    to: usize,
}

impl Channel {
    /// Connects as the client with `key`, until `deadline`.
    pub(crate) fn open(
        config: &Arc<ClusterConfig>,
        key: &SigningKey,
        replica: ReplicaId,
        deadline: Instant,
    ) -> Result<Self, Unopened> {
        let connection = Connection::open(config, replica, deadline)?;
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|error| format!("the system's random source failed: {error}"))?;
        let identity = Identity::Client { key: *key.public().as_bytes() };
        let (mut dialer, hello) = Dialer::start(Arc::clone(config), key.clone(), identity, replica, nonce);
        connection.send(hello.bytes())?;
        let assembler = Assembler::new(limits::HANDSHAKE_BYTES_MAX);
        let mut channel = Self { connection, assembler, buffer: vec![0; BUFFER_BYTES], from: 0, to: 0 };
        loop {
            let mut refused = false;
            let step = channel.next(|frame| {
                dialer.on_frame(frame).map(Some).map_err(|error| {
                    refused = matches!(error, HandshakeError::RefusedByPeer(_));
                    error.to_string()
                })
            });
            match step.map_err(|text| Unopened { refused, text })? {
                DialerStep::Send(proof) => channel.connection.send(proof.bytes())?,
                DialerStep::Done => break,
            }
        }
        channel.assembler.set_limit(limits::FRAME_BYTES_MAX);
        Ok(channel)
    }

    /// Sends a question and waits for its answer, until `deadline`. Other frames are passed over.
    pub(crate) fn ask<T: Message>(&mut self, question: &Frame, deadline: Instant) -> Result<T, String> {
        self.connection.wait_from_now(deadline);
        self.connection.send(question.bytes())?;
        self.next(|frame| match frame.kind == T::KIND {
            true => T::from_frame(frame).map(Some).map_err(|error| error.to_string()),
            false => Ok(None),
        })
    }

    /// What `take` makes of the next frame of which it makes something.
    fn next<T>(
        &mut self,
        mut take: impl FnMut(FrameRef<'_>) -> Result<Option<T>, String>,
    ) -> Result<T, String> {
        loop {
            let mut input = &self.buffer[self.from..self.to];
            while let Some(frame) = self.assembler.next(&mut input).map_err(|error| error.to_string())? {
                if let Some(found) = take(frame)? {
                    self.from = self.to - input.len();
                    return Ok(found);
                }
            }
            let length = self.connection.receive(&mut self.buffer)?;
            (self.from, self.to) = (0, length);
        }
    }
}

/// A blocking connection with a deadline.
struct Connection {
    stream: TcpStream,
    deadline: Instant,
    started: Instant,
}

impl Connection {
    fn open(config: &ClusterConfig, replica: ReplicaId, deadline: Instant) -> Result<Self, String> {
        let started = Instant::now();
        let address = config.members()[replica.index()].client;
        let left = deadline.saturating_duration_since(started).max(Duration::from_millis(1));
        let stream = TcpStream::connect_timeout(&address, left).map_err(|error| error.to_string())?;
        Ok(Self { stream, deadline, started })
    }

    fn wait_from_now(&mut self, deadline: Instant) {
        (self.started, self.deadline) = (Instant::now(), deadline);
    }

    fn send(&self, bytes: &[u8]) -> Result<(), String> {
        let left = self.left()?;
        let sent = self.stream.set_write_timeout(Some(left)).and_then(|()| (&self.stream).write_all(bytes));
        sent.map_err(|error| self.explain(&error))
    }

    /// The number of bytes that came; zero when a signal interrupted the wait.
    fn receive(&self, buffer: &mut [u8]) -> Result<usize, String> {
        let left = self.left()?;
        match self.stream.set_read_timeout(Some(left)).and_then(|()| (&self.stream).read(buffer)) {
            Ok(0) => Err("it closed the connection".to_owned()),
            Ok(length) => Ok(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(self.explain(&error)),
        }
    }

    fn left(&self) -> Result<Duration, String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.silence()) } else { Ok(left) }
    }

    fn explain(&self, error: &std::io::Error) -> String {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.silence(),
            _ => error.to_string(),
        }
    }

    fn silence(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        format!("connected, but silent for {seconds:.1} s; is it stopped or overloaded?")
    }
}
