//! One replica under simulation: its cores with their inboxes, its disk, its clock and what faults do to it.

use crate::disk::Disk;
use crate::event::Life;
use quorate_journal::{Record, WriteId};
use quorate_replica::mail::Mail;
use quorate_replica::{Answered, ClientConnection, Core, Input, Intake};
use quorate_types::{CoreId, Digest, JournalId, LinkId, Lsn, Nanoseconds, ReplicaId};
use quorate_wire::{Frame, Position};
use std::collections::{BTreeSet, VecDeque};

/// An input that waits for a core; the owned form of [`Input`].
#[derive(Debug)]
pub enum Arrival {
    /// See [`Input::PeerConnected`].
    PeerConnected(ReplicaId, LinkId),
    /// See [`Input::PeerDisconnected`].
    PeerDisconnected(ReplicaId, LinkId),
    /// See [`Input::PeerDrained`].
    PeerDrained(ReplicaId, LinkId),
    /// See [`Input::PeerTook`].
    PeerTook(ReplicaId, LinkId, Answered),
    /// See [`Input::PeerFrame`].
    PeerFrame(ReplicaId, LinkId, Frame),
    /// See [`Input::ClientConnected`].
    ClientConnected(ClientConnection, [u8; 32]),
    /// See [`Input::ClientDisconnected`].
    ClientDisconnected(ClientConnection),
    /// See [`Input::ClientFrame`].
    ClientFrame(ClientConnection, Frame),
    /// See [`Input::Mail`].
    Mail(Mail),
    /// See [`Input::Durable`].
    Durable(JournalId, Lsn),
    /// See [`Input::Checkpointed`].
    Checkpointed(Position, Digest),
    /// See [`Input::ReadBack`].
    ReadBack(JournalId, Lsn, Option<Record>),
    /// See [`Input::Lost`].
    Lost(JournalId, Lsn),
    /// See [`Input::Intake`].
    Intake(Intake),
}

impl Arrival {
    /// Hands the input to `step`.
    pub fn hand_to<T>(self, step: impl FnOnce(Input<'_>) -> T) -> T {
        match self {
            Self::PeerConnected(peer, link) => step(Input::PeerConnected { peer, link }),
            Self::PeerDisconnected(peer, link) => step(Input::PeerDisconnected { peer, link }),
            Self::PeerDrained(peer, link) => step(Input::PeerDrained { peer, link }),
            Self::PeerTook(peer, link, answered) => step(Input::PeerTook { peer, link, answered }),
            Self::PeerFrame(peer, link, frame) => {
                step(Input::PeerFrame { peer, link, frame: frame.as_frame_ref() })
            }
            Self::ClientConnected(connection, key) => step(Input::ClientConnected { connection, key }),
            Self::ClientDisconnected(connection) => step(Input::ClientDisconnected { connection }),
            Self::ClientFrame(connection, frame) => {
                step(Input::ClientFrame { connection, frame: frame.as_frame_ref() })
            }
            Self::Mail(mail) => step(Input::Mail(mail)),
            Self::Durable(journal, upto) => step(Input::Durable { journal, upto }),
            Self::Checkpointed(position, root) => step(Input::Checkpointed { position, root }),
            Self::ReadBack(journal, lsn, record) => step(Input::ReadBack { journal, lsn, record }),
            Self::Lost(journal, lsn) => step(Input::Lost { journal, lsn }),
            Self::Intake(intake) => step(Input::Intake(intake)),
        }
    }
}

/// One core of a replica.
#[derive(Debug)]
pub struct CoreHost {
    /// The state machine.
    pub core: Core,
    /// What it has not taken yet.
    pub inbox: VecDeque<Arrival>,
    /// When it ticks next; a tick event at another time is void.
    pub tick_at: Option<Nanoseconds>,
    /// Messages on their way from each core of the replica.
    pub mail: Vec<VecDeque<Mail>>,
    /// Ticks in a row that had no input and left a deadline that was over already.
    pub spins: u32,
}

/// What a disk was to do when it stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stalled {
    /// To end a write to the log of a core.
    Write(CoreId, WriteId),
    /// To make a segment of the log of a core.
    Segment(CoreId),
    /// To read a record of the log of a core back.
    Read(CoreId, JournalId, Lsn),
    /// To end a checkpoint.
    Pages,
}

/// One replica.
#[derive(Debug)]
pub struct Host {
    /// Its present life, or the last one.
    pub life: Life,
    /// Its cores; none while it is down.
    pub cores: Vec<CoreHost>,
    /// Its disk.
    pub disk: Disk,
    /// How far its clock is ahead of the true one.
    pub clock: Nanoseconds,
    /// How many faults keep it down.
    pub downs: u32,
    /// Whether its disk was damaged since it crashed.
    pub damaged: bool,
    /// After how many more effects it crashes.
    pub crashes_after: Option<u64>,
    /// How many faults pause it.
    pub pauses: u32,
    /// How many times as long its cores take.
    pub slowness: u64,
    /// How many faults stall its disk.
    pub stalls: u32,
    /// How many faults fill its disk.
    pub fills: u32,
    /// How full they leave it.
    pub filled: u8,
    /// What fell due while the disk was stalled or full.
    pub stalled: Vec<Stalled>,
    /// The links that its cores know to stand.
    pub links: BTreeSet<(ReplicaId, LinkId)>,
    /// The number of the next client connection.
    pub client_connections: u64,
}

impl Host {
    /// A replica that has seen nothing yet.
    #[must_use]
    pub fn new(replica: ReplicaId, cores: Vec<Core>, disk: Disk, clock: Nanoseconds) -> Self {
        Self {
            life: Life { replica, number: 0 },
            cores: core_hosts(cores),
            disk,
            clock,
            downs: 0,
            damaged: false,
            crashes_after: None,
            pauses: 0,
            slowness: 1,
            stalls: 0,
            fills: 0,
            filled: replica.0 % 3,
            stalled: Vec::new(),
            links: BTreeSet::new(),
            client_connections: 0,
        }
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.cores.is_empty()
    }

    /// The process is gone, with all that it knew.
    pub fn crash(&mut self) {
        self.life.number += 1;
        self.cores.clear();
        self.links.clear();
        self.stalled.clear();
        self.crashes_after = None;
    }

    /// The process runs again.
    pub fn restart(&mut self, cores: Vec<Core>) {
        self.cores = core_hosts(cores);
    }

    /// The time on the replica's clock.
    #[must_use]
    pub fn local(&self, now: Nanoseconds) -> Nanoseconds {
        now.plus(self.clock.0)
    }

    /// The true time when the replica's clock shows `local`, but not before `now`.
    #[must_use]
    pub fn global(&self, local: Nanoseconds, now: Nanoseconds) -> Nanoseconds {
        Nanoseconds(local.since(self.clock)).max(now)
    }
}

fn core_hosts(cores: Vec<Core>) -> Vec<CoreHost> {
    let count = cores.len();
    let host = |core| CoreHost {
        core,
        inbox: VecDeque::new(),
        tick_at: None,
        mail: (0..count).map(|_| VecDeque::new()).collect(),
        spins: 0,
    };
    cores.into_iter().map(host).collect()
}
