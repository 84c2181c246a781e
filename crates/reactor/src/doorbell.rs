//! The flag by which a sleeper and those who wake it agree, and the bell of each core.
//!
//! The sleeper announces that it will sleep, then looks for work once more. The other side publishes work, then
//! looks at the flag. Between the two steps each side has a sequentially consistent fence, so at least one of them
//! sees the other: either the sleeper finds the work, or the other side finds the flag and rings. That no wake-up is
//! lost follows from the order of the two fences in the single total order of such fences: if the sleeper's comes
//! first, the flag is visible to the load after the other's; if it comes second, the work is visible to the check
//! after the sleeper's. The same flag serves a producer that waits for room in a full ring.
//!
//! It is generic over the atomics, so that the test below runs this very code under loom.

use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{self, AtomicBool, AtomicI32, Ordering};

use crate::waker::Waker;

/// The atomics that the protocol needs: those of `std`, or loom's.
pub(crate) trait Atomics {
    type Flag;
    fn flag() -> Self::Flag;
    fn store(flag: &Self::Flag, value: bool);
    fn load(flag: &Self::Flag) -> bool;
    fn clear(flag: &Self::Flag) -> bool;
    fn fence();
}

/// The real ones.
#[derive(Debug)]
pub(crate) struct Native;

impl Atomics for Native {
    type Flag = AtomicBool;
    fn flag() -> AtomicBool {
        AtomicBool::new(false)
    }
    fn store(flag: &AtomicBool, value: bool) {
        // Release: who sees the flag also sees the ring descriptor that was stored before it.
        flag.store(value, Ordering::Release);
    }
    fn load(flag: &AtomicBool) -> bool {
        flag.load(Ordering::Relaxed)
    }
    fn clear(flag: &AtomicBool) -> bool {
        flag.swap(false, Ordering::AcqRel)
    }
    fn fence() {
        atomic::fence(Ordering::SeqCst);
    }
}

/// One side waits, the other rings.
#[derive(Debug)]
pub(crate) struct WaitFlag<A: Atomics>(A::Flag);

impl<A: Atomics> WaitFlag<A> {
    pub(crate) fn new() -> WaitFlag<A> {
        WaitFlag(A::flag())
    }

    /// Says that this side is about to wait. It must look for work once more before it does.
    pub(crate) fn announce(&self) {
        A::store(&self.0, true);
        A::fence();
    }

    /// Says that this side no longer waits.
    pub(crate) fn withdraw(&self) {
        A::store(&self.0, false);
    }

    /// Whether the announcement stands: nobody has claimed it.
    pub(crate) fn stands(&self) -> bool {
        A::load(&self.0)
    }

    /// Whether the other side waits and it falls to the caller to ring: true for one caller per announcement. The
    /// caller has published its work and then called [`published`](Self::published).
    pub(crate) fn claim(&self) -> bool {
        A::load(&self.0) && A::clear(&self.0)
    }

    /// The fence between publishing work and looking at any number of flags.
    pub(crate) fn published() {
        A::fence();
    }
}

/// How to wake one core.
#[derive(Debug)]
pub(crate) struct Bell {
    pub(crate) sleeping: WaitFlag<Native>,
    /// The ring to post to, or −1 while there is none.
    ring: AtomicI32,
    waker: OnceLock<Waker>,
}

impl Bell {
    pub(crate) fn new() -> Bell {
        Bell { sleeping: WaitFlag::new(), ring: AtomicI32::new(-1), waker: OnceLock::new() }
    }

    /// Says which ring and which waker belong to the core; before its first sleep.
    pub(crate) fn attach(&self, ring: RawFd, waker: Waker) {
        // A core whose reactor is replaced keeps its first waker; the ring is what is normally used.
        let _ = self.waker.set(waker);
        self.ring.store(ring, Ordering::Release);
    }

    /// Says that the core's ring is gone.
    pub(crate) fn detach(&self) {
        self.ring.store(-1, Ordering::Release);
    }

    pub(crate) fn ring(&self) -> Option<RawFd> {
        Some(self.ring.load(Ordering::Acquire)).filter(|ring| *ring >= 0)
    }

    /// Wakes the core by its eventfd: the way without MSG_RING, and when that failed.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
    use loom::thread;

    use super::{Atomics, WaitFlag};

    struct Loom;

    impl Atomics for Loom {
        type Flag = AtomicBool;
        fn flag() -> AtomicBool {
            AtomicBool::new(false)
        }
        fn store(flag: &AtomicBool, value: bool) {
            flag.store(value, Ordering::Release);
        }
        fn load(flag: &AtomicBool) -> bool {
            flag.load(Ordering::Relaxed)
        }
        fn clear(flag: &AtomicBool) -> bool {
            flag.swap(false, Ordering::AcqRel)
        }
        fn fence() {
            fence(Ordering::SeqCst);
        }
    }

    /// A ring of which only the number of messages matters, with the orderings of a real one.
    fn publish(tail: &AtomicUsize) {
        tail.fetch_add(1, Ordering::Release);
    }

    fn senders_against_a_sleeper(senders: usize) {
        let flag = Arc::new(WaitFlag::<Loom>::new());
        let tail = Arc::new(AtomicUsize::new(0));
        let senders: Vec<_> = (0..senders)
            .map(|_| {
                let (flag, tail) = (Arc::clone(&flag), Arc::clone(&tail));
                thread::spawn(move || {
                    publish(&tail);
                    WaitFlag::<Loom>::published();
                    flag.claim()
                })
            })
            .collect();
        flag.announce();
        let sleeps = tail.load(Ordering::Acquire) == 0;
        let rings = senders.into_iter().filter_map(|sender| sender.join().unwrap().then_some(())).count();
        assert!(rings <= 1, "one announcement was claimed {rings} times");
        assert!(!sleeps || rings == 1, "asleep with a message and nobody rings");
    }

    #[test]
    fn a_core_never_sleeps_on_a_message_without_a_ring_of_its_bell() {
        loom::model(|| senders_against_a_sleeper(1));
        // All interleavings of three threads take half a minute; those with up to three preemptions do not.
        let mut bounded = loom::model::Builder::new();
        bounded.preemption_bound = Some(3);
        bounded.check(|| senders_against_a_sleeper(2));
    }

    #[test]
    fn a_producer_never_waits_for_room_that_is_there() {
        // The producer found the ring full, announces it, tries again, then goes to sleep unless its announcement
        // was claimed meanwhile. The consumer makes room, claims the announcement, then looks who sleeps.
        loom::model(|| {
            let starved = Arc::new(WaitFlag::<Loom>::new());
            let sleeping = Arc::new(WaitFlag::<Loom>::new());
            let room = Arc::new(AtomicUsize::new(0));
            let consumer = {
                let (starved, sleeping, room) =
                    (Arc::clone(&starved), Arc::clone(&sleeping), Arc::clone(&room));
                thread::spawn(move || {
                    publish(&room);
                    WaitFlag::<Loom>::published();
                    let owed = starved.claim();
                    WaitFlag::<Loom>::published();
                    owed && sleeping.claim()
                })
            };
            starved.announce();
            let stuck = room.load(Ordering::Acquire) == 0;
            let mut sleeps = false;
            if stuck {
                sleeping.announce();
                sleeps = starved.stands();
            }
            let rang = consumer.join().unwrap();
            assert!(!sleeps || rang, "asleep with room in the ring");
        });
    }
}
