//! The thread with real files.

use super::*;
use crate::page_folder::{Found, find, tests::change, tests::state};
use quorate_state::{State, StoreOptions, Transfer, TransferOptions};
use quorate_types::{ReplicaId, Seq};
use std::path::Path;

const PATIENCE: Duration = Duration::from_secs(60);

fn job(seq: u64, contents: Contents) -> Job {
    let position = Position { seq: Seq(seq), digest: Digest([1; 32]) };
    Job { position, timestamp: Nanoseconds(seq), certificate: Vec::new(), contents }
}

struct Running {
    checkpointer: Checkpointer,
    thread: JoinHandle<()>,
    woken: (Sender<()>, Receiver<()>),
}

impl Running {
    fn start(path: &Path) -> (Self, Option<State>) {
        let mut folder = PageFolder::open(path, true).unwrap();
        let Found { store, state, .. } = find(&mut folder, StoreOptions::default(), Seq(u64::MAX)).unwrap();
        let (checkpointer, thread) = Checkpointer::start(folder, store).unwrap();
        let state = state.map(|(_, frozen)| State::from_frozen(&frozen, 100));
        (Self { checkpointer, thread, woken: mpsc::channel() }, state)
    }

    fn write(&self, job: Job) {
        let woken = self.woken.0.clone();
        self.checkpointer.write(job, Box::new(move || woken.send(()).unwrap()));
    }

    fn outcome(&self) -> Outcome {
        self.woken.1.recv_timeout(PATIENCE).expect("an outcome in time");
        self.checkpointer.take().expect("who is woken finds an outcome")
    }

    fn stop(self) {
        drop(self.checkpointer);
        self.thread.join().unwrap();
    }
}

#[test]
fn each_job_has_an_outcome_and_the_newest_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = state();
    let (running, none) = Running::start(folder.path());
    assert!(none.is_none());
    for seq in 1..=5 {
        change(&mut state, seq);
        running.write(job(seq, Contents::State(state.freeze())));
    }
    let mut durable = None;
    for seq in 1..=5 {
        match running.outcome() {
            Outcome::Durable(written) => {
                assert_eq!((written.position.seq, written.complete), (Seq(seq), true));
                assert!(written.written_bytes > 0 && written.disk_bytes >= written.live_bytes);
                durable = Some(written);
            }
            Outcome::Replaced(position) => assert_eq!(position.seq, Seq(seq)),
            failed @ Outcome::Failed(..) => panic!("{failed:?}"),
        }
    }
    let durable = durable.expect("the last is never replaced");
    assert_eq!((durable.position.seq, durable.root), (Seq(5), state.root()));
    running.stop();
    let (running, found) = Running::start(folder.path());
    assert_eq!(found.unwrap().root(), state.root());
    running.stop();
}

#[test]
fn the_highest_state_is_written_whatever_the_order_in_which_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = state();
    let (running, _) = Running::start(folder.path());
    // The second is of a state that came from others, and is written before an own one that came later.
    let order = [1, 9, 4, 6];
    for seq in order {
        change(&mut state, seq);
        running.write(job(seq, Contents::State(state.freeze())));
    }
    let mut durable = Vec::new();
    for _ in order {
        if let Outcome::Durable(written) = running.outcome() {
            durable.push(written.position.seq);
        }
    }
    assert!(matches!(&durable[..], [Seq(1), Seq(9)] | [Seq(9)]), "{durable:?}");
    running.stop();
}

#[test]
fn what_a_transfer_received_is_kept_beside_the_last_state() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = state();
    let root = state.root();
    let frozen = state.freeze();
    let mut transfer =
        Transfer::new(root, TransferOptions { request_bytes: 40_000, ..TransferOptions::default() });
    for _ in 0..9 {
        let request = transfer.request(Nanoseconds(0), ReplicaId(1)).unwrap();
        transfer.on_answer(Nanoseconds(0), ReplicaId(1), &frozen.answer(&request, 40_000)).unwrap();
    }
    assert!(!transfer.is_finished());
    let (running, _) = Running::start(folder.path());
    running.write(job(7, Contents::Partial { root, received: transfer.received() }));
    let Outcome::Durable(written) = running.outcome() else { panic!("it is not durable") };
    assert_eq!((written.complete, written.root), (false, root));
    running.stop();
    let mut pages = PageFolder::open(folder.path(), true).unwrap();
    let found = find(&mut pages, StoreOptions::default(), Seq(u64::MAX)).unwrap();
    let (manifest, forest) = found.partial.unwrap();
    assert!(found.state.is_none() && manifest.root == root && !forest.is_empty());
}

#[test]
fn an_error_is_the_last_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pages");
    let (running, _) = Running::start(&path);
    std::fs::remove_dir(&path).unwrap();
    running.write(job(1, Contents::State(state().freeze())));
    let Outcome::Failed(position, error) = running.outcome() else { panic!("written to nowhere") };
    assert_eq!(position.seq, Seq(1));
    assert!(error.to_string().contains("pages-00000001"), "{error}");
    running.stop();
}

#[test]
fn the_thread_ends_in_the_middle_when_the_replica_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (running, _) = Running::start(folder.path());
    running.write(job(1, Contents::State(state().freeze())));
    running.stop();
    let (running, _) = Running::start(folder.path());
    running.stop();
}
