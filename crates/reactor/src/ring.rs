//! The ring itself: setup with fall-backs, a submission queue that never loses an entry, and one enter.
//!
//! `io_uring_enter` is called directly rather than through the `io-uring` crate, because the crate ties a
//! registered ring descriptor to a borrowed submitter and a reactor keeps no borrows.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue};

use crate::error::ReactorError;

/// The smallest submission queue that is tried when memory is short.
const SUBMISSION_ENTRIES_MIN: u32 = 32;
/// Completion entries per submission entry (DESIGN section 3).
const COMPLETIONS_PER_SUBMISSION: u32 = 4;

const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// `struct io_uring_rsrc_update` of the kernel.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// Set-up flags from best to plainest. Older kernels refuse what they do not know with EINVAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL: completions are made only inside our own enter.
    Deferred,
    /// COOP_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL.
    Cooperative,
    /// SUBMIT_ALL.
    Plain,
    /// No flag at all.
    Bare,
}

impl Flavour {
    const ALL: [Flavour; 4] = [Flavour::Deferred, Flavour::Cooperative, Flavour::Plain, Flavour::Bare];

    fn build(self, entries: u32) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(entries.saturating_mul(COMPLETIONS_PER_SUBMISSION)).setup_clamp();
        match self {
            Flavour::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
            }
            Flavour::Cooperative => {
                builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
            }
            Flavour::Plain => {
                builder.setup_submit_all();
            }
            Flavour::Bare => {}
        }
        builder.build(entries)
    }
}

/// What one completion says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Completion {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// One io_uring, used by the thread that made it.
pub(crate) struct Ring {
    uring: IoUring,
    flavour: Flavour,
    /// The index of the ring in the thread's table of registered ring descriptors.
    registered: Option<u32>,
    /// Entries that found the queue full while the kernel would take none.
    backlog: VecDeque<Queued>,
    message_ring: bool,
    pub(crate) enters: u64,
    pub(crate) entries_submitted: u64,
    /// Submissions of which the kernel took a part only, which may cut a pair of linked entries in two.
    pub(crate) partial_submissions: u64,
}

/// What enters the submission queue together.
enum Queued {
    One([squeue::Entry; 1]),
    /// The first is linked to the second, which starts when the first has succeeded. A link ends with a submission,
    /// so both go into one.
    Linked([squeue::Entry; 2]),
}

impl Queued {
    fn entries(&self) -> &[squeue::Entry] {
        match self {
            Queued::One(entries) => entries,
            Queued::Linked(entries) => entries,
        }
    }
}

impl Ring {
    /// A ring with the best flags that this kernel takes, halved in size until its memory is granted.
    pub(crate) fn new(entries: u32) -> Result<Ring, ReactorError> {
        let (uring, flavour) = build(entries)?;
        let mut probe = Probe::new();
        let probed = uring.submitter().register_probe(&mut probe).is_ok();
        let message_ring = probed && probe.is_supported(opcode::MsgRingData::CODE);
        let mut ring = Ring {
            uring,
            flavour,
            registered: None,
            backlog: VecDeque::new(),
            message_ring,
            enters: 0,
            entries_submitted: 0,
            partial_submissions: 0,
        };
        ring.registered = ring.register_descriptor();
        Ok(ring)
    }

    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Whether the kernel can post a completion into another ring.
    pub(crate) fn message_ring(&self) -> bool {
        self.message_ring
    }

    pub(crate) fn forbid_message_ring(&mut self) {
        self.message_ring = false;
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.uring.as_raw_fd()
    }

