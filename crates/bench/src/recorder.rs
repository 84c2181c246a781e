//! What one load thread has seen, cut into intervals and handed to the controller.

use crate::progress::Progress;
use crate::schedule::Schedule;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// The longest latency that is told from longer ones, in nanoseconds.
const LATENCY_MAX_NS: u64 = 600 * 1_000_000_000;

/// An empty histogram of latencies in nanoseconds, exact to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("invariant: the bounds are constant and valid")
}

/// Counts and latencies of bundles.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    /// From the intended start to completion.
    pub(crate) response: Histogram<u64>,
    /// From sending to completion.
    pub(crate) service: Histogram<u64>,
    /// How much later than possible bundles were sent: from when they were due and there was room.
    pub(crate) lag: Histogram<u64>,
    /// Bundles that became due.
    pub(crate) scheduled: u64,
    /// Bundles that were sent.
    pub(crate) sent: u64,
    /// Bundles among them for which there was no room when they became due.
    pub(crate) blocked: u64,
    /// CPU time of the threads.
    pub(crate) cpu: Vec<Duration>,
}

impl Totals {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            response: histogram(),
            service: histogram(),
            lag: histogram(),
            scheduled: 0,
            sent: 0,
            blocked: 0,
            cpu: vec![Duration::ZERO; threads],
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        const SHAPE: &str = "invariant: all histograms have one shape";
        self.response.add(&other.response).expect(SHAPE);
        self.service.add(&other.service).expect(SHAPE);
        self.lag.add(&other.lag).expect(SHAPE);
        self.scheduled += other.scheduled;
        self.sent += other.sent;
        self.blocked += other.blocked;
        for (sum, cpu) in self.cpu.iter_mut().zip(&other.cpu) {
            *sum += *cpu;
        }
    }
}

/// What a thread hands over.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) thread: usize,
    /// The interval that has ended, and with it all before.
    pub(crate) interval: u64,
    /// Whether the thread has drained and nothing more comes.
    pub(crate) last: bool,
    pub(crate) totals: Totals,
}

/// Records for one thread. The schedules are copies of those of its clients, to count what is due although
/// nobody sends it.
#[derive(Debug)]
pub(crate) struct Recorder {
    thread: usize,
    threads: usize,
    interval: u64,
    schedules: Vec<Schedule>,
    totals: Totals,
    cpu: Duration,
    slices: Sender<Slice>,
}

impl Recorder {
    pub(crate) fn new(
        thread: usize,
        threads: usize,
        schedules: Vec<Schedule>,
        slices: Sender<Slice>,
    ) -> Self {
        Self {
            thread,
            threads,
            interval: 0,
            schedules,
            totals: Totals::new(threads),
            cpu: Duration::ZERO,
            slices,
        }
    }

    /// A bundle is sent that was due at `due`, and for which there was room at `ready` or, without one, before.
    pub(crate) fn sent(&mut self, due: Instant, room: Option<Instant>, sent: Instant) {
        let blocked = room.is_some_and(|room| room > due);
        let ready = room.map_or(due, |room| room.max(due));
        self.totals.sent += 1;
        self.totals.blocked += u64::from(blocked);
        self.totals.lag.saturating_record(nanoseconds(ready, sent));
    }

    /// A bundle is complete, without any error.
    pub(crate) fn completed(&mut self, due: Instant, sent: Instant, now: Instant) {
        self.totals.service.saturating_record(nanoseconds(sent, now));
        if !self.schedules.is_empty() {
            self.totals.response.saturating_record(nanoseconds(due, now));
        }
    }

    /// Hands over what was recorded when the controller has begun another interval. To be called often.
    pub(crate) fn follow(&mut self, progress: &Progress) {
        let interval = progress.interval();
        if interval != self.interval {
            let edge = progress.edge();
            self.interval = interval;
            self.hand_over(interval - 1, edge, false);
        }
    }

