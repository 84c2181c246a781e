//! The middle rung: one thread, non-blocking sockets and epoll. Each peer has two buffers that take turns, one that
//! messages are copied to and one that is being sent, as in the reactor; a peer whose socket is full waits for its
//! edge.

use super::job::Job;
use super::rung::{PATIENCE, Rung, connect, read_receipts};
use super::stream::{Message, Receipt};
use anyhow::{Context as _, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;

#[derive(Debug, Default)]
struct Outgoing {
    staged: Vec<u8>,
    flying: Vec<u8>,
    /// Bytes of `flying` that are sent.
    offset: usize,
    full: bool,
}

impl Outgoing {
    fn queued_bytes(&self) -> usize {
        self.staged.len() + self.flying.len() - self.offset
    }

    /// Sends until nothing is queued or the socket is full; returns the number of sends.
    fn send(&mut self, stream: &mut TcpStream) -> anyhow::Result<u64> {
        let mut sends = 0;
        while !self.full && self.queued_bytes() > 0 {
            if self.offset == self.flying.len() {
                self.flying.clear();
                self.offset = 0;
                std::mem::swap(&mut self.staged, &mut self.flying);
            }
            sends += 1;
            match stream.write(&self.flying[self.offset..]) {
                Ok(sent) => {
                    self.offset += sent;
                    // A short send says that the socket is full; there will be an edge when it is not.
                    self.full = self.offset < self.flying.len();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.full = true,
                Err(error) => return Err(error).context("sending"),
            }
        }
        Ok(sends)
    }
}

/// Non-blocking sockets with their buffers.
pub(super) struct Epoll {
    epoll: OwnedFd,
    streams: Vec<TcpStream>,
    outgoing: Vec<Outgoing>,
    events: Vec<epoll::Event>,
    window_bytes: usize,
    syscalls: u64,
}

impl Epoll {
    pub(super) fn open(job: &Job) -> anyhow::Result<Self> {
        let streams = connect(job)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (index, stream) in streams.iter().enumerate() {
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, stream, EventData::new_u64(index as u64), EventFlags::OUT | EventFlags::ET)?;
        }
        let outgoing = streams.iter().map(|_| Outgoing::default()).collect();
        let events = Vec::with_capacity(streams.len());
        Ok(Self { epoll, streams, outgoing, events, window_bytes: job.window_bytes, syscalls: 0 })
    }

    fn queued_bytes(&self) -> usize {
        self.outgoing.iter().map(Outgoing::queued_bytes).max().unwrap_or(0)
    }

    fn send(&mut self) -> anyhow::Result<()> {
        for (outgoing, stream) in self.outgoing.iter_mut().zip(&mut self.streams) {
            self.syscalls += outgoing.send(stream)?;
        }
        Ok(())
    }

    /// Asks which full sockets have room again, and waits for one if `patience` is not zero.
    fn poll(&mut self, patience: Timespec) -> anyhow::Result<()> {
        self.events.clear();
        self.syscalls += 1;
        epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&patience))?;
        for event in &self.events {
            let index = usize::try_from(event.data.u64()).context("an event of nobody")?;
            self.outgoing[index].full = false;
        }
        Ok(())
    }

    fn send_down_to(&mut self, bytes: usize) -> anyhow::Result<()> {
        let patience = Timespec::try_from(PATIENCE).context("too much patience")?;
        while self.queued_bytes() > bytes {
            self.poll(patience)?;
            ensure!(!self.events.is_empty(), "a receiver takes nothing");
            self.send()?;
        }
        Ok(())
    }
}

impl Rung for Epoll {
    fn broadcast(&mut self, message: &Message) -> anyhow::Result<()> {
        self.outgoing.iter_mut().for_each(|outgoing| outgoing.staged.extend_from_slice(message));
        Ok(())
    }

    fn end_burst(&mut self) -> anyhow::Result<()> {
        if self.outgoing.iter().any(|outgoing| outgoing.full) {
            self.poll(Timespec { tv_sec: 0, tv_nsec: 0 })?;
        }
        self.send()?;
        match self.queued_bytes() > self.window_bytes {
            true => self.send_down_to(self.window_bytes / 2),
            false => Ok(()),
        }
    }

    fn receipts(&mut self) -> anyhow::Result<Vec<Receipt>> {
        self.send()?;
        self.send_down_to(0)?;
        // Waiting for receipts is no part of sending, so the simplest way will do.
        self.streams.iter().try_for_each(|stream| stream.set_nonblocking(false))?;
        let receipts = read_receipts(&mut self.streams)?;
        self.streams.iter().try_for_each(|stream| stream.set_nonblocking(true))?;
        self.syscalls += 3 * self.streams.len() as u64;
        Ok(receipts)
    }

    fn own_syscalls(&self) -> Option<u64> {
        Some(self.syscalls)
    }
}
