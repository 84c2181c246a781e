//! One table of documented histograms, with one copy per core.
//!
//! Each copy has one writer, its core, and is a fixed block of cells: recording is a few shifts, a relaxed load
//! and a relaxed store, without lock or allocation, as with the counters. The cells are those of an HdrHistogram
//! with two significant digits, so that reading copies counts and loses nothing.

use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};

/// The significant digits that are kept: a value is off by less than 0.8 %.
const DIGITS: u8 = 2;
/// Cells per doubling of the value, above the first ones: what [`DIGITS`] need.
const HALF_BITS: u32 = 7;
const HALF: usize = 1 << HALF_BITS;
/// What all histograms of one core may take together.
const BYTES_PER_CORE_MAX: usize = 320 * 1024;

macro_rules! histograms {
    ($($variant:ident $name:literal $help:literal,)*) => {
        /// What is measured. The help text of each is its documentation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Measure {
            $(#[doc = $help] $variant,)*
        }

        impl Measure {
            /// All measures in the order of the table: the stages as a bundle passes them, then the others.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in reports, logs and metrics, in snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// From when to when, or of what, in whole sentences.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $help,)*
                }
            }
        }
    };
}

histograms! {
    Admitted "admitted" "From the arrival of a bundle at its home's core until it is checked, signature included, and taken in. Per bundle; bundles that are refused are not in it.",
    Sealed "sealed" "From being admitted until the bundle's batch is sealed. Per bundle.",
    Durable "durable" "From sealing a batch until the home's own journal has made it durable. Per batch, weighted by its bundles.",
    Acknowledged "acknowledged" "From then until the home knows that a quorum holds the batch durably. Per batch, weighted by its bundles.",
    Proposed "proposed" "From then until the home accepts a header that names the batch; zero where the primary is the home and names it earlier. Per batch, weighted by its bundles.",
    Prepared "prepared" "From accepting that header until the home has a quorum of PREPAREs for it or for a later one. Per header, weighted by the bundles of the home in it.",
    Committed "committed" "From then until the header is committed at the home. Per header, weighted by the bundles of the home in it.",
    Executed "executed" "From then until the home has executed the header to its end. Per header, weighted by the bundles of the home in it.",
    Replied "replied" "From the end of a turn of execution until its results are handed to the queues of the clients' connections. Per turn and core, weighted by the results.",
    Tick "tick_ns" "The work of one turn of a core's loop, without the wait and the submission at its start, in nanoseconds. Per turn.",
    Sync "sync_ns" "From handing a group of the log to the kernel until the core knows that it is durable, in nanoseconds; with async durability, until the kernel has it. Per group.",
    EntriesPerEnter "entries_per_enter" "Entries that one call of io_uring_enter handed to the kernel; zero for a call that only waited. Where one turn makes several calls, each counts with their average.",
    BytesPerSend "bytes_per_send" "Bytes that the kernel took in one send operation. Per operation.",
}

/// What the values of a measure are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Time, told apart from 256 ns on, up to 137 s.
    Nanoseconds,
    /// Entries of a ring, up to 4095.
    Entries,
    /// Bytes, up to 16 MiB.
    Bytes,
}

impl Unit {
    /// Values that differ only in so many low bits fall into one cell.
    const fn low_bits(self) -> u32 {
        match self {
            Self::Nanoseconds => 8,
            Self::Entries | Self::Bytes => 0,
        }
    }

    /// The highest value; what is higher is recorded as this.
    const fn value_max(self) -> u64 {
        match self {
            Self::Nanoseconds => (1 << 37) - 1,
            Self::Entries => (1 << 12) - 1,
            Self::Bytes => (1 << 24) - 1,
        }
    }

    const fn cells(self) -> usize {
        self.cell(self.value_max()) + 1
    }