    pub(crate) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.uring.submitter()
    }

    /// Queues an entry for the next enter. A full queue is submitted on the spot; should the kernel take nothing
    /// then, the entry waits in the backlog, so that none is ever lost or overtaken.
    ///
    /// # Safety
    /// All memory that `entry` points to stays valid, unmoved and unaliased in the way the operation uses it until
    /// its last completion has been taken from the ring, or the ring is gone.
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { self.push_together(Queued::One([entry])) };
    }

    /// Queues two entries, of which the second starts when the first has succeeded in full; otherwise it completes
    /// with ECANCELED. That holds unless [`partial_submissions`](Self::partial_submissions) grows meanwhile: then the
    /// second may have started at any time.
    ///
    /// # Safety
    /// As for [`push`](Self::push), for both.
    pub(crate) unsafe fn push_linked(&mut self, first: squeue::Entry, second: squeue::Entry) {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { self.push_together(Queued::Linked([first.flags(squeue::Flags::IO_LINK), second])) };
    }

    /// # Safety
    /// As for [`push`](Self::push), for each entry.
    unsafe fn push_together(&mut self, queued: Queued) {
        if self.backlog.is_empty() {
            // SAFETY: the caller promised that the memory named by the entries outlives the operations.
            let pushed = unsafe { self.uring.submission().push_multiple(queued.entries()) };
            if pushed.is_ok() {
                return;
            }
        }
        self.backlog.push_back(queued);
        self.drain_backlog();
    }

    fn drain_backlog(&mut self) {
        while !self.backlog.is_empty() {
            let mut queue = self.uring.submission();
            while let Some(queued) = self.backlog.front() {
                // SAFETY: the caller of `push_together` promised that the memory named by the entries outlives the
                // operations.
                if unsafe { queue.push_multiple(queued.entries()) }.is_err() {
                    break;
                }
                self.backlog.pop_front();
            }
            drop(queue);
            if !self.backlog.is_empty() && !matches!(self.submit(), Ok(taken) if taken > 0) {
                return;
            }
        }
    }

    /// Hands what is queued to the kernel without waiting or running deferred work.
    fn submit(&mut self) -> io::Result<u32> {
        let queued = self.queued_in_ring();
        self.enter_raw(queued, 0, EnterFlags::empty(), None)
    }

    fn queued_in_ring(&mut self) -> u32 {
        u32::try_from(self.uring.submission().len()).expect("invariant: the queue has at most 32768 entries")
    }

    /// Whether something waits to be submitted.
    pub(crate) fn has_submissions(&mut self) -> bool {
        !self.backlog.is_empty() || !self.uring.submission().is_empty()
    }

    /// Whether the kernel holds back completions until the next enter: deferred work, or an overflown queue.
    pub(crate) fn needs_enter(&mut self) -> bool {
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Whether completions can be taken without a system call.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// The next completion that is already there.
    pub(crate) fn next_completion(&mut self) -> Option<Completion> {
        let entry: cqueue::Entry = self.uring.completion().next()?;
        Some(Completion { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() })
    }

    /// Submits everything, runs deferred work, and waits for a completion unless `wait` is [`Wait::No`].
    pub(crate) fn enter(&mut self, wait: Wait) -> Result<(), ReactorError> {
        self.drain_backlog();
        let queued = self.queued_in_ring();
        // While the kernel takes no more, completions must be taken first; a sleep would leave entries behind.
        let wait = if self.backlog.is_empty() { wait } else { Wait::No };
        let result = match wait {
            Wait::No => self.enter_raw(queued, 0, EnterFlags::GETEVENTS, None),
            Wait::Sleep { limit, gather } => {
                let timespec = limit.map(Timespec::from);
                let mut arguments = SubmitArgs::new();
                if let Some(timespec) = &timespec {
                    arguments = arguments.timespec(timespec);
                }
                let mut completions = 1;
                if let Some(gather) = gather.filter(|_| self.uring.params().is_feature_min_timeout()) {
                    // The least wait would outlast a shorter limit.
                    let limit =
                        limit.map_or(u32::MAX, |limit| u32::try_from(limit.as_micros()).unwrap_or(u32::MAX));
                    arguments = arguments.min_wait_usec(gather.micros.min(limit));
                    completions = gather.completions;
                }
                let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
                self.enter_raw(queued, completions, flags, Some(&arguments))
            }
        };
        match result {
            Ok(_) => Ok(()),
            // The time was up, a signal came, or the kernel wants completions to be taken first. What it did not
            // submit stays queued for the next call.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
                ) =>
            {
                Ok(())
            }
            Err(source) => Err(ReactorError::Enter { source }),
        }
    }

    fn enter_raw(
        &mut self,
        to_submit: u32,
        min_complete: u32,
        flags: EnterFlags,
        arguments: Option<&SubmitArgs<'_, '_>>,
    ) -> io::Result<u32> {
        let (descriptor, flags) = match self.registered {
            Some(index) => (i64::from(index), flags | EnterFlags::REGISTERED_RING),
            None => (i64::from(self.uring.as_raw_fd()), flags),
        };
        let (pointer, size) = match arguments {
            Some(arguments) => (std::ptr::from_ref(arguments), size_of::<SubmitArgs<'_, '_>>()),
            None => (std::ptr::null(), 0),
        };
        self.enters += 1;
        // SAFETY: `descriptor` names our own ring; `pointer` is null or a live `io_uring_getevents_arg` of `size`
        // bytes (`SubmitArgs` is a transparent wrapper of it) whose timespec is alive as well, since the borrow
        // lasts for the call. The queued entries were pushed under the contract of `push`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                descriptor,
                to_submit,
                min_complete,
                flags.bits(),
                pointer,
                size,
            )
        };
        let Ok(taken) = u32::try_from(result) else {
            return Err(io::Error::last_os_error());
        };
        self.entries_submitted += u64::from(taken.min(to_submit));
        self.partial_submissions += u64::from(taken < to_submit);
        Ok(taken)
    }

    fn register_descriptor(&self) -> Option<u32> {
        let mut update = ResourceUpdate {
            offset: u32::MAX,
            reserved: 0,
            data: u64::try_from(self.uring.as_raw_fd())
                .expect("invariant: an open descriptor is not negative"),
        };
        self.register(REGISTER_RING_FDS, &mut update).then_some(update.offset)
    }

    fn register(&self, operation: libc::c_uint, update: &mut ResourceUpdate) -> bool {
        // SAFETY: `update` is one live `io_uring_rsrc_update`, and the count passed is one; the kernel reads it
        // and writes its offset back during the call only.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.uring.as_raw_fd(),
                operation,
                std::ptr::from_mut(update),
                1,
            )
        };
        result == 1
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // A registered descriptor keeps the ring alive until the thread ends, unless it is given back.
        if let Some(index) = self.registered.take() {
            let mut update = ResourceUpdate { offset: index, reserved: 0, data: 0 };
            self.register(UNREGISTER_RING_FDS, &mut update);
        }
    }
}

