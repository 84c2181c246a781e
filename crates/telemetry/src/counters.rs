//! One table of documented counters, with one copy per core.
//!
//! A counter has one writer, its core, so an increment is a relaxed load and a relaxed store: no lock
//! prefix, no shared cache line. A reader on another thread sees each counter a little late and never torn.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($variant:ident $name:literal $help:literal,)*) => {
        /// What is counted. The help text of each is its documentation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Counter {
            $(#[doc = $help] $variant,)*
        }

        impl Counter {
            /// All counters in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in metrics, in snake case and with the unit last.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What is counted, in whole sentences.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $help,)*
                }
            }
        }
    };
}

counters! {
    Enters "enters" "Calls of io_uring_enter.",
    Entries "entries" "Entries that io_uring_enter handed to the kernel.",
    OtherSyscalls "other_syscalls" "System calls that the reactor made besides io_uring_enter.",
    Sleeps "sleeps" "Waits that had nothing to do and entered the kernel ready to sleep.",
    Sends "sends" "Send operations that completed.",
    Receives "receives" "Receive operations that brought bytes.",
    BytesSent "bytes_sent" "Bytes that the kernel took for sending.",
    BytesReceived "bytes_received" "Bytes that were received.",
    ConnectionsOpened "connections_opened" "Connections that were accepted or established.",
    ConnectionsClosed "connections_closed" "Connections that ended, for whatever reason.",
    HandshakesCompleted "handshakes_completed" "Handshakes that bound a connection to a key.",
    HandshakesRefused "handshakes_refused" "Handshakes that failed, on either side.",
    HandshakesCutShort "handshakes_cut_short" "Accepted connections that had not said who they are and gave way to newer ones.",
    ClientsDisplaced "clients_displaced" "Clients that were closed as their key had most connections and another key wanted a place.",
    ClientsReplaced "clients_replaced" "Clients that were closed as a newer connection wanted the replies of the same session.",
    ClientsUnread "clients_unread" "Clients that were closed as they had not taken the replies that waited for them, or their key too few of them.",
    FramesCutShort "frames_cut_short" "Clients that were closed as they had not ended a frame in time, or their key too many.",
    UnreadBytes "unread_bytes" "Bytes of replies that wait for clients, by the last count.",
    HalfSentBytes "half_sent_bytes" "Memory of frames of clients that are not whole.",
    ClientsRefused "clients_refused" "Clients that were told to try again later, as their key had its part of all places in use.",
    FramesReceived "frames_received" "Frames that were received whole and with right checksums.",
    ConnectionsHeldBack "connections_held_back" "Times that more had come on a connection than one tick takes, and the rest waited for the next ones.",
    FramesRefused "frames_refused" "Frames or streams that were malformed; each costs its sender the connection.",
    BundlesBusy "bundles_busy" "Bundles that were answered with BUSY because a limit was reached.",
    BundlesWaited "bundles_waited" "Bundles that were admitted and waited at home, as their key had as much on its way to execution as it may.",
    BundlesForged "bundles_forged" "Bundles of clients whose signature was wrong.",
    BatchesHeld "batches_held" "Batches that were appended to the journal, own ones and others'.",
    LogWrites "log_writes" "Groups that were written to the log; each is one sync, except with async durability.",
    LogBytes "log_bytes" "Bytes of those groups, their padding and second copies included.",
    LogSyncs "log_syncs" "Groups of the log that were synced to the disk.",
    LogScrubBytes "log_scrub_bytes" "Bytes of the log that were read back and checked while the replica ran.",
    LogBlocksRepaired "log_blocks_repaired" "Bad blocks of the log that were found so and written again from their second copies.",
    LogRecordsLost "log_records_lost" "Records of the log that were found so and cannot be read from any copy.",
    Checkpoints "checkpoints" "Checkpoints that became durable.",
    CheckpointBytes "checkpoint_bytes" "Bytes that checkpoints wrote to page files.",
    BlocksScrubbed "blocks_scrubbed" "Blocks of page files that were read back and compared with the state in memory.",
    BlocksMended "blocks_mended" "Blocks of page files, and copies of manifests, that had gone bad and were written anew.",
    PageFileBytes "page_file_bytes" "Bytes of all page files on the disk.",
    BundlesExecuted "bundles_executed" "Bundles that were executed.",
    OperationsExecuted "operations_executed" "Operations of executed bundles.",
    OperationsDeclinedFull "operations_declined_full" "Operations that had no effect as the state had no room for what they would add.",
    FramesToClients "frames_to_clients" "Replies, reports and BUSY answers that were queued for clients.",
    QuestionsRefused "questions_refused" "Clients that were closed as they had more requests for reports or questions about states open than they may.",
    ReportsBuilt "reports_built" "Reports that were built, each for all who had asked for it.",
    ReportsServed "reports_served" "Requests for reports that were answered.",
    PeerBans "peer_bans" "Times that a peer was kept out of a link for a while because it had sent what no honest replica sends.",
    PeerCreditsUsedUp "peer_credits_used_up" "Answers to peers, and what was sent again, after which the peer's credit was used up and its next question waits.",
    PeerChecksUncovered "peer_checks_uncovered" "Times that a message of a peer was not looked at, or waited, as the peer's credit did not cover its signature checks.",
    PeerOverflows "peer_overflows" "Times that the queue to a peer was full and the peer was marked as lagging.",
}

