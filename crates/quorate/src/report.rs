//! Asking replicas for their reports, each on a connection of its own.
//!
//! The driver of `quorate_client` needs a quorum before it does anything; whoever asks what is wrong with a
//! cluster must be answered by a single replica too. Asking opens no session and orders nothing.

use quorate_telemetry::ReplicaReport;
use quorate_types::{ClusterConfig, ReplicaId, SigningKey, limits};
use quorate_wire::handshake::{Dialer, DialerStep, Identity};
use quorate_wire::message::{Message, Report, ReportRequest};
use quorate_wire::{Assembler, Kind};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A replica's report, or one line that says why there is none.
pub(crate) type Answer = Result<ReplicaReport, String>;

/// Asks for positions and costs alone, which is what costs a replica least.
pub(crate) const POSITIONS: ReportRequest = ReportRequest { root: false, histograms: false };

/// Asks for histograms too.
pub(crate) const WITH_HISTOGRAMS: ReportRequest = ReportRequest { root: false, histograms: true };

/// Asks for the root of the state too.
pub(crate) const WITH_ROOT: ReportRequest = ReportRequest { root: true, histograms: false };

/// Asks all replicas at the same time, each for at most `time`; the answers are in the order of the ids.
pub(crate) fn ask_all(
    config: &Arc<ClusterConfig>,
    key: &SigningKey,
    request: &ReportRequest,
    time: Duration,
) -> Vec<Answer> {
    let deadline = Instant::now() + time;
    std::thread::scope(|scope| {
        let threads: Vec<_> = config
            .replica_ids()
            .map(|replica| scope.spawn(move || ask(config, key, replica, request, deadline)))
            .collect();
        let lost = |_| Err("the thread that asked it failed".to_owned());
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
    })
}

fn ask(
    config: &Arc<ClusterConfig>,
    key: &SigningKey,
    replica: ReplicaId,
    request: &ReportRequest,
    deadline: Instant,
) -> Answer {
    let connection = Connection::open(config, replica, deadline)?;
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| format!("the system's random source failed: {error}"))?;
    let identity = Identity::Client { key: *key.public().as_bytes() };
    let (mut dialer, hello) = Dialer::start(Arc::clone(config), key.clone(), identity, replica, nonce);
    connection.send(hello.bytes())?;
    let mut assembler = Assembler::new(limits::HANDSHAKE_BYTES_MAX);
    let mut established = false;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = connection.receive(&mut buffer)?;
        let mut input = &buffer[..length];
        while let Some(frame) = assembler.next(&mut input).map_err(|error| error.to_string())? {
            if established && frame.kind == Kind::Report {
                let report = Report::from_frame(frame).map_err(|error| error.to_string())?;
                return serde_json::from_str(&report.json)
                    .map_err(|error| format!("its report is of another version of quorate: {error}"));
            }
            match dialer.on_frame(frame).map_err(|error| error.to_string())? {
                DialerStep::Send(proof) => connection.send(proof.bytes())?,
                DialerStep::Done => {
                    established = true;
                    connection.send(request.encode().bytes())?;
                }
            }
        }
        if established {
            assembler.set_limit(limits::FRAME_BYTES_MAX);
        }
    }
}

/// A blocking connection that ends at a deadline.
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
