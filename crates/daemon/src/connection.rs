//! One TCP connection: its handshake, then frames for a peer's link or a client.

use crate::accounts::{Accounts, Held};
use crate::backlog::{Backlog, Taken};
use quorate_types::{LinkId, ReplicaId, limits};
use quorate_wire::handshake::{Accepts, Dialer, Listener};
use quorate_wire::{Assembler, Frame, Kind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a handshake may take.
pub(crate) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Dialed and not yet established.
    Connecting { peer: ReplicaId, link: LinkId },
    /// Dialed; the handshake is under way.
    Dialing { peer: ReplicaId, link: LinkId, dialer: Box<Dialer> },
    /// Accepted; the handshake is under way.
    Listening { listener: Box<Listener>, accepts: Accepts },
    /// A link to a peer stands.
    Peer { peer: ReplicaId, link: LinkId },
    /// A client is connected, under this number; so many of its requests for reports are open.
    Client { number: u64, reports: usize, held: Held },
    /// Being closed; what still arrives is dropped.
    Closing,
}

/// A client asks before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TooManyOpen {
    #[error("too many requests for reports at once")]
    Reports,
    #[error("too many questions about states at once")]
    Questions,
}

impl TooManyOpen {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Reports => "report_questions",
            Self::Questions => "state_questions",
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) phase: Phase,
    pub(crate) assembler: Assembler,
    pub(crate) address: SocketAddr,
    /// When the handshake must be complete.
    pub(crate) expires: Instant,
    /// When the other side has said something last, or was told something.
    pub(crate) heard: Instant,
    pub(crate) taken: Taken,
    pub(crate) backlog: Backlog,
}

impl Connection {
    pub(crate) fn new(phase: Phase, address: SocketAddr, now: Instant) -> Self {
        let assembler = Assembler::new(limits::HANDSHAKE_BYTES_MAX);
        let (taken, backlog) = (Taken::nothing(now), Backlog::default());
        Self { phase, assembler, address, expires: now + HANDSHAKE_TIME_MAX, heard: now, taken, backlog }
    }

    /// The longest payload of a frame that may come next. What a client may make this replica hold is less than
    /// what a peer may, because there are many more clients.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        match self.phase {
            Phase::Peer { .. } => limits::FRAME_BYTES_MAX,
            Phase::Client { .. } => limits::BUNDLE_BYTES_MAX,
            _ => limits::HANDSHAKE_BYTES_MAX,
        }
    }

    /// A client has sent a frame of this kind: its number, unless it may not ask for that now.
    pub(crate) fn ask(
        &mut self,
        kind: Kind,
        now: Instant,
        accounts: &mut Accounts,
    ) -> Result<u64, TooManyOpen> {
        // No client has the number 0.
        let Phase::Client { number, reports, held } = &mut self.phase else { return Ok(0) };
        held.end_frame();
        match kind {
            Kind::ReportRequest if *reports >= limits::REPORTS_OPEN_MAX => return Err(TooManyOpen::Reports),
            Kind::ReportRequest => *reports += 1,
            Kind::FetchPages | Kind::FetchCertificate if !accounts.ask(held) => {
                return Err(TooManyOpen::Questions);
            }
            _ => {}
        }
        self.heard = now;
        Ok(*number)
    }

    pub(crate) fn is_shaking_hands(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. } | Phase::Dialing { .. } | Phase::Listening { .. })
    }
}

/// Frames of at most this size are copied together into one send; larger ones are sent from where they are.
pub(crate) const COPIED_BYTES_MAX: usize = 1024;

/// Whether a frame is worth copying.
pub(crate) fn is_small(frame: &Frame) -> bool {
    frame.bytes().len() <= COPIED_BYTES_MAX
}
