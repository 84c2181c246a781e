//! What descriptors there are, and what they are for (DESIGN section 7, "before anybody is known").
//!
//! The soft limit is raised to the hard one at start. Files come first: segments of logs, page files, rings and pipes have a
//! part that no socket takes. Links to replicas come second; connections that are not known yet, and clients, share the rest.

use crate::half_open::HalfOpenLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// What files take beside those of the cores: page files, manifests, histograms, standard streams.
const FILES: u64 = 64;
/// What files of one core take: its ring, doorbell and listening sockets, segments, what is read back.
const FILES_PER_CORE: u64 = 32;
/// The sockets of one link to one replica: the one that stands, a newer one, and both sides' handshakes.
const SOCKETS_PER_LINK: u64 = 4;
/// Sockets of one core that are refused and not gone yet; the oldest are cut short.
pub(crate) const CLOSING: usize = 64;
/// The most half-open connections of clients, and of replicas, at one core.
const HALF_OPEN_CLIENTS_MAX: usize = 1024;
const HALF_OPEN_REPLICAS_MAX: usize = 256;
/// The most clients of one core.
pub(crate) const CLIENTS_MAX: usize = 4096;
/// With fewer clients than that at each core a replica does not start.
const CLIENTS_MIN: usize = 16;

/// How many connections one core may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doors {
    pub(crate) clients: usize,
    pub(crate) half_open_clients: HalfOpenLimits,
    /// At the doors of the links: of those who come from the addresses of members, and of anybody else.
    pub(crate) half_open_members: HalfOpenLimits,
    pub(crate) half_open_strangers: HalfOpenLimits,
}

/// The limit of open files is too low to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the limit of open files is {limit}, and a replica with {cores} cores and {links} links to others needs {needed}: raise it \
     (LimitNOFILE= of the systemd unit, or ulimit -Hn)"
)]
pub struct TooFew {
    limit: u64,
    cores: usize,
    links: usize,
    needed: u64,
}

/// The limit of open files that holds once it is raised.
pub(crate) fn highest() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises the soft limit of open files to the hard one; returns what holds then.
pub(crate) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // What cannot be raised is used as it is.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    if raised { maximum } else { current }.unwrap_or(u64::MAX)
}

impl Doors {
    /// What each of `cores` cores may have of so many descriptors, in a replica with so many links to others.
    pub(crate) fn budget(limit: u64, cores: usize, links: usize) -> Result<Self, TooFew> {
        let reserved = FILES + FILES_PER_CORE * cores as u64 + SOCKETS_PER_LINK * links as u64;
        let share = usize::try_from(limit.saturating_sub(reserved) / cores as u64).unwrap_or(usize::MAX);
        let half_open_clients = HALF_OPEN_CLIENTS_MAX.min(share / 4);
        let half_open_replicas = HALF_OPEN_REPLICAS_MAX.min(share / 8);
        let others = half_open_clients + half_open_replicas + CLOSING;
        let clients = CLIENTS_MAX.min(share.saturating_sub(others));
        if clients < CLIENTS_MIN {
            // Five eighths of a share are for clients, and for what is being closed.
            let share = (CLIENTS_MIN + CLOSING).div_ceil(5) * 8;
            let needed = reserved + (share * cores) as u64;
            return Err(TooFew { limit, cores, links, needed });
        }
        let of = |all: usize, sources: usize| HalfOpenLimits { all, per_source: (all / sources).max(1) };
        Ok(Self {
            clients,
            half_open_clients: of(half_open_clients, 2),
            // All replicas may share one address.
            half_open_members: of(half_open_replicas / 2, 1),
            half_open_strangers: of(half_open_replicas / 2, 4),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_links_come_first_and_all_together_stay_within_the_limit() {
        for (limit, cores, links) in
            [(1024, 1, 3), (1024, 2, 6), (4096, 4, 36), (1 << 20, 8, 99), (400, 1, 3)]
        {
            let doors = Doors::budget(limit, cores, links).unwrap();
            let replicas = doors.half_open_members.all + doors.half_open_strangers.all;
            let core = doors.clients + doors.half_open_clients.all + replicas + CLOSING;
            let reserved = FILES + FILES_PER_CORE * cores as u64 + SOCKETS_PER_LINK * links as u64;
            assert!(reserved + (core * cores) as u64 <= limit, "{limit} {cores} {links}: {doors:?}");
            assert!(doors.half_open_members.all >= 8, "{doors:?}");
        }
        assert_eq!(Doors::budget(1 << 20, 2, 6).unwrap().clients, CLIENTS_MAX);
    }

    #[test]
    fn what_is_said_to_be_needed_suffices() {
        for (cores, links) in [(1, 3), (2, 6), (4, 396)] {
            let error = Doors::budget(64, cores, links).unwrap_err();
            assert_eq!(Doors::budget(error.needed, cores, links).map(|_| ()), Ok(()));
            assert!(error.to_string().contains("LimitNOFILE"));
        }
    }
}
