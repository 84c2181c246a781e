//! Signals as events: blocked in every thread, then read from a signalfd that the ring polls.
//!
//! The daemon calls [`block`] first thing in `main`, before any thread exists, and
//! [`Reactor::watch_signals`](crate::Reactor::watch_signals) on one core.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::error::ReactorError;

/// A signal that a daemon has to do with, most of them sent by people and service managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
    /// SIGTERM: stop in good order.
    Terminate,
    /// SIGHUP: the terminal is gone, or the configuration should be read again.
    Hangup,
    /// SIGUSR1: write the reports.
    User1,
    /// SIGXFSZ: a write goes beyond the limit for the size of files (RLIMIT_FSIZE). Not sent by people; while it is
    /// blocked, the write fails with EFBIG instead of ending the process without a word.
    FileSize,
}

impl Signal {
    const ALL: [Signal; 5] =
        [Signal::Interrupt, Signal::Terminate, Signal::Hangup, Signal::User1, Signal::FileSize];

    fn number(self) -> libc::c_int {
        match self {
            Signal::Interrupt => libc::SIGINT,
            Signal::Terminate => libc::SIGTERM,
            Signal::Hangup => libc::SIGHUP,
            Signal::User1 => libc::SIGUSR1,
            Signal::FileSize => libc::SIGXFSZ,
        }
    }

    fn from_number(number: u32) -> Option<Signal> {
        Signal::ALL.into_iter().find(|signal| u32::try_from(signal.number()) == Ok(number))
    }
}

/// Blocks `signals` in the calling thread and all that it spawns later, so that they wait to be read.
///
/// # Errors
/// [`ReactorError::Signals`] when the kernel refuses, which it has no reason to.
pub fn block(signals: &[Signal]) -> Result<(), ReactorError> {
    let set = set_of(signals);
    // SAFETY: `set` is an initialised signal set that lives through the call; the old mask is not asked for.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    match result {
        0 => Ok(()),
        errno => Err(ReactorError::Signals { what: "block", source: io::Error::from_raw_os_error(errno) }),
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set; sigaddset then changes an initialised set, with numbers that
    // exist.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.number());
        }
        set.assume_init()
    }
}

/// A descriptor that becomes readable when one of its signals is pending.
#[derive(Debug)]
pub(crate) struct SignalDescriptor(OwnedFd);

impl SignalDescriptor {
    pub(crate) fn new(signals: &[Signal]) -> Result<SignalDescriptor, ReactorError> {
        let set = set_of(signals);
        // SAFETY: `set` is an initialised signal set that lives through the call; −1 asks for a new descriptor.
        let descriptor = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(ReactorError::Signals { what: "watch", source: io::Error::last_os_error() });
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(SignalDescriptor(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The next pending signal. One system call; never blocks.
    pub(crate) fn read(&self) -> Option<Signal> {
        let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
        let length = rustix::io::read(&self.0, &mut record).ok()?;
        // The number is the first field, 32 bits wide.
        let number = record.first_chunk::<4>().filter(|_| length == record.len())?;
        Signal::from_number(u32::from_ne_bytes(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_waits_in_the_descriptor() {
        block(&[Signal::User1]).unwrap();
        let descriptor = SignalDescriptor::new(&[Signal::User1, Signal::Hangup]).unwrap();
        assert_eq!(descriptor.read(), None);
        // SAFETY: the signal is blocked in this very thread, so it is only made pending.
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) }, 0);
        assert_eq!(descriptor.read(), Some(Signal::User1));
        assert_eq!(descriptor.read(), None);
    }
}
