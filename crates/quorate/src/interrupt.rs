//! Waiting for somebody to end a command: Ctrl-C, SIGTERM, or a terminal that goes away.

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

/// Tells when the process was asked to end. From the moment it exists, the signals no longer kill.
#[derive(Debug)]
pub(crate) struct Interrupt(Receiver<()>);

impl Interrupt {
    /// Starts to watch.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        // The receiver may be gone at the end of the process.
        on_signal(move || {
            let _ = sender.send(());
        })?;
        Ok(Self(receiver))
    }

    /// Waits for at most `time`; says whether the process was asked to end.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        match self.0.recv_timeout(time) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
        }
    }
}

/// Calls `action` on a thread of its own each time the process is asked to end.
pub(crate) fn on_signal(mut action: impl FnMut() + Send + 'static) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch signals")?;
    let body = move || signals.forever().for_each(|_| action());
    std::thread::Builder::new().name("signals".to_owned()).spawn(body).context("cannot start a thread")?;
    Ok(())
}
