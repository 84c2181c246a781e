//! What happened: a hash over everything, and lines for a reader who replays a seed.
//!
//! Lines are made only when somebody reads them; the hash is made always, so that two runs of a seed can be
//! compared at no cost.

use quorate_types::Nanoseconds;
use std::fmt;
use std::io::Write;

/// How much a reader wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Faults, connections, progress and completions.
    Readable,
    /// Every frame, write and tick as well.
    Verbose,
}

/// The record of one history.
pub struct Trace {
    hash: u64,
    events: u64,
    reader: Option<(Detail, Box<dyn Write>)>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:016x}, {} events)", self.hash, self.events)
    }
}

impl Trace {
    /// A trace that is only hashed.
    #[must_use]
    pub fn silent() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, reader: None }
    }

    /// A trace that is written to `writer` too.
    #[must_use]
    pub fn written(detail: Detail, writer: Box<dyn Write>) -> Self {
        Self { reader: Some((detail, writer)), ..Self::silent() }
    }

    /// Notes an event: `code` and `fields` for the hash, `line` for the reader.
    pub fn note(&mut self, now: Nanoseconds, detail: Detail, fields: &[u64], line: impl FnOnce() -> String) {
        self.events += 1;
        self.mix(now.0);
        for field in fields {
            self.mix(*field);
        }
        if let Some((wanted, writer)) = &mut self.reader
            && detail <= *wanted
        {
            // A reader who goes away (a closed pipe) does not change the history.
            let _ = writeln!(writer, "{} {}", time(now), line());
        }
    }

    /// Mixes bytes into the hash.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The number of events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }
}

/// A virtual time in milliseconds, for readers.
#[must_use]
pub fn time(at: Nanoseconds) -> String {
    format!("{:>6}.{:06} ms", at.0 / 1_000_000, at.0 % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_every_field_and_on_the_order() {
        let hash = |events: &[(u64, u64)]| {
            let mut trace = Trace::silent();
            for (now, field) in events {
                trace.note(Nanoseconds(*now), Detail::Verbose, &[*field], String::new);
            }
            trace.hash()
        };
        assert_eq!(hash(&[(1, 2), (3, 4)]), hash(&[(1, 2), (3, 4)]));
        assert_ne!(hash(&[(1, 2), (3, 4)]), hash(&[(3, 4), (1, 2)]));
        assert_ne!(hash(&[(1, 2)]), hash(&[(1, 3)]));
    }
}
