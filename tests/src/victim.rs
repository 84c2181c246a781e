//! What an attack leaves of somebody else's work, compared with what a load that uses the CPUs alone leaves of it.
//!
//! Both are tried in turn within one run, so that the ratio says something on a machine that others use too.

use crate::cluster::{Cluster, PATIENCE};
use quorate_client::{Client, ClientOptions};
use quorate_types::{Condition, Operation, ReplicaId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The least that an attack leaves of what [`SPINNERS`] leave (DESIGN section 7, "after somebody is known").
pub const RATIO_MIN: f64 = 0.3;
/// The threads that use the CPUs and nothing else.
const SPINNERS: usize = 8;
/// How often both are tried, at least, and at most where it does not suffice at once: others use the machine, too.
const ROUNDS: std::ops::RangeInclusive<u32> = 2..=6;
const WINDOW: Duration = Duration::from_millis(1_200);
/// Between the begin of what disturbs and the window.
const SETTLING: Duration = Duration::from_millis(300);
/// The keys of clusters' clients that attack, and that suffer.
pub const ATTACKER: usize = 0;
pub const VICTIM: usize = 1;

/// Threads that go on until they are dropped.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Starts a thread for each of `members`, which ends soon after the flag is set.
    ///
    /// # Panics
    /// When there is no room for another thread.
    #[must_use]
    pub fn start<M: Send + 'static>(
        members: impl IntoIterator<Item = M>,
        body: impl Fn(M, &AtomicBool) + Clone + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |member| {
            let (body, stop) = (body.clone(), Arc::clone(&stop));
            let builder = std::thread::Builder::new().stack_size(256 << 10);
            builder.spawn(move || body(member, &stop)).expect("a thread is left")
        };
        let threads = members.into_iter().map(thread).collect();
        Self { stop, threads }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // An attacker that fails attacks no more: the test sees to it that it did.
            let _ = thread.join();
        }
    }
}

fn spin(_: usize, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// A client that writes one key at a time, in a thread of its own, until it is dropped.
#[derive(Debug)]
struct Victim {
    times: Arc<Mutex<Vec<Duration>>>,
    _thread: Crowd,
}

impl Victim {
    fn start(cluster: &Cluster) -> Self {
        let times = Arc::new(Mutex::new(Vec::new()));
        let (config, key) = (Arc::clone(cluster.config()), cluster.client_key(VICTIM));
        let write = move |times: Arc<Mutex<Vec<Duration>>>, stop: &AtomicBool| {
            let home = ReplicaId(1);
            let options = ClientOptions { home, answer_deadline: PATIENCE, ..ClientOptions::default() };
            tokio_uring::start(async {
                let client = Client::connect(Arc::clone(&config), key.clone(), options).await;
                let client = client.expect("a quorum is connected");
                let key = b"victim".to_vec();
                let set = vec![Operation::Set { key, value: vec![b'v'; 100], condition: Condition::Always }];
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    client.execute(&set).await.expect("the bundle completes");
                    times.lock().expect("nobody panics with it").push(begin.elapsed());
                }
                client.close().await;
            });
        };
        Self { times: Arc::clone(&times), _thread: Crowd::start([times], write) }
    }

    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.times.lock().expect("nobody panics with it"))
    }

    /// What completes within a window.
    fn watch(&self) -> Vec<Duration> {
        self.take();
        std::thread::sleep(WINDOW);
        self.take()
    }
}

/// Comparisons take turns, as one would be the other's load.
#[derive(Debug)]
pub struct Alone {
    _turn: MutexGuard<'static, ()>,
}

impl Alone {
    /// Waits for the turn of this test.
    #[must_use]
    pub fn wait() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        Self { _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// Has `attack` go on beside a victim, and spinners, in turn; `attack` returns what ends it when it is dropped. The figures,
/// to be printed.
///
/// # Panics
/// When the attack leaves less than [`RATIO_MIN`] of what spinners leave.
pub fn assert_withstood<A>(cluster: &Cluster, name: &str, mut attack: impl FnMut() -> A) -> String {
    let victim = Victim::start(cluster);
    crate::cluster::wait_for("the victim works", || (!victim.take().is_empty()).then_some(()));
    let alone = victim.watch();
    let (mut spinning, mut attacked) = (Vec::new(), Vec::new());
    let mut rounds = 0;
    while rounds < *ROUNDS.start() || (rounds < *ROUNDS.end() && ratio(&attacked, &spinning) < RATIO_MIN) {
        rounds += 1;
        let spinners = Crowd::start(0..SPINNERS, spin);
        std::thread::sleep(SETTLING);
        spinning.extend(victim.watch());
        drop(spinners);
        let attackers = attack();
        std::thread::sleep(SETTLING);
        attacked.extend(victim.watch());
        drop(attackers);
    }
    let ratio = ratio(&attacked, &spinning);
    let text = format!(
        "{name}: {} undisturbed; {} beside {SPINNERS} spinners; {} under attack, ratio {ratio:.2}",
        figures(&alone, WINDOW),
        figures(&spinning, WINDOW * rounds),
        figures(&attacked, WINDOW * rounds)
    );
    assert!(ratio >= RATIO_MIN, "less than {RATIO_MIN} of what spinners leave: {text}");
    text
}

/// As [`assert_withstood`], each time once what `replica` counts as `held` does not change any more; and by how many bytes the
/// attack makes that replica grow.
///
/// # Panics
/// As there, and when nothing is held.
pub fn growth_under<A>(
    cluster: &Cluster,
    replica: usize,
    held: &str,
    mut attack: impl FnMut() -> A,
) -> (String, u64) {
    let before = cluster.resident_bytes(replica);
    let mut settled = || {
        let attackers = attack();
        crate::cluster::wait_for("what is held stays", || {
            let first = cluster.counter(replica, held);
            std::thread::sleep(SETTLING);
            (first > 0 && cluster.counter(replica, held) == first).then_some(())
        });
        attackers
    };
    let figures = assert_withstood(cluster, held, &mut settled);
    let _attackers = settled();
    let growth = cluster.resident_bytes(replica).saturating_sub(before);
    (format!("{figures}; replica {replica} has grown by {} MiB", growth >> 20), growth)
}

/// Does nothing until it is to stop.
pub fn rest(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ratio(attacked: &[Duration], spinning: &[Duration]) -> f64 {
    attacked.len() as f64 / spinning.len() as f64
}

fn figures(times: &[Duration], within: Duration) -> String {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rate = times.len() as f64 / within.as_secs_f64();
    let high = times.get(times.len() * 99 / 100).copied().unwrap_or(within);
    format!("{rate:.0} bundles/s with p99 {:.1} ms", high.as_secs_f64() * 1e3)
}
