//! The two lower rungs: a queue guarded by a mutex and a condition variable, and a thread that sends.
//!
//! This is what a profile of a replica in another language showed: whoever has something to say puts it into a
//! queue and signals; a broadcast thread sleeps in a timed wait, takes one message, and under one mutex makes one
//! blocking send per peer. The second rung differs in one thing only: its thread takes all that is queued.

use super::job::Job;
use super::rung::{PATIENCE, Rung, connect, read_receipts};
use super::stream::{Message, Receipt};
use anyhow::{Context as _, anyhow, ensure};
use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Condvar as Signal, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the broadcast thread sleeps before it looks again, as the one in the profile did.
const TIMED_WAIT: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    /// Bytes that are queued or in the hands of the broadcast thread.
    bytes: usize,
    /// Whether the broadcast thread sleeps. The standard library enters the kernel for every signal, glibc only when somebody waits; with
    /// this the rungs cost what they would cost over pthread_cond_signal, and no more.
    broadcaster_waits: bool,
    /// The producer sleeps until so few bytes are left.
    producer_waits_for: Option<usize>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    filled: Signal,
    emptied: Signal,
}

impl Queue {
    fn lock(&self) -> anyhow::Result<MutexGuard<'_, State>> {
        self.state.lock().map_err(|_| anyhow!("the other thread panicked"))
    }

    /// Notes that `sent` bytes have left, then takes up to `limit` messages. None when there will be no more.
    fn take(&self, sent: usize, limit: usize, taken: &mut Vec<Message>) -> anyhow::Result<bool> {
        let mut guard = self.lock()?;
        let state = &mut *guard;
        state.bytes -= sent;
        if state.producer_waits_for.take_if(|level| state.bytes <= *level).is_some() {
            self.emptied.notify_one();
        }
        while guard.messages.is_empty() {
            if guard.closed {
                return Ok(false);
            }
            guard.broadcaster_waits = true;
            let waited = self.filled.wait_timeout(guard, TIMED_WAIT);
            guard = waited.map_err(|_| anyhow!("the other thread panicked"))?.0;
        }
        guard.broadcaster_waits = false;
        let count = guard.messages.len().min(limit);
        taken.extend(guard.messages.drain(..count));
        Ok(true)
    }

    fn push(&self, message: &Message) -> anyhow::Result<()> {
        let mut state = self.lock()?;
        state.bytes += message.len();
        state.messages.push_back(Arc::clone(message));
        // Cleared here, so that only one signal is made for a sleep.
        if std::mem::take(&mut state.broadcaster_waits) {
            drop(state);
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Above `window` bytes, waits until half of it is left.
    fn wait_for_window(&self, window: usize) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut state = self.lock()?;
        let allowed = if state.bytes > window { window / 2 } else { window };
        while state.bytes > allowed {
            ensure!(!state.closed && Instant::now() < end, "the broadcast thread has stopped");
            state.producer_waits_for = Some(allowed);
            let waited = self.emptied.wait_timeout(state, TIMED_WAIT);
            state = waited.map_err(|_| anyhow!("the other thread panicked"))?.0;
        }
        state.producer_waits_for = None;
        Ok(())
    }

    fn close(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.closed = true;
        }
        self.filled.notify_all();
        self.emptied.notify_all();
    }
}

/// A queue with the thread that empties it.
#[derive(Debug)]
pub(super) struct Condvar {
    queue: Arc<Queue>,
    window_bytes: usize,
    /// The same connections as those of the thread, for receipts.
    streams: Vec<TcpStream>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Condvar {
    /// The thread takes up to `limit` messages at once and makes one send per peer of them.
    pub(super) fn open(job: &Job, limit: usize) -> anyhow::Result<Self> {
        let streams = connect(job)?;
        let clones = streams.iter().map(TcpStream::try_clone).collect::<Result<_, _>>()?;
        let peers = Mutex::new(clones);
        let queue = Arc::new(Queue::default());
        let shared = Arc::clone(&queue);
        let run = move || {
            let result = empty(&shared, &peers, limit);
            shared.close();
            result
        };
        let thread = std::thread::Builder::new().name("broadcast".to_owned()).spawn(run)?;
        Ok(Self { queue, window_bytes: job.window_bytes, streams, thread: Some(thread) })
    }

    /// Why the thread has stopped, if that explains `error` better than it does itself.
    fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        self.queue.close();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(cause))) => cause,
            _ => error,
        }
    }
}

impl Drop for Condvar {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // If it failed, a receipt was missing, and that was reported.
            let _ = thread.join();
        }
    }
}

impl Rung for Condvar {
    fn broadcast(&mut self, message: &Message) -> anyhow::Result<()> {
        self.queue.push(message)
    }

    fn end_burst(&mut self) -> anyhow::Result<()> {
        let waited = self.queue.wait_for_window(self.window_bytes);
        waited.map_err(|error| self.explain(error))
    }

    fn receipts(&mut self) -> anyhow::Result<Vec<Receipt>> {
        let read = read_receipts(&mut self.streams);
        read.map_err(|error| self.explain(error))
    }

    /// Whether locking and signalling enter the kernel is the standard library's business.
    fn own_syscalls(&self) -> Option<u64> {
        None
    }
}

/// The broadcast thread.
fn empty(queue: &Queue, peers: &Mutex<Vec<TcpStream>>, limit: usize) -> anyhow::Result<()> {
    let (mut taken, mut together, mut sent) = (Vec::new(), Vec::new(), 0);
    while queue.take(sent, limit, &mut taken)? {
        let bytes: &[u8] = if let [message] = &taken[..] {
            message
        } else {
            together.clear();
            taken.iter().for_each(|message: &Message| together.extend_from_slice(message));
            &together
        };
        let mut peers = peers.lock().map_err(|_| anyhow!("the other thread panicked"))?;
        for peer in peers.iter_mut() {
            peer.write_all(bytes).context("sending")?;
        }
        drop(peers);
        sent = bytes.len();
        taken.clear();
    }
    Ok(())
}
