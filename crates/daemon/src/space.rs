//! Whether there is room for more: what the logs and the disk say, and when that means taking no more writes.

use quorate_types::ClusterConfig;
use std::fmt;
use std::io;
use std::path::Path;

/// The bytes that are free on the disk of `path`, for this user.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether an error says that the disk is full, or what this user may have of it: that may pass.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What the records of one header take in a log beside its batches, with what groups are filled up with: its Accept, its
/// certificates and the acknowledgements of its batches are a few groups of a few blocks.
const HEADER_BYTES: u64 = 16 * 1024;

/// Over this part of what logs may take no writes are taken, and up to this part they are again, in eighths.
const STOP_EIGHTHS: u64 = 6;
const RESUME_EIGHTHS: u64 = 5;

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

impl fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Journal => {
                "read-only: the log is full of what is still needed, by max_journal_bytes; it ends by itself when the \
                 replicas that lag have caught up"
            }
            Self::Disk => {
                "read-only: the disk has less room than min_free_bytes; it ends by itself when there is room again"
            }
            Self::Checkpoint => {
                "read-only: the next checkpoint does not fit on the disk of data_dir; it ends by itself when there is \
                 room and the checkpoint is written"
            }
        })
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
    /// Whether writes are to be refused from now on, given whether they are now: more room is needed to end that than
    /// to begin it, so that it does not flutter. Others' batches and votes are still written meanwhile, and a quarter
    /// of the log is kept for them.
    pub(crate) fn judge(&self, now: Option<ReadOnly>, room: Room) -> Option<ReadOnly> {
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
            now = limits.judge(now, Room { needed, free, checkpoint_waits: false });
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
            assert_eq!(limits.judge(None, room), None);
            assert_eq!(limits.judge(Some(ReadOnly::Journal), room), None);
        }
        assert_eq!(journal_bytes_min(&cluster(4, 1), 1, 16 << 20) >> 20, 742);
    }

    #[test]
    fn a_checkpoint_that_waits_for_room_ends_writes_until_it_is_written() {
        let limits = Limits { journal_bytes_max: 800, free_bytes_min: 100 };
        let room = |free, checkpoint_waits| Room { needed: 0, free, checkpoint_waits };
        assert_eq!(limits.judge(None, room(1000, true)), Some(ReadOnly::Checkpoint));
        assert_eq!(limits.judge(Some(ReadOnly::Checkpoint), room(99, true)), Some(ReadOnly::Disk));
        assert_eq!(limits.judge(Some(ReadOnly::Checkpoint), room(1000, false)), None);
    }

    #[test]
    fn each_reason_names_the_setting_and_that_it_ends() {
        for (reason, setting) in [
            (ReadOnly::Journal, "max_journal_bytes"),
            (ReadOnly::Disk, "min_free_bytes"),
            (ReadOnly::Checkpoint, "data_dir"),
        ] {
            let text = reason.to_string();
            assert!(text.starts_with("read-only: ") && text.contains(setting) && text.contains("by itself"));
        }
    }
}
