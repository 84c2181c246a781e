//! Whether there is room for more: what the logs and the disk say, and when that means taking no more writes.

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
            Some(ReadOnly::Journal) => journal_bytes_max / 8 * 5,
            _ => journal_bytes_max / 4 * 3,
        };
        (needed > needed_enough).then_some(ReadOnly::Journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