    /// The cell of a value: linear up to twice [`HALF`], then [`HALF`] cells for each doubling.
    const fn cell(self, value: u64) -> usize {
        let value = if value > self.value_max() { self.value_max() } else { value };
        let units = value >> self.low_bits();
        let shift = (u64::BITS - units.leading_zeros()).saturating_sub(HALF_BITS + 1);
        // At most 2 * HALF remain, and the shift is at most 64.
        #[allow(
            clippy::cast_possible_truncation,
            reason = "pointers have 64 bits on every supported platform"
        )]
        let place = (units >> shift) as usize;
        shift as usize * HALF + place
    }

    /// The lowest value of a cell.
    const fn lowest(self, cell: usize) -> u64 {
        let shift = if cell < 2 * HALF { 0 } else { cell / HALF - 1 };
        ((cell - shift * HALF) as u64) << shift << self.low_bits()
    }

    fn histogram(self) -> Histogram<u64> {
        Histogram::new_with_bounds(1 << self.low_bits(), self.value_max(), DIGITS)
            .expect("invariant: the bounds are constants that HdrHistogram takes")
    }
}

impl Measure {
    /// The stages of a bundle, in the order in which it passes them.
    pub const STAGES: &'static [Self] = &[
        Self::Admitted,
        Self::Sealed,
        Self::Durable,
        Self::Acknowledged,
        Self::Proposed,
        Self::Prepared,
        Self::Committed,
        Self::Executed,
        Self::Replied,
    ];

    /// The measure of this name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|measure| measure.name() == name)
    }

    /// Whether it is a stage of a bundle.
    #[must_use]
    pub fn is_stage(self) -> bool {
        Self::STAGES.contains(&self)
    }

    /// What its values are.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::EntriesPerEnter => Unit::Entries,
            Self::BytesPerSend => Unit::Bytes,
            _ => Unit::Nanoseconds,
        }
    }

    /// By what people want its values divided: nanoseconds become milliseconds.
    #[must_use]
    pub const fn divisor(self) -> f64 {
        match self.unit() {
            Unit::Nanoseconds => 1e6,
            Unit::Entries | Unit::Bytes => 1.0,
        }
    }

    /// Where its cells begin in the block of a core.
    const fn offset(self) -> usize {
        let (mut offset, mut index) = (0, 0);
        while index < self as usize {
            offset += Self::ALL[index].unit().cells();
            index += 1;
        }
        offset
    }
}

const LAST: Measure = Measure::ALL[Measure::ALL.len() - 1];
const CELLS: usize = LAST.offset() + LAST.unit().cells();
const _: () = assert!(CELLS * size_of::<AtomicU64>() <= BYTES_PER_CORE_MAX);
/// Worked out once, as recording must not walk the table.
const OFFSETS: [usize; Measure::ALL.len()] = {
    let mut offsets = [0; Measure::ALL.len()];
    let mut index = 0;
    while index < offsets.len() {
        offsets[index] = Measure::ALL[index].offset();
        index += 1;
    }
    offsets
};

/// The histograms of one core.
#[derive(Debug)]
pub struct CoreHistograms(Box<[AtomicU64]>);

impl Default for CoreHistograms {
    fn default() -> Self {
        Self(std::iter::repeat_with(AtomicU64::default).take(CELLS).collect())
    }
}

impl CoreHistograms {
    /// Records a value `count` times. For the core that owns these histograms alone: two writers would lose values.
    pub fn record(&self, measure: Measure, value: u64, count: u64) {
        let cell = &self.0[OFFSETS[measure as usize] + measure.unit().cell(value)];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    fn cells(&self, measure: Measure) -> &[AtomicU64] {
        let offset = OFFSETS[measure as usize];
        &self.0[offset..offset + measure.unit().cells()]
    }
}

/// The histograms of all cores of a replica.
#[derive(Debug)]
pub struct Histograms(Vec<CoreHistograms>);

impl Histograms {
    /// Empty histograms for `cores` cores. The only allocation there is.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self(std::iter::repeat_with(CoreHistograms::default).take(cores).collect())
    }

    /// The histograms of one core, if it exists.
    #[must_use]
    pub fn core(&self, index: usize) -> Option<&CoreHistograms> {
        self.0.get(index)
    }

