//! The upper rungs: the reactor of the daemon, entered once a message or once a burst.

use super::job::Job;
use super::rung::{PATIENCE, Rung};
use super::stream::{Message, RECEIPT_BYTES, Receipt, opening};
use anyhow::{Context as _, bail, ensure};
use quorate_reactor::{Chunk, ConnectionId, Event, Reactor, ReactorOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Above this size a message is shared with the kernel and not copied for each peer, as in the daemon.
const COPIED_BYTES_MAX: usize = 1024;

/// When the ring is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enter {
    /// After each message, and until the kernel has taken it for every peer: no two share a send.
    PerMessage,
    /// At the end of a burst.
    PerBurst,
}

/// A reactor with a connection to each receiver.
pub(super) struct Uring {
    reactor: Reactor,
    enter: Enter,
    /// The connections, each with the bytes that came on it.
    peers: BTreeMap<ConnectionId, Vec<u8>>,
    connected: usize,
    window_bytes: usize,
    /// A deadline that is always past: submit and do not sleep.
    past: Instant,
}

impl Uring {
    pub(super) fn open(job: &Job, enter: Enter) -> anyhow::Result<Self> {
        let mut reactor = Reactor::new(&ReactorOptions::default())?;
        let mut peers = BTreeMap::new();
        for address in &job.receivers {
            let connection = reactor.connect(*address)?;
            reactor.send(connection, &opening(job.message_bytes));
            peers.insert(connection, Vec::new());
        }
        let window_bytes = job.window_bytes;
        let mut uring = Self { reactor, enter, peers, connected: 0, window_bytes, past: Instant::now() };
        uring.wait_until(|uring| uring.connected == uring.peers.len())?;
        Ok(uring)
    }

    fn queued_bytes(&self) -> usize {
        self.peers.keys().map(|peer| self.reactor.queued_bytes(*peer)).max().unwrap_or(0)
    }

    fn take_events(&mut self) -> anyhow::Result<()> {
        while let Some(event) = self.reactor.next_event() {
            match event {
                Event::Connected { .. } => self.connected += 1,
                Event::Received { connection, buffer } => {
                    self.peers.get_mut(&connection).context("bytes of nobody")?.extend_from_slice(&buffer);
                }
                Event::Closed { reason, .. } => bail!("a receiver is gone: {reason}"),
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives everything to the kernel and takes what is done, without sleeping.
    fn submit(&mut self) -> anyhow::Result<()> {
        self.reactor.wait(Some(self.past))?;
        self.take_events()
    }

    fn wait_until(&mut self, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        self.take_events()?;
        let mut deadline = None;
        while !done(self) {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            self.reactor.wait(Some(deadline))?;
            self.take_events()?;
            ensure!(Instant::now() < deadline, "a receiver takes nothing");
        }
        Ok(())
    }
}

impl Rung for Uring {
    fn broadcast(&mut self, message: &Message) -> anyhow::Result<()> {
        for peer in self.peers.keys() {
            match message.len() {
                0..=COPIED_BYTES_MAX => self.reactor.send(*peer, message),
                _ => self.reactor.send_shared(*peer, Chunk::from_arc(Arc::clone(message))),
            }
        }
        match self.enter {
            Enter::PerBurst => Ok(()),
            Enter::PerMessage => {
                self.submit()?;
                self.wait_until(|uring| uring.queued_bytes() == 0)
            }
        }
    }

    fn end_burst(&mut self) -> anyhow::Result<()> {
        if self.enter == Enter::PerBurst {
            self.submit()?;
        }
        match self.queued_bytes() > self.window_bytes {
            true => self.wait_until(|uring| uring.queued_bytes() <= uring.window_bytes / 2),
            false => Ok(()),
        }
    }

    fn receipts(&mut self) -> anyhow::Result<Vec<Receipt>> {
        self.wait_until(|uring| uring.peers.values().all(|bytes| bytes.len() >= RECEIPT_BYTES))?;
        let mut read = |bytes: &mut Vec<u8>| {
            let receipt = bytes.first_chunk::<RECEIPT_BYTES>().map(|bytes| Receipt::read(*bytes));
            bytes.clear();
            receipt.context("a receipt is short")
        };
        self.peers.values_mut().map(&mut read).collect()
    }

    fn own_syscalls(&self) -> Option<u64> {
        let counters = self.reactor.counters();
        Some(counters.enters + counters.other_syscalls)
    }
}
