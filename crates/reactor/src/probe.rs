//! What this kernel offers to a reactor, for `quorate doctor` and for error messages.

use std::fmt;
use std::io;

use io_uring::{Probe, opcode};
use rustix::process::{Resource, Rlimit, getrlimit};

use crate::buffers::BufferPool;
use crate::ring::{Flavour, Ring};

/// Whether one feature is there, and what its absence means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// The name as the kernel's manual has it.
    pub feature: &'static str,
    /// Whether the kernel offers it.
    pub available: bool,
    /// What happens without it.
    pub otherwise: &'static str,
}

/// What was found out about the kernel and the limits of this process.
#[derive(Debug, Clone)]
pub struct KernelReport {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// Why io_uring cannot be used and what to change, or nothing when it can.
    pub refusal: Option<String>,
    /// Single features, the required ones first; empty when io_uring cannot be used.
    pub features: Vec<Support>,
    /// The soft limit of locked memory in bytes; none means unlimited.
    pub locked_bytes_max: Option<u64>,
    /// The soft limit of open files; none means unlimited.
    pub open_files_max: Option<u64>,
    /// CPUs that this process may use.
    pub cpus: usize,
}

impl KernelReport {
    /// Whether a reactor can be built here.
    pub fn is_usable(&self) -> bool {
        const REQUIRED: &str = "required";
        self.refusal.is_none()
            && self.features.iter().all(|feature| feature.available || feature.otherwise != REQUIRED)
    }
}

impl fmt::Display for KernelReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "kernel {} with {} usable CPUs", self.release, self.cpus)?;
        match &self.refusal {
            Some(reason) => writeln!(formatter, "io_uring cannot be used: {reason}")?,
            None => writeln!(formatter, "io_uring can be used")?,
        }
        for support in &self.features {
            match support.available {
                true => writeln!(formatter, "  {}: yes", support.feature)?,
                false => writeln!(formatter, "  {}: no ({})", support.feature, support.otherwise)?,
            }
        }
        let limit = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
        writeln!(formatter, "locked memory at most {} bytes", limit(self.locked_bytes_max))?;
        write!(formatter, "open files at most {}", limit(self.open_files_max))
    }
}

/// Finds out what the kernel offers, by trying it on a small ring that is gone afterwards. Takes a few dozen system
/// calls and fails never; what is wrong is in the report.
pub fn probe() -> KernelReport {
    let (refusal, features) = match Ring::new(32) {
        Ok(ring) => (None, features(&ring)),
        Err(crate::ReactorError::Unavailable { reason, .. }) => (Some(reason), Vec::new()),
        Err(error) => (Some(error.to_string()), Vec::new()),
    };
    KernelReport {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        refusal,
        features,
        locked_bytes_max: soft(getrlimit(Resource::Memlock)),
        open_files_max: soft(getrlimit(Resource::Nofile)),
        cpus: crate::affinity::allowed_cpus().map_or(1, |cpus| cpus.len()),
    }
}

fn soft(limit: Rlimit) -> Option<u64> {
    limit.current
}

fn features(ring: &Ring) -> Vec<Support> {
    let mut table = Probe::new();
    let probed = ring.submitter().register_probe(&mut table).is_ok();
    let has = |code: u8| probed && table.is_supported(code);
    let buffers = BufferPool::new(1, 4096).is_ok_and(|pool| pool.register(ring).is_ok());
    let required = "required";
    vec![
        // There is no flag for the multishot forms. Multishot accept and buffer rings came with 5.19, multishot
        // receive and SEND_ZC with 6.0, so SEND_ZC stands in for the latter.
        Support { feature: "buffer rings and multishot accept", available: buffers, otherwise: required },
        Support {
            feature: "multishot receive",
            available: buffers && has(opcode::SendZc::CODE),
            otherwise: required,
        },
        Support {
            feature: "SINGLE_ISSUER and DEFER_TASKRUN",
            available: ring.flavour() == Flavour::Deferred,
            otherwise: "a few more interruptions per message",
        },
        Support {
            feature: "COOP_TASKRUN and TASKRUN_FLAG",
            available: matches!(ring.flavour(), Flavour::Deferred | Flavour::Cooperative),
            otherwise: "a few more interruptions per message",
        },
        Support {
            feature: "MSG_RING",
            available: has(opcode::MsgRingData::CODE),
            otherwise: "sleeping cores are woken through an eventfd",
        },
        Support {
            feature: "SEND_ZC",
            available: has(opcode::SendZc::CODE),
            otherwise: "zero-copy sending cannot be switched on",
        },
    ]
}

/// Why io_uring was refused with `error`, and what to change, in words.
pub(crate) fn refusal(error: &io::Error) -> String {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match (error.raw_os_error(), sysctl.as_deref().map(str::trim)) {
        (Some(libc::ENOSYS), _) => {
            "the kernel has no io_uring; Linux 6.1 or newer, built with CONFIG_IO_URING, is needed".to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), Ok("2")) => {
            "it is switched off for all: set the sysctl kernel.io_uring_disabled to 0".to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), Ok("1")) => {
            "it is switched off for ordinary users: set the sysctl kernel.io_uring_disabled to 0, or put the group of \
             the daemon into kernel.io_uring_group"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "a seccomp filter or a security module forbids it: allow io_uring_setup, io_uring_enter and \
             io_uring_register (Docker: --security-opt seccomp=<profile>, systemd: SystemCallFilter=@aio)"
                .to_owned()
        }
        _ => format!("the kernel answered {error}; Linux 6.1 or newer is needed"),
    }
}

/// Whether a plain ring can be made at all; the cheapest question to the kernel.
#[cfg(test)]
fn has_io_uring() -> bool {
    io_uring::IoUring::new(1).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_agrees_with_a_plain_ring() {
        let report = probe();
        assert_eq!(report.refusal.is_none(), has_io_uring());
        assert_eq!(report.is_usable(), has_io_uring(), "{report}");
        assert!(report.cpus > 0);
    }

    #[test]
    fn each_refusal_names_a_remedy() {
        for errno in [libc::ENOSYS, libc::EPERM, libc::EINVAL] {
            let text = refusal(&io::Error::from_raw_os_error(errno));
            assert!(["6.1", "sysctl", "seccomp"].iter().any(|remedy| text.contains(remedy)), "{text}");
        }
    }
}
