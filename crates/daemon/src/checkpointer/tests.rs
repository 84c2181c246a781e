//! The thread with real files.

use super::*;
use crate::page_folder::{Found, tests::change, tests::settled, tests::state, tests::upto};
use quorate_state::{State, Transfer, TransferOptions};
use quorate_types::{ReplicaId, Seq};
use std::path::Path;
use std::process::Command;

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
        Self::start_upto(path, u64::MAX)
    }

    /// Goes on from the newest state up to a slot.
    fn start_upto(path: &Path, seq: u64) -> (Self, Option<State>) {
        let mut folder = PageFolder::open(path, true).unwrap();
        let (Found { store, restored, .. }, _) = settled(&mut folder, upto(seq));
        let (checkpointer, thread) = Checkpointer::start(folder, store, restored.whole.clone()).unwrap();
        let limits = quorate_types::StateLimits::default();
        let state = restored.whole.map(|(_, frozen)| State::from_frozen(&frozen, limits));
        (Self { checkpointer, thread, woken: mpsc::channel() }, state)
    }

    fn write(&self, job: Job) {
        let woken = self.woken.0.clone();
        self.checkpointer.write(job, Box::new(move || woken.send(()).unwrap()));
    }

    fn outcome(&self) -> Outcome {
        self.woken.1.recv_timeout(PATIENCE).expect("an outcome in time");
        loop {
            match self.checkpointer.take().expect("who is woken finds an outcome") {
                Outcome::Scrubbed { .. } => {}
                outcome => return outcome,
            }
        }
    }

    /// Waits until so many blocks more were found bad and mended, or so many were found good.
    fn scrubbed(&self, good: u64, bad: u64) {
        let end = Instant::now() + PATIENCE;
        let (mut blocks, mut mended) = (0, 0);
        while blocks - mended < good || mended < bad {
            assert!(Instant::now() < end, "{blocks} blocks were read back and {mended} mended");
            match self.checkpointer.take() {
                Some(Outcome::Scrubbed { blocks: more, bad }) => {
                    (blocks, mended) = (blocks + more, mended + bad);
                }
                Some(other) => panic!("{other:?}"),
                // No job is under way, so nobody rings: this waits for a moment.
                None => drop(self.woken.1.recv_timeout(Duration::from_millis(5))),
            }
        }
        assert_eq!(mended, bad);
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
            other => panic!("{other:?}"),
        }
    }
    let durable = durable.expect("the last is never replaced");
    assert_eq!((durable.position.seq, durable.root), (Seq(5), state.root()));
    running.stop();
    let (running, found) = Running::start(folder.path());
    assert_eq!(found.unwrap().root(), state.root());
    running.stop();
}

/// Others may have to take over just one of them.
#[test]
fn what_was_voted_for_before_a_restart_is_written_again_whatever_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (mut state, voted) = (state(), [2, 3, 4]);
    let (running, _) = Running::start(folder.path());
    for seq in [1].into_iter().chain(voted) {
        change(&mut state, seq);
        running.write(job(seq, Contents::State(state.freeze())));
        assert!(matches!(running.outcome(), Outcome::Durable(_)));
        let needed = [1].into_iter().chain(voted).filter(|kept| *kept <= seq).map(Seq).collect();
        running.checkpointer.keep(needed);
    }
    running.stop();
    let (running, state) = Running::start_upto(folder.path(), 1);
    let mut state = state.unwrap();
    for seq in voted.into_iter().chain([5]) {
        change(&mut state, seq);
        running.write(job(seq, Contents::State(state.freeze())));
    }
    for seq in voted.into_iter().chain([5]) {
        let Outcome::Durable(written) = running.outcome() else { panic!("{seq} is left out") };
        assert_eq!(written.position.seq, Seq(seq));
    }
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
    let (found, _) = settled(&mut pages, upto(u64::MAX));
    let (manifest, forest) = found.restored.part.unwrap();
    assert!(found.restored.whole.is_none() && manifest.root == root && !forest.is_empty());
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

