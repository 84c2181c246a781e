//! What was refused, or had to go, since that was told last. Whoever reaches a port can bring it about, so the log has a
//! line of it a second at most, with counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tracing::warn;

const INTERVAL: Duration = Duration::from_secs(1);

/// Counts since the last line.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// Connections that gave way to newer ones while they shook hands.
    pub(crate) half_open: u64,
    /// Clients that gave way to those of others.
    pub(crate) displaced: u64,
    /// Clients that were told to try again.
    pub(crate) full: u64,
    /// All else, by its label, with where the last came from, as far as that is known.
    reasons: BTreeMap<&'static str, (u64, Option<SocketAddr>)>,
    told: Option<Instant>,
}

impl Refused {
    /// Something was refused that came from there.
    pub(crate) fn note(&mut self, label: &'static str, from: Option<SocketAddr>) {
        let (count, last) = self.reasons.entry(label).or_default();
        *count += 1;
        *last = from.or(*last);
    }

    fn is_empty(&self) -> bool {
        self.half_open + self.displaced + self.full == 0 && self.reasons.is_empty()
    }

    /// When there is something to tell.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.told.map(|told| told + INTERVAL).filter(|_| !self.is_empty())
    }

    /// Tells of it, once a second at most.
    pub(crate) fn tell(&mut self, now: Instant) {
        if self.is_empty() || self.due().is_some_and(|due| now < due) {
            return;
        }
        let Self { half_open, displaced, full, .. } = *self;
        if half_open + displaced + full > 0 {
            warn!(
                half_open,
                displaced,
                refused = full,
                "crowded: connections that were slow to say who they are gave way to newer ones, clients of the key with \
                 most connections to others, and newer ones of such a key were told to try again"
            );
        }
        if !self.reasons.is_empty() {
            warn!("refused since this was told last: {}", self.sentence());
        }
        *self = Self { told: Some(now), ..Self::default() };
    }

    fn sentence(&self) -> String {
        let reason = |(label, (count, last)): (&&str, &(u64, Option<SocketAddr>))| match last {
            Some(address) => format!("{label} {count} (the last from {address})"),
            None => format!("{label} {count}"),
        };
        self.reasons.iter().map(reason).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_told_at_once_and_then_once_a_second_with_counts() {
        let mut refused = Refused::default();
        let start = Instant::now();
        assert_eq!(refused.due(), None);
        let from = SocketAddr::from(([127, 0, 0, 1], 5));
        refused.note("unknown_key", Some(from));
        refused.tell(start);
        assert!(refused.is_empty(), "the first at once");
        refused.note("unknown_key", Some(from));
        refused.note("unknown_key", None);
        refused.note("busy", None);
        assert_eq!(refused.sentence(), "busy 1, unknown_key 2 (the last from 127.0.0.1:5)");
        refused.tell(start + Duration::from_millis(999));
        assert!(!refused.is_empty(), "it waits");
        assert_eq!(refused.due(), Some(start + INTERVAL), "and the core wakes for it");
        refused.tell(start + INTERVAL);
        assert!(refused.is_empty() && refused.due().is_none());
    }
}