/// How long an enter may wait for a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    No,
    /// Until there is a completion, or the time is up if there is a limit.
    Sleep {
        limit: Option<Duration>,
        gather: Option<Gather>,
    },
}

impl Wait {
    pub(crate) fn at_most(limit: Duration) -> Self {
        Self::Sleep { limit: Some(limit), gather: None }
    }
}

/// Sleeps for so many completions rather than one, and for one if they do not come in that time. Kernels before 6.12
/// cannot do that and wake for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gather {
    pub(crate) completions: u32,
    pub(crate) micros: u32,
}

fn build(entries: u32) -> Result<(IoUring, Flavour), ReactorError> {
    let mut entries = entries.max(SUBMISSION_ENTRIES_MIN);
    loop {
        let error = match build_best(entries) {
            Ok(built) => return Ok(built),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::ENOMEM) if entries > SUBMISSION_ENTRIES_MIN => entries /= 2,
            Some(libc::ENOMEM) => {
                return Err(ReactorError::Memory { what: "the smallest ring", source: error });
            }
            Some(libc::EMFILE | libc::ENFILE) => {
                return Err(ReactorError::Descriptor { what: "ring", source: error });
            }
            _ => {
                return Err(ReactorError::Unavailable {
                    reason: crate::probe::refusal(&error),
                    source: error,
                });
            }
        }
    }
}

fn build_best(entries: u32) -> io::Result<(IoUring, Flavour)> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for flavour in Flavour::ALL {
        match flavour.build(entries) {
            Ok(uring) => return Ok((uring, flavour)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_loses_no_entry_and_keeps_the_order() {
        let mut ring = Ring::new(SUBMISSION_ENTRIES_MIN).unwrap();
        let total = u64::from(ring.uring.params().sq_entries()) * 20;
        for number in 0..total {
            // SAFETY: a no-op names no memory.
            unsafe { ring.push(opcode::Nop::new().build().user_data(number)) };
        }
        let mut expected = 0;
        while expected < total {
            ring.enter(Wait::at_most(Duration::from_secs(1))).unwrap();
            while let Some(completion) = ring.next_completion() {
                assert_eq!(completion.user_data, expected);
                expected += 1;
            }
        }
        assert_eq!(ring.entries_submitted, total);
    }

    #[test]
    fn a_full_queue_keeps_linked_entries_together() {
        let mut ring = Ring::new(SUBMISSION_ENTRIES_MIN).unwrap();
        let total = u64::from(ring.uring.params().sq_entries()) * 9;
        for number in (0..total).step_by(3) {
            let entry = |number| opcode::Nop::new().build().user_data(number);
            // SAFETY: a no-op names no memory.
            unsafe { ring.push(entry(number)) };
            // Nothing is open under that number, so that the first of the pair fails and the second is cancelled.
            let fails = opcode::AsyncCancel::new(u64::MAX).build().user_data(number + 1);
            // SAFETY: neither names memory.
            unsafe { ring.push_linked(fails, entry(number + 2)) };
        }
        let mut results = vec![0; usize::try_from(total).unwrap()];
        let mut count = 0;
        while count < total {
            ring.enter(Wait::at_most(Duration::from_secs(1))).unwrap();
            while let Some(completion) = ring.next_completion() {
                results[usize::try_from(completion.user_data).unwrap()] = completion.result;
                count += 1;
            }
        }
        assert!(results.chunks(3).all(|three| three == [0, -libc::ENOENT, -libc::ECANCELED]), "{results:?}");
        assert_eq!(ring.partial_submissions, 0);
    }

    #[test]
    fn every_flavour_works_here() {
        for flavour in Flavour::ALL {
            assert!(flavour.build(32).is_ok(), "{flavour:?}");
        }
    }
}
