//! One TCP connection: its handshake, then frames for a peer's link or a client.

use quorate_types::{LinkId, ReplicaId, limits};
use quorate_wire::handshake::{Accepts, Dialer, Listener};
use quorate_wire::{Assembler, Frame};
use std::net::SocketAddr;
use std::time::Instant;

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
    /// A client is connected, under this number; so many of its requests for reports are open, and of its questions
    /// about states.
    Client { number: u64, reports: usize, questions: usize },
    /// Being closed; what still arrives is dropped.
    Closing,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) phase: Phase,
    pub(crate) assembler: Assembler,
    pub(crate) address: SocketAddr,
    /// When the handshake must be complete.
    pub(crate) expires: Instant,
}

impl Connection {
    pub(crate) fn new(phase: Phase, address: SocketAddr, expires: Instant) -> Self {
        Self { phase, assembler: Assembler::new(limits::HANDSHAKE_BYTES_MAX), address, expires }
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

    pub(crate) fn is_shaking_hands(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. } | Phase::Dialing { .. } | Phase::Listening { .. })
    }
}

/// How many connections of one core are in their handshakes, by what they are for. Each has a limit of its own, so
/// that a crowd at the clients' door does not keep the other replicas out.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    pub(crate) dialed: usize,
    pub(crate) from_replicas: usize,
    pub(crate) from_clients: usize,
}

impl Handshakes {
    fn of(&mut self, phase: &Phase) -> Option<&mut usize> {
        match phase {
            Phase::Connecting { .. } | Phase::Dialing { .. } => Some(&mut self.dialed),
            Phase::Listening { accepts: Accepts::Replicas { .. }, .. } => Some(&mut self.from_replicas),
            Phase::Listening { accepts: Accepts::Clients, .. } => Some(&mut self.from_clients),
            Phase::Peer { .. } | Phase::Client { .. } | Phase::Closing => None,
        }
    }

    /// A connection begins in `phase`.
    pub(crate) fn begin(&mut self, phase: &Phase) {
        if let Some(count) = self.of(phase) {
            *count += 1;
        }
    }

    /// A connection leaves `phase`, for the better or the worse.
    pub(crate) fn end(&mut self, phase: &Phase) {
        if let Some(count) = self.of(phase) {
            *count = count.checked_sub(1).expect("invariant: every handshake that ends has begun");
        }
    }

    pub(crate) fn are_open(&self) -> bool {
        self.dialed + self.from_replicas + self.from_clients > 0
    }
}

/// Frames of at most this size are copied together into one send; larger ones are sent from where they are.
pub(crate) const COPIED_BYTES_MAX: usize = 1024;

/// Whether a frame is worth copying.
pub(crate) fn is_small(frame: &Frame) -> bool {
    frame.bytes().len() <= COPIED_BYTES_MAX
}
