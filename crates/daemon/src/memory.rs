//! Whether this machine has the memory that the state may take.

use quorate_types::{ByteCount, limits};

/// A sentence where it has not.
#[must_use]
pub fn remark(state_max: u64) -> Option<String> {
    remark_on(state_max, machine_bytes())
}

fn remark_on(state_max: u64, machine: u64) -> Option<String> {
    let takes = state_max / 10 * limits::STATE_MEMORY_TENTHS;
    (takes > machine).then(|| {
        format!(
            "state_max is {}, and the state takes up to {} MiB of memory then, of which this machine has {} MiB: before it is \
             full, the replica may be ended for want of memory; have keys deleted in time, or make a cluster with a smaller \
             state_max (`quorate init --state-max`)",
            ByteCount(state_max),
            takes >> 20,
            machine >> 20
        )
    })
}

/// The memory of this machine.
fn machine_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    // The types of its fields differ from platform to platform.
    #[allow(clippy::useless_conversion, reason = "it is one elsewhere")]
    let (pages, bytes) = (u64::from(info.totalram), u64::from(info.mem_unit));
    pages.saturating_mul(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_may_outgrow_the_machine_is_remarked_on() {
        let sixteen = 16 << 30;
        assert_eq!(remark_on(limits::STATE_BYTES_MAX, sixteen), None);
        let text = remark_on(10 << 30, sixteen).unwrap();
        assert!(text.contains("state_max is 10 GiB") && text.contains("17408 MiB"), "{text}");
        assert!(machine_bytes() > 1 << 20);
        assert!(remark(1 << 62).is_some());
    }
}
