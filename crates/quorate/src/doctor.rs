//! `quorate doctor`: whether replicas can run on this machine, and what to change.

use crate::failure::Failure;
use crate::output;
use clap::Args;
use quorate_reactor::{KernelReport, Reactor, ReactorOptions, probe};
use std::fmt;
use std::process::ExitCode;

/// A replica with one core needs about 2 MiB for its receive buffers; this leaves room for several.
const LOCKED_BYTES_ENOUGH: u64 = 8 * 1024 * 1024;
/// Connections to peers and clients, and what a ring needs itself.
const OPEN_FILES_ENOUGH: u64 = 1024;
/// Replica, clients and the rest of the system.
const CPUS_ENOUGH: usize = 2;
const KERNEL_LEAST: (u32, u32) = (6, 1);

const AFTER_HELP: &str = "\
Each line is `ok`, `hint` for what works but could be better, or `BAD` for what keeps a replica from running, with \
the remedy. Run it as the user that runs the replicas, and inside the same container or service.

Exit codes: 0 replicas can run here, 1 they cannot.";

/// Check kernel, io_uring, limits and CPUs, and name the remedies.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DoctorArguments {}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Good,
    Hint,
    Bad,
}

/// One line.
#[derive(Debug)]
struct Finding {
    grade: Grade,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.grade {
            Grade::Good => "ok",
            Grade::Hint => "hint",
            Grade::Bad => "BAD",
        };
        writeln!(f, "{word:<5} {}", self.text)
    }
}

pub(crate) fn run(_: &DoctorArguments) -> Result<ExitCode, Failure> {
    let report = probe();
    let mut findings = vec![kernel(&report.release), io_uring(&report), sysctl()];
    findings.extend(features(&report));
    if report.is_usable() {
        findings.push(reactor());
    }
    findings.push(locked_memory(report.locked_bytes_max));
    findings.push(open_files(report.open_files_max));
    findings.push(cpus(report.cpus));
    let bad = findings.iter().filter(|finding| finding.grade == Grade::Bad).count();
    let mut text: String = findings.iter().map(ToString::to_string).collect();
    text += match bad {
        0 => "\nReplicas can run here.\n",
        _ => "\nReplicas cannot run here; see the lines with BAD.\n",
    };
    output::print(text)?;
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn good(text: String) -> Finding {
    Finding { grade: Grade::Good, text }
}

fn hint(text: String) -> Finding {
    Finding { grade: Grade::Hint, text }
}

fn bad(text: String) -> Finding {
    Finding { grade: Grade::Bad, text }
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse::<u32>().ok());
    let (least_major, least_minor) = KERNEL_LEAST;
    match (number(), number()) {
        (Some(major), Some(minor)) if (major, minor) >= KERNEL_LEAST => good(format!("kernel {release}")),
        (Some(_), Some(_)) => {
            bad(format!("kernel {release}: Linux {least_major}.{least_minor} or newer is needed; upgrade it"))
        }
        _ => hint(format!(
            "kernel {release}: its version is not understood; {least_major}.{least_minor} is needed"
        )),
    }
}

fn io_uring(report: &KernelReport) -> Finding {
    match &report.refusal {
        None => good("io_uring can be used".to_owned()),
        Some(reason) => bad(format!("io_uring cannot be used: {reason}")),
    }
}

fn sysctl() -> Finding {
    const NAME: &str = "kernel.io_uring_disabled";
    match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").as_deref().map(str::trim) {
        Ok("0") => good(format!("sysctl {NAME} = 0: allowed for all users")),
        Ok("1") => hint(format!(
            "sysctl {NAME} = 1: only for root and the group in kernel.io_uring_group; for other users run \
             `sysctl -w {NAME}=0`, or put their group there"
        )),
        Ok(value) => bad(format!("sysctl {NAME} = {value}: forbidden for all; run `sysctl -w {NAME}=0`")),
        Err(_) => good(format!("sysctl {NAME} is unknown to this kernel, so nothing is switched off")),
    }
}

fn features(report: &KernelReport) -> Vec<Finding> {
    let line = |feature: &quorate_reactor::Support| match (feature.available, feature.otherwise) {
        (true, _) => good(format!("io_uring: {}", feature.feature)),
        (false, "required") => {
            bad(format!("io_uring lacks {}: upgrade to Linux 6.1 or newer", feature.feature))
        }
        (false, otherwise) => {
            hint(format!("io_uring lacks {}: {otherwise}; a newer kernel has it", feature.feature))
        }
    };
    report.features.iter().map(line).collect()
}

/// The proof of the pudding: what a replica builds first.
fn reactor() -> Finding {
    match Reactor::new(&ReactorOptions::default()) {
        Ok(_) => good("a reactor with its ring and buffers can be built".to_owned()),
        Err(error) => bad(format!("a reactor cannot be built: {error}")),
    }
}

fn locked_memory(limit: Option<u64>) -> Finding {
    let kib = |bytes: u64| bytes / 1024;
    match limit {
        None => good("locked memory: unlimited".to_owned()),
        Some(bytes) if bytes >= LOCKED_BYTES_ENOUGH => good(format!("locked memory: {} KiB", kib(bytes))),
        Some(bytes) => hint(format!(
            "locked memory: {} KiB; {} KiB are better for replicas with several cores: `ulimit -l {1}`, or \
             LimitMEMLOCK= in the service",
            kib(bytes),
            kib(LOCKED_BYTES_ENOUGH)
        )),
    }
}

fn open_files(limit: Option<u64>) -> Finding {
    match limit {
        None => good("open files: unlimited".to_owned()),
        Some(files) if files >= OPEN_FILES_ENOUGH => good(format!("open files: {files}")),
        Some(files) => hint(format!(
            "open files: {files}; each client takes one: `ulimit -n {OPEN_FILES_ENOUGH}` or more, or LimitNOFILE= in \
             the service"
        )),
    }
}

fn cpus(count: usize) -> Finding {
    if count >= CPUS_ENOUGH {
        good(format!("CPUs that may be used: {count}"))
    } else {
        hint(format!(
            "CPUs that may be used: {count}; replicas run, but share it with their clients: allow more (taskset, cpuset, \
             AllowedCPUs=)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_from_6_1_on_will_do() {
        assert_eq!(kernel("6.1.0-13-amd64").grade, Grade::Good);
        assert_eq!(kernel("6.18.5").grade, Grade::Good);
        assert_eq!(kernel("7.0").grade, Grade::Good);
        assert_eq!(kernel("5.15.0").grade, Grade::Bad);
        assert_eq!(kernel("6.0.9").grade, Grade::Bad);
        assert_eq!(kernel("strange").grade, Grade::Hint);
    }

    #[test]
    fn low_limits_are_hints_with_a_remedy() {
        assert_eq!(locked_memory(None).grade, Grade::Good);
        assert_eq!(locked_memory(Some(LOCKED_BYTES_ENOUGH)).grade, Grade::Good);
        assert!(locked_memory(Some(65_536)).text.contains("ulimit -l 8192"));
        assert!(open_files(Some(256)).text.contains("ulimit -n 1024"));
        assert_eq!(cpus(1).grade, Grade::Hint);
    }
}
