//! Cross-core mailboxes: a bounded SPSC ring per ordered pair of cores, with a local spill behind it.
//!
//! [`Mailbox::post`] never blocks and never loses: what does not fit into the ring waits in the sender's spill, in
//! order, and moves on at the next [`Reactor::wait_with`](crate::Reactor::wait_with). That call also rings the bells
//! of those that sleep, and lets this core sleep only when nothing is to be taken or moved. Why no wake-up is lost is
//! argued in `doorbell.rs`. Memory of the spill is not bounded here; who posts keeps to a budget (DESIGN section 7).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::doorbell::{Bell, Native, WaitFlag};

/// Messages that fit into the ring between two cores.
pub const RING_MESSAGES: usize = 1024;

/// The way to one other core.
struct Outlet<M> {
    producer: Producer<M>,
    spill: VecDeque<M>,
    /// Announced while the spill waits for room in the ring; the consumer claims it after making some.
    starved: Arc<WaitFlag<Native>>,
    /// Whether something was published since the bell was last considered.
    touched: bool,
}

impl<M> Outlet<M> {
    fn post(&mut self, message: M) {
        if self.spill.is_empty() {
            match self.producer.push(message) {
                Ok(()) => self.touched = true,
                Err(PushError::Full(message)) => self.spill.push_back(message),
            }
        } else {
            self.spill.push_back(message);
        }
    }

    /// Moves the spill into the ring as far as there is room, and asks for a call when there is not enough.
    fn flush(&mut self) {
        self.drain_spill();
        if !self.spill.is_empty() {
            self.starved.announce();
            self.drain_spill();
        }
    }

    fn drain_spill(&mut self) {
        while let Some(message) = self.spill.pop_front() {
            match self.producer.push(message) {
                Ok(()) => self.touched = true,
                Err(PushError::Full(message)) => {
                    self.spill.push_front(message);
                    return;
                }
            }
        }
    }

    /// Whether the spill needs no attention before the consumer calls.
    fn is_settled(&self) -> bool {
        self.spill.is_empty() || self.starved.stands()
    }
}

/// The way from one other core.
struct Inlet<M> {
    consumer: Consumer<M>,
    starved: Arc<WaitFlag<Native>>,
    /// Whether room was made since the sender was last considered.
    taken: bool,
}

/// One core's end of the mesh. It belongs to the thread of that core.
pub struct Mailbox<M> {
    core: usize,
    bells: Arc<[Bell]>,
    /// By core; none for the own one.
    outlets: Vec<Option<Outlet<M>>>,
    inlets: Vec<Option<Inlet<M>>>,
    /// Messages to the own core.
    own: VecDeque<M>,
    /// The core to ask first in the next take.
    turn: usize,
}

/// One mailbox for each of `cores` cores, by index, to be moved to the threads of those cores.
///
/// # Panics
/// When `cores` is zero.
pub fn mesh<M: Send>(cores: usize) -> Vec<Mailbox<M>> {
    mesh_with_capacity(cores, RING_MESSAGES)
}

/// The same with rings of `capacity` messages instead of [`RING_MESSAGES`].
///
/// # Panics
/// When `cores` or `capacity` is zero.
pub fn mesh_with_capacity<M: Send>(cores: usize, capacity: usize) -> Vec<Mailbox<M>> {
    assert!(cores > 0, "a mesh has at least one core");
    assert!(capacity > 0, "a ring holds at least one message");
    let bells: Arc<[Bell]> = (0..cores).map(|_| Bell::new()).collect();
    let mut mailboxes: Vec<Mailbox<M>> = (0..cores)
        .map(|core| Mailbox {
            core,
            bells: Arc::clone(&bells),
            outlets: (0..cores).map(|_| None).collect(),
            inlets: (0..cores).map(|_| None).collect(),
            own: VecDeque::new(),
            turn: 0,
        })
        .collect();
    for from in 0..cores {
        for to in (0..cores).filter(|to| *to != from) {
            let (producer, consumer) = RingBuffer::new(capacity);
            let starved = Arc::new(WaitFlag::new());
            let outlet =
                Outlet { producer, spill: VecDeque::new(), starved: Arc::clone(&starved), touched: false };
            mailboxes[from].outlets[to] = Some(outlet);
            mailboxes[to].inlets[from] = Some(Inlet { consumer, starved, taken: false });
        }
    }
    mailboxes
}

impl<M: Send> Mailbox<M> {
    /// The core that this mailbox belongs to.
    pub fn core(&self) -> usize {
        self.core
    }

    /// How many cores the mesh has.
    pub fn cores(&self) -> usize {
        self.bells.len()
    }

    /// Sends `message` to core `to`, which may be the own one. Never blocks, never loses; allocates only when the
    /// ring is full. A sleeping receiver is woken by the next wait of this core's reactor.
    ///
    /// # Panics
    /// When there is no core `to`.
    pub fn post(&mut self, to: usize, message: M) {
        match &mut self.outlets[to] {
            Some(outlet) => outlet.post(message),
            None => self.own.push_back(message),
        }
    }

    /// The next message, if there is one: from each core in its order, the cores in turn.
    pub fn take(&mut self) -> Option<M> {
        let cores = self.cores();
        for step in 0..cores {
            let from = (self.turn + step) % cores;
            let message = match &mut self.inlets[from] {
                Some(inlet) => {
                    let message = inlet.consumer.pop().ok();
                    inlet.taken |= message.is_some();
                    message
                }
                None => self.own.pop_front(),
            };
            if message.is_some() {
                self.turn = (from + 1) % cores;
                return message;
            }
        }
        None
    }