fn names(path: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(path).unwrap().map(name).collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_that_meets_a_full_disk_is_undone_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = state();
    let (running, _) = Running::start(folder.path());
    running.write(job(1, Contents::State(state.freeze())));
    assert!(matches!(running.outcome(), Outcome::Durable(_)));
    let before = names(folder.path());
    assert_eq!(before, ["manifest-00000001", "manifest-00000001-copy", "pages-00000001"]);
    let length = folder.path().join("pages-00000001").metadata().unwrap().len();
    // The manifest is what does not fit, when all else is written.
    std::os::unix::fs::symlink("/dev/full", folder.path().join("manifest-00000002.new")).unwrap();
    change(&mut state, 2);
    running.write(job(2, Contents::State(state.freeze())));
    let Outcome::PutOff { position, path, needed_bytes } = running.outcome() else { panic!("not put off") };
    assert_eq!((position.seq, &*path), (Seq(2), folder.path()));
    assert!(needed_bytes > SPARE_BYTES);
    assert_eq!(names(folder.path()), before, "nothing is left of it");
    assert_eq!(folder.path().join("pages-00000001").metadata().unwrap().len(), length);
    let Outcome::Durable(written) = running.outcome() else { panic!("there is room again") };
    assert_eq!((written.position.seq, written.root), (Seq(2), state.root()));
    running.stop();
    let (running, found) = Running::start(folder.path());
    assert_eq!(found.unwrap().root(), state.root());
    running.stop();
}

#[test]
fn a_checkpoint_that_has_no_room_is_not_begun_and_the_newest_is_written_when_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=24m", "none"];
    let mounted = Command::new("mount").args(mount).arg(folder.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return eprintln!(
            "a_checkpoint_that_has_no_room_is_not_begun_and_the_newest_is_written_when_there_is: skipped, mounting \
             needs privileges"
        );
    }
    let mounted = Mounted(folder.path());
    let filler = mounted.0.join("filler");
    std::fs::write(&filler, vec![0; 23 << 20]).unwrap();
    let mut state = state();
    let (running, _) = Running::start(mounted.0);
    running.write(job(1, Contents::State(state.freeze())));
    assert!(matches!(running.outcome(), Outcome::PutOff { .. }));
    assert_eq!(names(mounted.0), ["filler"]);
    change(&mut state, 2);
    running.write(job(2, Contents::State(state.freeze())));
    assert!(matches!(running.outcome(), Outcome::Replaced(position) if position.seq == Seq(1)));
    std::fs::remove_file(&filler).unwrap();
    let Outcome::Durable(written) = running.outcome() else { panic!("there is room again") };
    assert_eq!((written.position.seq, written.root), (Seq(2), state.root()));
    running.stop();
}

/// A file system that is unmounted in the end.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A test that failed may still have files open.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
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

#[test]
fn what_goes_bad_on_the_disk_is_found_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let (running, _) = Running::start(&path);
    let mut state = state();
    running.write(job(1, Contents::State(state.freeze())));
    assert!(matches!(running.outcome(), Outcome::Durable(_)));
    let pages = path.join("pages-00000001");
    let whole = std::fs::read(&pages).unwrap();
    running.scrubbed(500, 0);
    let mut damaged = whole.clone();
    for at in [100, whole.len() / 2, whole.len() - 1] {
        damaged[at] ^= 0x10;
    }
    std::fs::write(&pages, &damaged).unwrap();
    running.scrubbed(0, 3);
    assert_eq!(std::fs::read(&pages).unwrap(), whole);
    // A copy of the manifest, when the walk is at its end.
    let copy = path.join("manifest-00000001-copy");
    let manifest = std::fs::read(&copy).unwrap();
    std::fs::write(&copy, b"no manifest").unwrap();
    running.scrubbed(0, 1);
    assert_eq!(std::fs::read(&copy).unwrap(), manifest);
    // A file that is gone takes all that is in it along: the state is written to others.
    std::fs::remove_file(&pages).unwrap();
    running.scrubbed(0, 1);
    running.scrubbed(500, 0);
    change(&mut state, 2);
    running.write(job(2, Contents::State(state.freeze())));
    assert!(matches!(running.outcome(), Outcome::Durable(_)));
    running.stop();
    let (running, loaded) = Running::start(&path);
    assert_eq!(loaded.unwrap().root(), state.root());
    // What was loaded is read back, too.
    running.scrubbed(500, 0);
    running.stop();
}
