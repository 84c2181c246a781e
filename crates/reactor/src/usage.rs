//! What the process has used: CPU time, context switches, memory.

use std::mem::MaybeUninit;
use std::time::Duration;

/// Totals of the whole process since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time spent in the process.
    pub user: Duration,
    /// CPU time spent in the kernel on its behalf.
    pub system: Duration,
    /// Times that a thread gave up its CPU to wait for something.
    pub voluntary_switches: u64,
    /// Times that a thread was taken off its CPU.
    pub involuntary_switches: u64,
    /// The most memory that was ever resident, in bytes.
    pub resident_bytes_max: u64,
}

/// What the process has used so far. One system call, no allocation.
pub fn usage() -> Usage {
    let mut raw = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes one `rusage` to the place given. RUSAGE_SELF and a valid pointer cannot fail; if
    // they did, the zeroes remain, which are valid for a struct of integers.
    let raw = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, raw.as_mut_ptr());
        raw.assume_init()
    };
    Usage {
        user: duration(raw.ru_utime),
        system: duration(raw.ru_stime),
        voluntary_switches: raw.ru_nvcsw.unsigned_abs(),
        involuntary_switches: raw.ru_nivcsw.unsigned_abs(),
        resident_bytes_max: raw.ru_maxrss.unsigned_abs() * 1024,
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
}

/// The memory that is resident now, in bytes, or none without `/proc`. Opens a file, so not for the hot path.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_sleep_appear_in_the_totals() {
        let before = usage();
        let started = std::time::Instant::now();
        let mut value = 0u64;
        while usage().user + usage().system == before.user + before.system {
            value = std::hint::black_box(value + 1);
            assert!(started.elapsed() < Duration::from_secs(30), "CPU time stands still");
        }
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let _ = receiver.recv_timeout(Duration::from_millis(1));
        drop(sender);
        let after = usage();
        assert!(after.voluntary_switches > before.voluntary_switches);
        assert!(after.resident_bytes_max > 0);
        assert!(resident_bytes().unwrap() > 0);
    }
}
