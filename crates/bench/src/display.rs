//! What is shown while the load runs: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Shows on standard error how a stretch of the load goes.
#[derive(Debug)]
pub(crate) struct Display {
    name: String,
    length: Duration,
    /// How often a plain line is written.
    interval: Duration,
    started: Instant,
    bar: Option<ProgressBar>,
    last: (Instant, u64),
}

impl Display {
    /// Starts to show a stretch of `length`, when `operations` are already complete.
    pub(crate) fn start(name: String, length: Duration, interval: Duration, operations: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let milliseconds = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            let style = ProgressStyle::with_template("{prefix:>10} [{bar:40}] {msg}")
                .expect("invariant: the template is valid")
                .progress_chars("=> ");
            ProgressBar::new(milliseconds).with_style(style).with_prefix(name.clone())
        });
        let now = Instant::now();
        Self { name, length, interval, started: now, bar, last: (now, operations) }
    }

    /// Shows how many operations are complete by now; `remark` goes behind the rate.
    pub(crate) fn show(&mut self, operations: u64, remark: &str) {
        let now = Instant::now();
        let since = now - self.last.0;
        let elapsed = now - self.started;
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        }
        if since < self.interval {
            return;
        }
        let rate = (operations - self.last.1) as f64 / since.as_secs_f64();
        self.last = (now, operations);
        match &self.bar {
            Some(bar) => bar.set_message(format!("{rate:.0} operations/s{remark}")),
            None => {
                let (name, length) = (&self.name, self.length.as_secs_f64());
                let at = elapsed.as_secs_f64();
                let digits = usize::from(self.interval < Duration::from_secs(1) || length < 1.0);
                // Standard error may be closed; the results do not depend on it.
                let _ = writeln!(
                    std::io::stderr(),
                    "{name} {at:.digits$} of {length:.digits$} s: {rate:.0} operations/s{remark}"
                );
            }
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
