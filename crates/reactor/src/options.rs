//! The few knobs of a reactor.

use std::time::Duration;

use crate::error::ReactorError;

/// The largest buffer ring that the kernel accepts.
const RECEIVE_BUFFERS_MAX: u16 = 1 << 15;
/// The largest submission queue that the kernel accepts.
const SUBMISSION_ENTRIES_MAX: u32 = 1 << 15;

/// How to build a reactor.
#[derive(Debug, Clone)]
pub struct ReactorOptions {
    /// Entries of the submission queue; the completion queue gets four times as many. Default 1024. A full queue
    /// only costs one more system call.
    pub submission_entries: u32,
    /// Receive buffers, a power of two. Default 128. Raise it when `buffers_exhausted` grows.
    pub receive_buffers: u16,
    /// Bytes of one receive buffer. Default 16 KiB, which was best or near it at all message sizes (DESIGN
    /// section 3).
    pub receive_buffer_bytes: u32,
    /// How long to poll before sleeping in the kernel. Default zero: sleep at once. About 20 µs pays only while no
    /// more threads than cores are running.
    pub spin: Duration,
    /// The CPU to pin the calling thread to. Default none.
    pub cpu: Option<usize>,
}

impl Default for ReactorOptions {
    fn default() -> ReactorOptions {
        ReactorOptions {
            submission_entries: 1024,
            receive_buffers: 128,
            receive_buffer_bytes: 16 * 1024,
            spin: Duration::ZERO,
            cpu: None,
        }
    }
}

impl ReactorOptions {
    pub(crate) fn check(&self) -> Result<(), ReactorError> {
        if self.submission_entries == 0 || self.submission_entries > SUBMISSION_ENTRIES_MAX {
            return Err(ReactorError::Option {
                option: "submission_entries",
                value: self.submission_entries.into(),
                expected: "between 1 and 32768",
            });
        }
        if !self.receive_buffers.is_power_of_two() || self.receive_buffers > RECEIVE_BUFFERS_MAX {
            return Err(ReactorError::Option {
                option: "receive_buffers",
                value: self.receive_buffers.into(),
                expected: "a power of two up to 32768",
            });
        }
        if self.receive_buffer_bytes == 0 || self.receive_buffer_bytes > 1 << 30 {
            return Err(ReactorError::Option {
                option: "receive_buffer_bytes",
                value: self.receive_buffer_bytes.into(),
                expected: "between 1 and 1 GiB",
            });
        }
        Ok(())
    }
}