/// The counters of one core. The alignment keeps two cores off one cache line and its prefetched neighbour.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreCounters([AtomicU64; Counter::ALL.len()]);

impl Default for CoreCounters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }
}

impl CoreCounters {
    /// Adds `amount`. For the core that owns these counters alone: two writers would lose increments.
    pub fn add(&self, counter: Counter, amount: u64) {
        let cell = &self.0[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Adds one. For the owning core alone.
    pub fn increment(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Sets a counter whose total is kept elsewhere on the owning core, such as those of its reactor.
    pub fn set(&self, counter: Counter, total: u64) {
        self.0[counter as usize].store(total, Ordering::Relaxed);
    }

    /// The total of this core.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}

/// The counters of all cores of a replica.
#[derive(Debug)]
pub struct Counters(Vec<CoreCounters>);

impl Counters {
    /// Zeroed counters for `cores` cores. The only allocation there is.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self(std::iter::repeat_with(CoreCounters::default).take(cores).collect())
    }

    /// The counters of one core, if it exists.
    #[must_use]
    pub fn core(&self, index: usize) -> Option<&CoreCounters> {
        self.0.get(index)
    }

    /// The sum over all cores.
    #[must_use]
    pub fn sum(&self, counter: Counter) -> u64 {
        self.0.iter().map(|core| core.get(counter)).fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_snake_case_and_help_is_a_sentence() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            let name = counter.name();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(counter.help().ends_with('.'), "{name}: {}", counter.help());
            assert_eq!(*counter as usize, index);
            assert!(Counter::ALL[index + 1..].iter().all(|other| other.name() != name), "{name} twice");
        }
    }

    #[test]
    fn each_counter_of_each_core_counts_for_itself_and_sums_up() {
        let counters = Counters::new(2);
        let (first, second) = (counters.core(0).unwrap(), counters.core(1).unwrap());
        for (index, counter) in Counter::ALL.iter().enumerate() {
            first.add(*counter, index as u64);
            first.increment(*counter);
            second.set(*counter, 100);
        }
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(first.get(*counter), index as u64 + 1);
            assert_eq!(counters.sum(*counter), index as u64 + 101);
        }
        assert!(counters.core(2).is_none());
    }

    #[test]
    fn a_reader_on_another_thread_sees_totals_that_never_fall() {
        const TOTAL: u64 = 200_000;
        let counters = Counters::new(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..TOTAL {
                    counters.core(0).unwrap().increment(Counter::Enters);
                }
            });
            let mut last = 0;
            while last < TOTAL {
                let seen = counters.sum(Counter::Enters);
                assert!((last..=TOTAL).contains(&seen));
                last = seen;
                std::thread::yield_now();
            }
        });
    }
}
