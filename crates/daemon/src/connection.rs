//! One TCP connection: its handshake, then frames for a peer's link or a client.

use quorate_types::{LinkId, ReplicaId, limits};
use quorate_wire::handshake::{Dialer, Listener};
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
    Listening { listener: Box<Listener> },
    /// A link to a peer stands.
    Peer { peer: ReplicaId, link: LinkId },
    /// A client is connected, under this number.
    Client { number: u64 },
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

    /// The handshake is complete: frames of full size are allowed from now on.
    pub(crate) fn establish(&mut self, phase: Phase) {
        self.phase = phase;
        self.assembler.set_limit(limits::FRAME_BYTES_MAX);
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
