//! What the rungs have in common, and their names.

use super::condvar::Condvar;
use super::epoll::Epoll;
use super::job::Job;
use super::stream::{Message, RECEIPT_BYTES, Receipt, opening};
use super::uring::{Enter, Uring};
use anyhow::Context as _;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// No rung waits longer than this for receivers that take nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A way to broadcast.
pub(super) trait Rung {
    /// Takes one message for all receivers.
    fn broadcast(&mut self, message: &Message) -> anyhow::Result<()>;

    /// The burst is over. Returns when so little is queued that the next one may come ([`Job::window_bytes`]).
    fn end_burst(&mut self) -> anyhow::Result<()>;

    /// Waits for a receipt of every receiver; the last broadcast was a mark.
    fn receipts(&mut self) -> anyhow::Result<Vec<Receipt>>;

    /// System calls made so far, if all of them are made by the rung's own hand.
    fn own_syscalls(&self) -> Option<u64>;
}

/// The rungs, lowest first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RungName {
    /// A queue with a condition variable, a broadcast thread, and one blocking send per message and peer.
    Condvar,
    /// The same queue and thread, which takes all that is queued and makes one send per peer of it.
    CondvarCoalesced,
    /// One thread and non-blocking sockets: each peer has a buffer, which is sent once a burst.
    Epoll,
    /// The reactor: one entry per peer and one `io_uring_enter` per message.
    IoUringPerMessage,
    /// The reactor: one entry per peer and one `io_uring_enter` per burst.
    IoUringCoalesced,
}

impl RungName {
    /// All of them, lowest first.
    pub const ALL: [Self; 5] =
        [Self::Condvar, Self::CondvarCoalesced, Self::Epoll, Self::IoUringPerMessage, Self::IoUringCoalesced];

    /// Connects to the receivers of `job`.
    pub(super) fn open(self, job: &Job) -> anyhow::Result<Box<dyn Rung>> {
        Ok(match self {
            Self::Condvar => Box::new(Condvar::open(job, 1)?),
            Self::CondvarCoalesced => Box::new(Condvar::open(job, usize::MAX)?),
            Self::Epoll => Box::new(Epoll::open(job)?),
            Self::IoUringPerMessage => Box::new(Uring::open(job, Enter::PerMessage)?),
            Self::IoUringCoalesced => Box::new(Uring::open(job, Enter::PerBurst)?),
        })
    }
}

impl fmt::Display for RungName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Condvar => "condvar",
            Self::CondvarCoalesced => "condvar-coalesced",
            Self::Epoll => "epoll",
            Self::IoUringPerMessage => "io-uring-per-message",
            Self::IoUringCoalesced => "io-uring-coalesced",
        })
    }
}

/// Blocking connections to all receivers, opened.
pub(super) fn connect(job: &Job) -> anyhow::Result<Vec<TcpStream>> {
    let connect = |address: &_| -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&opening(job.message_bytes))?;
        Ok(stream)
    };
    job.receivers.iter().map(connect).collect()
}

/// The receipts that come on blocking connections.
pub(super) fn read_receipts(streams: &mut [TcpStream]) -> anyhow::Result<Vec<Receipt>> {
    let mut read = |stream: &mut TcpStream| {
        let mut bytes = [0; RECEIPT_BYTES];
        stream.read_exact(&mut bytes).context("waiting for a receipt")?;
        Ok(Receipt::read(bytes))
    };
    streams.iter_mut().map(&mut read).collect()
}
