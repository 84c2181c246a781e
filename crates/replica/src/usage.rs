//! What each client key uses of execution, which all lanes share.
//!
//! Homes hold back what would stand before the work of keys that use far less, and a home sees neither what keys do elsewhere
//! nor what they do on other links. Execution sees all of it.

use quorate_types::{KeyIndex, Nanoseconds, limits};
use std::sync::Arc;

/// The windows after which nothing is left of any use.
const WINDOWS_KEPT: u64 = 256;

/// The units that keys have used, those of earlier windows for less and less.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    keys: Vec<u32>,
    /// When the present window ends.
    end: Nanoseconds,
}

impl Usage {
    /// A bundle of a key was executed.
    pub(crate) fn note(&mut self, key: KeyIndex, units: u32) {
        let index = key.0 as usize;
        if index >= self.keys.len() {
            self.keys.resize(index + 1, 0);
        }
        self.keys[index] = self.keys[index].saturating_add(units);
    }

    /// What all have used, if a window has ended since this last returned something.
    pub(crate) fn take(&mut self, now: Nanoseconds) -> Option<Arc<[u32]>> {
        if now < self.end {
            return None;
        }
        let uses = self.keys.as_slice().into();
        let windows = now.since(self.end) / limits::USE_WINDOW.0 + 1;
        for _ in 0..windows.min(WINDOWS_KEPT) {
            self.keys.iter_mut().for_each(|used| *used = decayed(*used));
        }
        self.end = now.plus(limits::USE_WINDOW.0);
        Some(uses)
    }
}

/// Seven eighths, and zero in the end.
fn decayed(used: u32) -> u32 {
    used - used.div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIGHT: KeyIndex = KeyIndex(1);
    const HEAVY: KeyIndex = KeyIndex(3);

    #[test]
    fn whoever_was_active_is_so_for_two_seconds_and_no_longer() {
        let mut usage = Usage::default();
        let start = Nanoseconds::from_millis(1_000_000);
        assert_eq!(usage.take(start).as_deref(), Some(&[][..]));
        usage.note(LIGHT, 17);
        assert_eq!(usage.take(start.plus(limits::USE_WINDOW.0 - 1)), None);
        let mut last = 0;
        for window in 1..=40 {
            usage.note(HEAVY, 10_000);
            let uses = usage.take(start.plus(limits::USE_WINDOW.0 * window)).expect("a window has ended");
            assert_eq!((uses[0], uses[2]), (0, 0));
            assert!(uses[3] >= 10_000);
            if uses[1] > 0 {
                last = window;
            }
        }
        assert!((10..=25).contains(&last), "{last} windows");
        let uses = usage.take(start.plus(limits::USE_WINDOW.0 * 1_000_000)).expect("a window has ended");
        assert!(uses[3] > 0, "what was used in the last window counts");
        let uses = usage.take(start.plus(limits::USE_WINDOW.0 * 1_000_001)).expect("a window has ended");
        assert_eq!(uses[3], 0);
    }
}
