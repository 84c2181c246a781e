//! Wakes the clients of one load thread when their next bundle is due.
//!
//! The timers of tokio have a resolution of one millisecond, which would be most of the response time of a
//! small cluster. One timer of the kernel serves all clients of the thread, read through its ring.

use anyhow::Context as _;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The timer and who waits for it. For one thread.
#[derive(Debug)]
pub(crate) struct Pacer {
    timer: OwnedFd,
    waiting: RefCell<Waiting>,
    closed: Cell<bool>,
}

#[derive(Debug)]
struct Waiting {
    /// Ordered by time; an entry whose client waits for another time by now is void.
    times: BinaryHeap<Reverse<(Instant, usize)>>,
    clients: Vec<Option<(Instant, Waker)>>,
    armed: Option<Instant>,
}

impl Pacer {
    pub(crate) fn new(clients: usize) -> anyhow::Result<Self> {
        // Blocking: the ring waits for the timer instead of answering that it has not fired.
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)
            .context("cannot make a timer for the schedule")?;
        let waiting = Waiting { times: BinaryHeap::new(), clients: vec![None; clients], armed: None };
        Ok(Self { timer, waiting: RefCell::new(waiting), closed: Cell::new(false) })
    }

    /// Ready when `due` has come; until then `client` is woken at that time.
    pub(crate) fn poll_until(&self, client: usize, due: Instant, context: &mut Context<'_>) -> Poll<()> {
        if due <= Instant::now() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        match &mut waiting.clients[client] {
            Some((at, waker)) if *at == due => waker.clone_from(context.waker()),
            slot => {
                *slot = Some((due, context.waker().clone()));
                waiting.times.push(Reverse((due, client)));
            }
        }
        if waiting.armed.is_none_or(|armed| due < armed) {
            waiting.armed = Some(due);
            self.arm(due.saturating_duration_since(Instant::now()));
        }
        Poll::Pending
    }

    /// Wakes clients until [`Pacer::close`]. No read may be in flight when the runtime ends, so this must be awaited.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let timer = self.timer.try_clone().context("cannot share the timer of the schedule")?;
        let file = tokio_uring::fs::File::from_std(File::from(timer));
        let mut expirations = vec![0; 8];
        while !self.closed.get() {
            let (read, buffer) = file.read_at(expirations, 0).await;
            read.context("cannot read the timer of the schedule")?;
            expirations = buffer;
            self.wake(Instant::now());
        }
        Ok(())
    }

    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.arm(Duration::ZERO);
    }

    fn wake(&self, now: Instant) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.armed = None;
        while let Some(&Reverse((due, client))) = waiting.times.peek() {
            if due > now && !self.closed.get() {
                waiting.armed = Some(due);
                self.arm(due - now);
                return;
            }
            waiting.times.pop();
            if let Some((_, waker)) = waiting.clients[client].take_if(|(at, _)| *at == due) {
                waker.wake();
            }
        }
    }

    fn arm(&self, wait: Duration) {
        // A time of zero would disarm it.
        let wait = wait.max(Duration::from_nanos(1));
        let value = Timespec::try_from(wait).expect("invariant: no schedule is longer than the clock");
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
            .expect("invariant: the descriptor is a timer and the time is valid");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::rc::Rc;

    #[test]
    fn clients_wake_in_the_order_of_their_times_and_never_early() {
        let order = tokio_uring::start(async {
            let pacer = Rc::new(Pacer::new(3).unwrap());
            let runner = {
                let pacer = Rc::clone(&pacer);
                tokio_uring::spawn(async move { pacer.run().await })
            };
            let order = Rc::new(RefCell::new(Vec::new()));
            let start = Instant::now();
            let wait = |client: usize, milliseconds: u64| {
                let (pacer, order) = (Rc::clone(&pacer), Rc::clone(&order));
                tokio_uring::spawn(async move {
                    let due = start + Duration::from_millis(milliseconds);
                    poll_fn(|context| pacer.poll_until(client, due, context)).await;
                    assert!(Instant::now() >= due);
                    order.borrow_mut().push(client);
                })
            };
            let tasks = [wait(0, 30), wait(1, 10), wait(2, 20)];
            for task in tasks {
                task.await.unwrap();
            }
            pacer.close();
            runner.await.unwrap().unwrap();
            order.take()
        });
        assert_eq!(order, [1, 2, 0]);
    }

    #[test]
    fn a_client_that_changes_its_mind_is_woken_at_the_new_time() {
        tokio_uring::start(async {
            let pacer = Rc::new(Pacer::new(1).unwrap());
            let runner = {
                let pacer = Rc::clone(&pacer);
                tokio_uring::spawn(async move { pacer.run().await })
            };
            let far = Instant::now() + Duration::from_secs(3600);
            let near = Instant::now() + Duration::from_millis(5);
            let mut first = true;
            poll_fn(|context| {
                if std::mem::take(&mut first) {
                    assert!(pacer.poll_until(0, far, context).is_pending());
                }
                pacer.poll_until(0, near, context)
            })
            .await;
            pacer.close();
            runner.await.unwrap().unwrap();
        });
    }
}
