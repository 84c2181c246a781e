//! Whether there is room for more: what the logs and the disk say, and when that means taking no more writes.

use quorate_replica::Intake;
use quorate_telemetry::{Declines, Takes};
use quorate_types::ClusterConfig;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use tracing::warn;

/// The bytes that are free on the disk of `path`, for this user.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether an error says that the disk is full, or what this user may have of it: that may pass.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How long a file waits for a descriptor at most, and between two attempts.
const DESCRIPTOR_TIME_MAX: Duration = Duration::from_secs(600);
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// Whether an error says that there is no descriptor left, of the process or of the system: that says nothing of the disk, and
/// passes.
pub(crate) fn lacks_descriptors(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(number, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

/// What `open` gives; where there is no descriptor left, once there is. For threads that may wait.
pub(crate) fn opened<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let begun = Instant::now();
    loop {
        match open() {
            Err(error) if lacks_descriptors(&error) && begun.elapsed() < DESCRIPTOR_TIME_MAX => {
                if begun.elapsed() < DESCRIPTOR_PAUSE {
                    warn!("a file waits for a descriptor: {error}");
                }
                std::thread::park_timeout(DESCRIPTOR_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// What the records of one header take in a log beside its batches, with what groups are filled up with: its Accept, its
/// certificates and the acknowledgements of its batches are a few groups of a few blocks.
const HEADER_BYTES: u64 = 16 * 1024;

/// Over this part of what logs may take no writes are taken, and up to this part they are again, in eighths.
const STOP_EIGHTHS: u64 = 6;
const RESUME_EIGHTHS: u64 = 5;
/// Over this part no reads are taken either, only what ends something; over the next, in sixteenths, nothing.
const READS_STOP_EIGHTHS: u64 = 7;
const ALL_STOPS_SIXTEENTHS: u64 = 15;
/// With so little free on the disk no reads are taken either, and with half of it nothing; each also with half of
/// `min_free_bytes`, and a quarter, where that is less.
const READS_STOP_FREE_BYTES: u64 = 128 << 20;

/// The least that the logs of all `cores` may take together, so that writes that end for want of room in the log are
/// taken again: logs are trimmed at checkpoints, and a cluster that takes no writes comes to none. Logs reach back
/// behind the last checkpoint but one, and hold what lanes may have that is not executed: as much as a receiver takes
/// of faulty origins, and as much as the others may have open.
pub(crate) fn journal_bytes_min(cluster: &ClusterConfig, cores: usize, segment_bytes_max: u64) -> u64 {
    let (tuning, quorums) = (cluster.tuning(), cluster.quorums());
    let checkpoints = 2 * (tuning.checkpoint_bytes + tuning.checkpoint_interval * HEADER_BYTES);
    let (faulty, correct) = (quorums.faults as u64, (quorums.replicas - quorums.faults) as u64);
    let open = tuning.lane_bytes_open_max as u64;
    let lanes = u64::from(cluster.links()) * (faulty * tuning.lane_bytes_held_max() as u64 + correct * open);
    // Segments are needed as a whole.
    let segments = 2 * cores as u64 * segment_bytes_max;
    (checkpoints + lanes + segments).div_ceil(RESUME_EIGHTHS) * 8
}

/// What there is no room for, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) why: ReadOnly,
    /// What is taken still.
    pub(crate) intake: Intake,
}

impl Shortage {
    /// The same for reports.
    pub(crate) fn takes(self) -> Takes {
        match self.intake {
            Intake::All => Takes::Writes,
            Intake::Reads => Takes::Reads,
            Intake::Endings => Takes::Endings,
            Intake::Nothing => Takes::Nothing,
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = match self.intake {
            Intake::All | Intake::Reads => "read-only",
            Intake::Endings => "takes neither writes nor reads, only what ends what was begun",
            Intake::Nothing => "takes nothing of clients",
        };
        write!(f, "{taken}: {}", self.why.declines())
    }
}

/// Why the replica takes no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOnly {
    /// The logs are full of what is still needed.
    Journal,
    /// The disk is nearly full.
    Disk,
    /// A checkpoint waits for room on the disk.
    Checkpoint,
}

impl ReadOnly {
    /// The same for reports, with words for people.
    pub(crate) fn declines(self) -> Declines {
        match self {
            Self::Journal => Declines::Log,
            Self::Disk => Declines::Disk,
            Self::Checkpoint => Declines::Checkpoint,
        }
    }
}

/// What was found of the room that there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// What the logs of all cores need.
    pub(crate) needed: u64,
    /// What is free on the disk.
    pub(crate) free: u64,
    /// Whether a checkpoint waits for room.
    pub(crate) checkpoint_waits: bool,
}

/// How much room there is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// What the logs of all cores may take.
    pub(crate) journal_bytes_max: u64,
    /// What is left free on the disk.
    pub(crate) free_bytes_min: u64,
}

impl Limits {
    /// What is to be refused from now on, given what is now. Others' batches and votes are still written meanwhile, and a
    /// quarter of the log is kept for them and for reads, most of which no read gets.
    pub(crate) fn judge(&self, now: Option<Shortage>, room: Room) -> Option<Shortage> {
        let why = self.writes(now.map(|shortage| shortage.why), room)?;
        Some(Shortage { why, intake: self.intake(room) })
    }

    /// What is taken where there is no room for writes.
    fn intake(&self, room: Room) -> Intake {
        let Self { journal_bytes_max, free_bytes_min } = *self;
        let least = READS_STOP_FREE_BYTES.min(free_bytes_min / 2);
        if room.needed > journal_bytes_max / 16 * ALL_STOPS_SIXTEENTHS || room.free < least / 2 {
            return Intake::Nothing;
        }
        if room.needed > journal_bytes_max / 8 * READS_STOP_EIGHTHS || room.free < least {
            return Intake::Endings;
        }
        Intake::Reads
    }

    /// Whether writes are refused: more room is needed to end that than to begin it, so that it does not flutter.
    fn writes(&self, now: Option<ReadOnly>, room: Room) -> Option<ReadOnly> {
        let Room { needed, free, checkpoint_waits } = room;
        let Self { journal_bytes_max, free_bytes_min } = *self;
        let free_enough = match now {
            Some(ReadOnly::Disk) => free_bytes_min.saturating_add(free_bytes_min / 4),
            _ => free_bytes_min,
        };
        if free < free_enough {
            return Some(ReadOnly::Disk);
        }
        if checkpoint_waits {
            return Some(ReadOnly::Checkpoint);
        }
        let needed_enough = match now {
            Some(ReadOnly::Journal) => journal_bytes_max / 8 * RESUME_EIGHTHS,
            _ => journal_bytes_max / 8 * STOP_EIGHTHS,
        };
        (needed > needed_enough).then_some(ReadOnly::Journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::SigningKey;

    #[test]
    fn a_file_waits_for_a_descriptor_and_for_nothing_else() {
        let errors = |number: i32| io::Error::from_raw_os_error(number);
        for lacking in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE] {
            let mut left = 2;
            let found = opened(|| {
                left -= 1;
                if left > 0 { Err(errors(lacking.raw_os_error())) } else { Ok("open") }
            });
            assert_eq!((found.unwrap(), left), ("open", 0));
        }
        let mut attempts = 0;
        let denied = opened::<()>(|| {
            attempts += 1;
            Err(io::ErrorKind::PermissionDenied.into())
        });
        assert_eq!((denied.unwrap_err().kind(), attempts), (io::ErrorKind::PermissionDenied, 1));
    }

    #[test]
    fn writes_stop_before_the_end_and_go_on_only_with_room_to_spare() {
        let limits = Limits { journal_bytes_max: 800, free_bytes_min: 100 };
        let steps = [
            // needed, free, expected
            (600, 100, None),
            (601, 100, Some(ReadOnly::Journal)),
            (501, 100, Some(ReadOnly::Journal)),
            (500, 100, None),
            (600, 99, Some(ReadOnly::Disk)),
            (600, 124, Some(ReadOnly::Disk)),
            (700, 125, Some(ReadOnly::Journal)),
            (0, 125, None),
            (0, 100, None),
        ];
        let mut now = None;
        for (needed, free, expected) in steps {
            now = limits.writes(now, Room { needed, free, checkpoint_waits: false });
            assert_eq!(now, expected, "{needed} bytes needed, {free} free");
        }
    }

    /// What two checkpoints and all lanes leave in the logs neither ends writes nor keeps them ended.
    #[test]
    fn the_smallest_log_has_room_for_what_is_there_between_checkpoints() {
        let key = |number: u8| SigningKey::from_seed(&[number; 32]).public().to_hex();
        let cluster = |replicas: u8, links: u8| {
            let mut text = format!(
                "cluster_id = \"{}\"\nepoch = 0\nlinks = {links}\nclients = [\"{}\"]\n",
                "01".repeat(32),
                key(200)
            );
            for id in 0..replicas {
                let (key, mesh, client) = (key(id + 1), 10_000 + 100 * u16::from(id), 20_000 + u16::from(id));
                text += &format!("[[replica]]\nid = {id}\nkey = \"{key}\"\n");
                text += &format!("mesh = \"127.0.0.1:{mesh}\"\nclient = \"127.0.0.1:{client}\"\n");
            }
            ClusterConfig::parse(&text).unwrap()
        };
        for (replicas, links, cores, faults) in [(1, 1, 1, 0), (4, 1, 1, 1), (7, 4, 4, 2), (31, 1, 2, 10)] {
            let cluster = cluster(replicas, links);
            let least = journal_bytes_min(&cluster, cores, 16 << 20);
            let limits = Limits { journal_bytes_max: least, free_bytes_min: 0 };
            let lanes =
                u64::from(links) * (faults * (64 << 20) + (u64::from(replicas) - faults) * (16 << 20));
            let needed = 2 * quorate_types::limits::CHECKPOINT_BYTES + lanes;
            let room = Room { needed, free: 1, checkpoint_waits: false };
            assert_eq!(limits.writes(None, room), None);
            assert_eq!(limits.writes(Some(ReadOnly::Journal), room), None);
        }
        assert_eq!(journal_bytes_min(&cluster(4, 1), 1, 16 << 20) >> 20, 742);
    }

    #[test]
    fn a_checkpoint_that_waits_for_room_ends_writes_until_it_is_written() {
        let limits = Limits { journal_bytes_max: 800, free_bytes_min: 100 };
        let room = |free, checkpoint_waits| Room { needed: 0, free, checkpoint_waits };
        assert_eq!(limits.writes(None, room(1000, true)), Some(ReadOnly::Checkpoint));
        assert_eq!(limits.writes(Some(ReadOnly::Checkpoint), room(99, true)), Some(ReadOnly::Disk));
        assert_eq!(limits.writes(Some(ReadOnly::Checkpoint), room(1000, false)), None);
    }

    /// Reads and void bundles stand in the log too: they may not use up what is kept for the others'.
    #[test]
    fn reads_end_before_the_reserve_of_the_log_or_the_disk_does_and_voids_before_its_end() {
        const MIB: u64 = 1 << 20;
        let limits = Limits { journal_bytes_max: 1600 * MIB, free_bytes_min: 1024 * MIB };
        let judge = |needed: u64, free: u64| {
            let room = Room { needed: needed * MIB, free: free * MIB, checkpoint_waits: false };
            limits.judge(None, room).map(|shortage| shortage.intake)
        };
        assert_eq!(judge(1200, 1024), None);
        assert_eq!(judge(1201, 1024), Some(Intake::Reads));
        assert_eq!(judge(1400, 1024), Some(Intake::Reads));
        assert_eq!(judge(1401, 1024), Some(Intake::Endings));
        assert_eq!(judge(1500, 1024), Some(Intake::Endings));
        assert_eq!(judge(1501, 1024), Some(Intake::Nothing));
        assert_eq!(judge(0, 128), Some(Intake::Reads));
        assert_eq!(judge(0, 127), Some(Intake::Endings));
        assert_eq!(judge(0, 63), Some(Intake::Nothing));
        assert_eq!(judge(1401, 63), Some(Intake::Nothing));
        // Who asks for little to be left free has it used before.
        let small = Limits { free_bytes_min: 40 * MIB, ..limits };
        let at = |free: u64| small.intake(Room { needed: 0, free: free * MIB, checkpoint_waits: false });
        assert_eq!([at(20), at(19), at(9)], [Intake::Reads, Intake::Endings, Intake::Nothing]);
    }

    #[test]
    fn each_reason_names_the_setting_and_that_it_ends() {
        for (reason, setting) in [
            (ReadOnly::Journal, "max_journal_bytes"),
            (ReadOnly::Disk, "min_free_bytes"),
            (ReadOnly::Checkpoint, "data_dir"),
        ] {
            let text = Shortage { why: reason, intake: Intake::Reads }.to_string();
            assert!(text.starts_with("read-only: ") && text.contains(setting) && text.contains("by itself"));
        }
    }
}