    /// Hands over what came in the end, and ends.
    pub(crate) fn finish(mut self, progress: &Progress) {
        self.follow(progress);
        let edge = progress.edge();
        self.hand_over(self.interval, edge, true);
    }

    fn hand_over(&mut self, interval: u64, edge: Duration, last: bool) {
        let mut totals = std::mem::replace(&mut self.totals, Totals::new(self.threads));
        totals.scheduled = self.schedules.iter_mut().map(|schedule| schedule.count_until(edge)).sum();
        if self.schedules.is_empty() {
            // In a closed loop every bundle is sent when it should be.
            totals.response.clone_from(&totals.service);
            totals.scheduled = totals.sent;
        }
        let cpu: Duration = clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default();
        totals.cpu[self.thread] = cpu.saturating_sub(std::mem::replace(&mut self.cpu, cpu));
        // Without a controller there is nobody to tell.
        let _ = self.slices.send(Slice { thread: self.thread, interval, last, totals });
    }
}

fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Arrival, Rate};
    use std::sync::mpsc::channel;

    #[test]
    fn waiting_for_room_is_not_the_generators_fault() {
        let (sender, receiver) = channel();
        let mut recorder = Recorder::new(0, 1, Vec::new(), sender);
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        recorder.sent(at(0), None, at(1));
        recorder.sent(at(10), Some(at(5)), at(12));
        recorder.sent(at(20), Some(at(50)), at(50));
        recorder.completed(at(20), at(50), at(70));
        recorder.finish(&{
            let progress = Progress::new();
            progress.begin();
            progress
        });
        let slice = receiver.recv().unwrap();
        let Totals { lag, service, response, sent, blocked, scheduled, .. } = slice.totals;
        assert!(slice.last);
        assert_eq!((sent, blocked, scheduled, lag.len()), (3, 1, 3, 3));
        assert!((2_000_000..2_010_000).contains(&lag.max()), "{}", lag.max());
        assert!((20_000_000..20_100_000).contains(&service.max()));
        assert_eq!(response, service, "a closed loop");
    }

    #[test]
    fn what_is_due_is_counted_although_nobody_sends_it() {
        let (sender, receiver) = channel();
        let rate = Rate { arrival: Arrival::Constant, operations_per_s: 1e6, bundle: 1, clients: 2, seed: 1 };
        let schedules = (0..2).map(|client| Schedule::new(&rate, client)).collect();
        let mut recorder = Recorder::new(0, 1, schedules, sender);
        let progress = Progress::new();
        progress.begin();
        recorder.follow(&progress);
        assert!(receiver.try_recv().is_err(), "the interval goes on");
        progress.end_interval();
        recorder.follow(&progress);
        let warmup = receiver.recv().unwrap();
        progress.end_interval();
        recorder.finish(&progress);
        let (first, rest) = (receiver.recv().unwrap(), receiver.recv().unwrap());
        assert_eq!((warmup.interval, first.interval, rest.interval, rest.last), (0, 1, 2, true));
        let due = warmup.totals.scheduled + first.totals.scheduled;
        let expected = progress.edge().as_secs_f64() * 1e6;
        assert!((due as f64 - expected).abs() <= 2.0, "{due} {expected}");
        assert_eq!(rest.totals.scheduled, 0, "nothing becomes due after the end");
    }

    #[test]
    fn totals_add_up_without_loss() {
        let mut sum = Totals::new(1);
        for client in 1..=4u64 {
            let mut totals = Totals::new(1);
            for step in 1..=250 {
                totals.service.saturating_record(1000 * (250 * (client - 1) + step));
            }
            totals.service.saturating_record(u64::MAX);
            totals.sent = client;
            sum.add(&totals);
        }
        assert_eq!((sum.service.len(), sum.sent), (1004, 10));
        let median = sum.service.value_at_quantile(0.5);
        assert!((500_000..504_000).contains(&median), "{median}");
        assert!(sum.service.max() >= LATENCY_MAX_NS);
    }
}
