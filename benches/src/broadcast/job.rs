//! What one sending process is asked to do, and what it found: one line of JSON each.

use super::rung::RungName;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// One run of one rung.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Job {
    /// The way of sending.
    pub rung: RungName,
    /// The bytes of a message.
    pub message_bytes: usize,
    /// How long messages are made, in milliseconds; what is then queued is still sent and counted.
    pub milliseconds: u64,
    /// The messages of one burst, which is what a tick of a replica would send.
    pub burst: usize,
    /// Bytes that may wait for a receiver at the end of a burst. Above, the producer waits until half of them are gone.
    pub window_bytes: usize,
    /// Where the receivers listen.
    pub receivers: Vec<SocketAddr>,
}

/// Totals of one run.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Messages that every receiver has acknowledged.
    pub broadcasts: u64,
    /// From the first message to the last acknowledgement, in nanoseconds.
    pub nanoseconds: u64,
    /// CPU time of the sending process in microseconds, kernel included.
    pub cpu_us: u64,
    /// Context switches of the sending process in which it gave up its CPU.
    pub voluntary_switches: u64,
    /// Context switches of the sending process in which it lost its CPU.
    pub involuntary_switches: u64,
    /// System calls as the rung itself counted them, if it makes all of them by its own hand.
    pub own_syscalls: Option<u64>,
    /// CPU time of all receiving processes in microseconds.
    pub receivers_cpu_us: u64,
}
