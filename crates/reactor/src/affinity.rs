//! Which CPUs this process may use, and pinning a thread to one of them.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::ReactorError;

/// The numbers of the CPUs that the calling thread may run on, ascending; never empty.
///
/// A container or `taskset` may allow fewer than the machine has. Call it before pinning.
///
/// # Errors
/// [`ReactorError::Affinity`] when the kernel refuses to tell.
pub fn allowed_cpus() -> Result<Vec<usize>, ReactorError> {
    let set = sched_getaffinity(None).map_err(|source| ReactorError::Affinity {
        what: "list the allowed CPUs".to_owned(),
        source: source.into(),
    })?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Pins the calling thread to `cpu`; threads that it spawns later inherit that.
///
/// # Errors
/// [`ReactorError::Affinity`] when the CPU does not exist or is not allowed for this process.
pub fn pin_current_thread(cpu: usize) -> Result<(), ReactorError> {
    let failed = |source| ReactorError::Affinity { what: format!("pin a thread to CPU {cpu}"), source };
    if cpu >= CpuSet::MAX_CPU {
        return Err(failed(std::io::Error::from_raw_os_error(libc::EINVAL)));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|source| failed(source.into()))
}

/// Lowers the calling thread's share of CPUs that others want too: 0 changes nothing, 19 is the least.
///
/// # Errors
/// What the kernel says, which it does not do for raising the number.
pub fn be_nicer(by: i32) -> std::io::Result<()> {
    rustix::process::nice(by)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_sees_one_cpu() {
        let cpus = allowed_cpus().unwrap();
        assert!(!cpus.is_empty());
        let pinned = *cpus.last().unwrap();
        std::thread::spawn(move || {
            pin_current_thread(pinned).unwrap();
            assert_eq!(allowed_cpus().unwrap(), vec![pinned]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_named() {
        let message = pin_current_thread(100_000).unwrap_err().to_string();
        assert!(message.contains("100000"), "{message}");
    }
}
