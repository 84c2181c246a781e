//! Where a run took place: what must be the same for two results to be comparable.

use serde::{Deserialize, Serialize};

/// The program and the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// The version of quorate.
    pub version: String,
    /// The commit that it was built from, as `QUORATE_COMMIT` or git told when it was built.
    pub commit: Option<String>,
    /// The kernel's name and release.
    pub kernel: String,
    /// The model of the CPU, where the system tells.
    pub cpu_model: Option<String>,
    /// The number of CPUs that the generator may use.
    pub cpus: usize,
}

impl Environment {
    /// This program on this machine.
    #[must_use]
    pub fn here() -> Self {
        let kernel = rustix::system::uname();
        let cpu_model = std::fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| cpu_model(&text).map(str::to_owned));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("QUORATE_COMMIT").map(str::to_owned),
            kernel: format!("{} {}", kernel.sysname().to_string_lossy(), kernel.release().to_string_lossy()),
            cpu_model,
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        }
    }
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_where_there_is_one() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t: a\nmodel name\t: Other\n";
        assert_eq!(cpu_model(text), Some("Some CPU @ 2 GHz"));
        assert_eq!(cpu_model("processor\t: 0\n"), None);
    }

    #[test]
    fn this_machine_says_something() {
        let here = Environment::here();
        assert!(here.kernel.starts_with("Linux ") && here.cpus > 0, "{here:?}");
    }
}