    /// What all cores have recorded so far. Allocates, and takes some tens of microseconds per core.
    #[must_use]
    pub fn read(&self, measure: Measure) -> Histogram<u64> {
        let unit = measure.unit();
        let mut histogram = unit.histogram();
        for core in &self.0 {
            for (index, cell) in core.cells(measure).iter().enumerate() {
                let count = cell.load(Ordering::Relaxed);
                if count > 0 {
                    histogram.saturating_record_n(unit.lowest(index), count);
                }
            }
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNITS: [Unit; 3] = [Unit::Nanoseconds, Unit::Entries, Unit::Bytes];

    #[test]
    fn names_are_distinct_snake_case_and_help_is_a_sentence() {
        for (index, measure) in Measure::ALL.iter().enumerate() {
            let name = measure.name();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(measure.help().ends_with('.'), "{name}: {}", measure.help());
            assert_eq!(*measure as usize, index);
            assert_eq!(Measure::named(name), Some(*measure), "{name} twice");
        }
        assert_eq!(Measure::ALL[..Measure::STAGES.len()], *Measure::STAGES);
        assert!(Measure::STAGES.iter().all(|stage| stage.unit() == Unit::Nanoseconds));
    }

    #[test]
    fn times_reach_beyond_a_hundred_seconds_and_saturate() {
        assert!(Unit::Nanoseconds.value_max() > 100_000_000_000);
        let histograms = Histograms::new(1);
        histograms.core(0).unwrap().record(Measure::Sealed, u64::MAX, 3);
        let read = histograms.read(Measure::Sealed);
        assert_eq!((read.len(), read.max()), (3, read.highest_equivalent(Unit::Nanoseconds.value_max())));
    }

    #[test]
    fn each_histogram_of_each_core_is_on_its_own_and_they_merge() {
        let histograms = Histograms::new(2);
        for (index, measure) in Measure::ALL.iter().enumerate() {
            for core in 0..2 {
                let value = measure.unit().value_max() >> core;
                histograms.core(core).unwrap().record(*measure, value, index as u64 + 1);
                histograms.core(core).unwrap().record(*measure, 0, 1);
            }
        }
        for (index, measure) in Measure::ALL.iter().enumerate() {
            let read = histograms.read(*measure);
            assert_eq!(read.len(), 2 * (index as u64 + 2), "{}", measure.name());
            assert_eq!(read.count_at(0), 2);
            assert_eq!(read.count_at(measure.unit().value_max()), index as u64 + 1);
        }
        assert!(histograms.core(2).is_none());
    }

    #[test]
    fn a_reader_on_another_thread_sees_totals_that_never_fall() {
        const TOTAL: u64 = 20_000;
        let histograms = Histograms::new(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 0..TOTAL {
                    histograms.core(0).unwrap().record(Measure::Tick, value, 1);
                }
            });
            let mut last = histograms.read(Measure::Tick);
            while last.len() < TOTAL {
                let seen = histograms.read(Measure::Tick);
                assert!(crate::difference(&seen, &last).is_ok());
                last = seen;
            }
        });
    }

    proptest! {
        #[test]
        fn cells_are_those_of_an_hdr_histogram(value in any::<u64>(), bits in 0u32..64) {
            let value = value >> bits;
            for unit in UNITS {
                let histogram = unit.histogram();
                let lowest = unit.lowest(unit.cell(value));
                prop_assert_eq!(lowest, histogram.lowest_equivalent(value.min(unit.value_max())));
                prop_assert_eq!(unit.cell(lowest), unit.cell(value));
                prop_assert!(unit.cell(value) < unit.cells());
            }
        }

        #[test]
        fn what_is_read_is_what_hdr_histogram_would_have(values in prop::collection::vec(0..1u64 << 38, 0..200)) {
            let histograms = Histograms::new(1);
            let mut expected = Unit::Nanoseconds.histogram();
            for value in values {
                histograms.core(0).unwrap().record(Measure::Replied, value, 2);
                expected.saturating_record_n(value, 2);
            }
            let read = histograms.read(Measure::Replied);
            for quantile in [0.0, 0.5, 0.99, 1.0] {
                prop_assert_eq!(read.value_at_quantile(quantile), expected.value_at_quantile(quantile));
            }
            prop_assert_eq!(read.len(), expected.len());
        }
    }
}