    /// Whether nothing is there to be taken.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.inlets.iter().flatten().all(|inlet| inlet.consumer.is_empty())
    }

    /// Messages that wait on this side because their rings are full.
    pub fn spilled(&self) -> usize {
        self.outlets.iter().flatten().map(|outlet| outlet.spill.len()).sum()
    }

    /// Moves spilled messages on and calls `ring` for each core that sleeps and has something new, or has room that
    /// it waits for. Without a reactor the receivers must poll, and `ring` may do nothing.
    pub(crate) fn flush(&mut self, mut ring: impl FnMut(usize, &Bell)) {
        for outlet in self.outlets.iter_mut().flatten() {
            if !outlet.spill.is_empty() {
                outlet.flush();
            }
        }
        self.call_starved_senders();
        if self.outlets.iter().flatten().all(|outlet| !outlet.touched) {
            return;
        }
        WaitFlag::<Native>::published();
        for (to, outlet) in self.outlets.iter_mut().enumerate() {
            let Some(outlet) = outlet else { continue };
            if std::mem::take(&mut outlet.touched) && self.bells[to].sleeping.claim() {
                ring(to, &self.bells[to]);
            }
        }
    }

    /// Marks those senders for a ring that wait for the room which was made here.
    fn call_starved_senders(&mut self) {
        if self.inlets.iter().flatten().all(|inlet| !inlet.taken) {
            return;
        }
        WaitFlag::<Native>::published();
        for (inlet, outlet) in self.inlets.iter_mut().zip(&mut self.outlets) {
            let (Some(inlet), Some(outlet)) = (inlet, outlet) else { continue };
            if std::mem::take(&mut inlet.taken) && inlet.starved.claim() {
                outlet.touched = true;
            }
        }
    }

    /// Whether this core may sleep: nothing to take, and every spill waits for a call that will come. Asked again
    /// after the sleep was announced.
    pub(crate) fn may_sleep(&self) -> bool {
        self.is_empty() && self.outlets.iter().flatten().all(Outlet::is_settled)
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bells[self.core]
    }

    pub(crate) fn bells(&self) -> &Arc<[Bell]> {
        &self.bells
    }
}

impl<M> fmt::Debug for Mailbox<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mailbox")
            .field("core", &self.core)
            .field("cores", &self.bells.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_spilled_and_follows_in_order() {
        let mut mailboxes = mesh_with_capacity::<u32>(2, 4);
        let mut receiver = mailboxes.pop().unwrap();
        let mut sender = mailboxes.pop().unwrap();
        for number in 0..100 {
            sender.post(1, number);
        }
        assert_eq!(sender.spilled(), 96);
        let mut expected = 0;
        while expected < 100 {
            while let Some(number) = receiver.take() {
                assert_eq!(number, expected);
                expected += 1;
            }
            receiver.flush(|_, _| {});
            sender.flush(|_, _| {});
        }
        assert_eq!(sender.spilled(), 0);
        assert!(sender.may_sleep() && receiver.may_sleep());
    }

    #[test]
    fn a_starved_sender_may_sleep_only_until_room_is_made() {
        let mut mailboxes = mesh_with_capacity::<u32>(2, 1);
        let mut receiver = mailboxes.pop().unwrap();
        let mut sender = mailboxes.pop().unwrap();
        sender.post(1, 1);
        sender.post(1, 2);
        assert!(!sender.may_sleep(), "the spill was not yet announced");
        sender.flush(|_, _| {});
        assert!(sender.may_sleep());
        sender.bell().sleeping.announce();
        assert_eq!(receiver.take(), Some(1));
        let mut rung = Vec::new();
        receiver.flush(|to, _| rung.push(to));
        assert_eq!(rung, [0]);
        assert!(!sender.may_sleep());
        sender.flush(|_, _| {});
        assert_eq!(receiver.take(), Some(2));
    }

    #[test]
    fn a_bell_is_rung_once_per_sleep_and_only_for_the_sleeping() {
        let mut mailboxes = mesh::<u32>(3);
        let mut sender = mailboxes.remove(0);
        let mut rung = Vec::new();
        sender.post(1, 1);
        sender.flush(|to, _| rung.push(to));
        assert!(rung.is_empty(), "core 1 is awake");
        mailboxes[0].bell().sleeping.announce();
        mailboxes[1].bell().sleeping.announce();
        sender.post(1, 2);
        sender.flush(|to, _| rung.push(to));
        sender.post(1, 3);
        sender.flush(|to, _| rung.push(to));
        assert_eq!(rung, [1], "one ring for core 1, none for core 2, which got nothing");
    }

    #[test]
    fn takes_go_round_the_senders_and_include_the_own_core() {
        let mut mailboxes = mesh::<(usize, u32)>(3);
        for (from, mailbox) in mailboxes.iter_mut().enumerate() {
            for number in 0..2 {
                mailbox.post(2, (from, number));
            }
        }
        let receiver = &mut mailboxes[2];
        let taken: Vec<_> = std::iter::from_fn(|| receiver.take()).collect();
        assert_eq!(taken, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]);
    }
}
