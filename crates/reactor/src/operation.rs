//! The 64 bits that name an operation to the kernel and come back with its completion.
//!
//! Layout: kind in the top 8 bits, index in the next 24, generation in the low 32. A slot is not reused before
//! every operation that names it has completed, so a completion never meets a stranger in its slot.

/// Slots that the index can name.
pub(crate) const INDEX_MAX: u32 = 1 << 24;

/// What an operation was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Multishot accept on the listener `index`.
    Accept = 1,
    /// Connect of the connection `index`.
    Connect = 2,
    /// Receive on the connection `index`, multishot or single.
    Receive = 3,
    /// The one send in flight on the connection `index`.
    Send = 4,
    /// A cancellation made for the connection `index`.
    Cancel = 5,
    /// The read of the waker's eventfd.
    Wake = 6,
    /// The poll of the signalfd.
    Signal = 7,
    /// A doorbell that another core rang here.
    DoorbellHeard = 8,
    /// A doorbell for core `index` that could not be delivered through its ring.
    DoorbellFailed = 9,
    /// Nobody waits for the result.
    Ignored = 10,
    /// The write `index` to a file.
    FileWrite = 11,
    /// The sync that follows the write `index`.
    FileSync = 12,
}

/// A decoded name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Operation {
    pub(crate) const fn new(kind: Kind, index: u32, generation: u32) -> Operation {
        assert!(index < INDEX_MAX, "invariant: the slab refuses to grow beyond 24 bits");
        Operation { kind, index, generation }
    }

    pub(crate) const fn encode(self) -> u64 {
        (self.kind as u64) << 56 | (self.index as u64) << 32 | self.generation as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "each field is masked to its own bits")]
    pub(crate) fn decode(bits: u64) -> Operation {
        let kind = match (bits >> 56) as u8 {
            1 => Kind::Accept,
            2 => Kind::Connect,
            3 => Kind::Receive,
            4 => Kind::Send,
            5 => Kind::Cancel,
            6 => Kind::Wake,
            7 => Kind::Signal,
            8 => Kind::DoorbellHeard,
            9 => Kind::DoorbellFailed,
            11 => Kind::FileWrite,
            12 => Kind::FileSync,
            _ => Kind::Ignored,
        };
        Operation { kind, index: (bits >> 32) as u32 & (INDEX_MAX - 1), generation: bits as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_round_trip() {
        for kind in [
            Kind::Accept,
            Kind::Connect,
            Kind::Receive,
            Kind::Send,
            Kind::Cancel,
            Kind::Wake,
            Kind::Signal,
            Kind::DoorbellHeard,
            Kind::DoorbellFailed,
            Kind::Ignored,
            Kind::FileWrite,
            Kind::FileSync,
        ] {
            for (index, generation) in [(0, 0), (INDEX_MAX - 1, u32::MAX), (7, 9)] {
                let operation = Operation::new(kind, index, generation);
                assert_eq!(Operation::decode(operation.encode()), operation);
            }
        }
    }
}
