//! The log of this process, on standard error: for people as text with the time, for the journal of systemd as lines that
//! begin with their priority (sd-daemon(3)) and have no time, which the journal adds itself.
//!
//! By hand and not by a crate that speaks the journal's own protocol: the way through standard error needs no socket, so it
//! works in every sandbox, and what is written before and after the log (a message at the end, a panic) takes the same way.

use crate::failure::Failure;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The priorities of syslog that are used here.
const CRITICAL: u8 = 2;
const ERROR: u8 = 3;

/// Starts the log; `level` is what the user wants to see.
pub(crate) fn start(level: &str) -> Result<(), Failure> {
    let filter = parse_filter(level).ok_or_else(|| {
        let remedy = "use off, error, warn, info, debug or trace, or parts like warn,quorate_daemon=debug";
        Failure::usage(format!("--log {level} (or QUORATE_LOG): this is no level; {remedy}"))
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // A reader of the log that goes away is none of a replica's business.
        .log_internal_errors(false);
    if goes_to_journal() {
        log.event_format(Journal).init();
        std::panic::set_hook(Box::new(|panic| {
            let trace = Backtrace::capture();
            let trace = match trace.status() {
                BacktraceStatus::Captured => format!("\n{trace}"),
                _ => String::new(),
            };
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("without a name");
            crate::output::note(&with_priority(CRITICAL, &format!("thread '{name}' {panic}{trace}")));
        }));
    } else {
        log.init();
    }
    Ok(())
}

/// A line that says why the process ends, as it is written to standard error.
pub(crate) fn last_words(text: &str) -> String {
    if goes_to_journal() { with_priority(ERROR, text) } else { text.to_owned() }
}

/// Whether standard error is a stream of the journal: systemd says which file that is, as whoever starts another process may
/// have it write elsewhere.
fn goes_to_journal() -> bool {
    static GOES: OnceLock<bool> = OnceLock::new();
    *GOES.get_or_init(|| {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let file = std::fs::metadata("/proc/self/fd/2");
        file.is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
    })
}

/// The journal takes each line for an entry.
fn with_priority(priority: u8, text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| format!("<{priority}>{line}")).collect::<Vec<_>>().join("\n")
}

/// Lines for the journal.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        writeln!(writer, "{}", with_priority(priority(*event.metadata().level()), &text))
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A bare word must be a level; the library would take any other for the name of a part.
fn parse_filter(text: &str) -> Option<EnvFilter> {
    let bare = text.split(',').filter(|part| !part.contains('='));
    let known = bare.map(str::trim).all(|word| word.parse::<LevelFilter>().is_ok());
    EnvFilter::try_new(text).ok().filter(|_| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_told_from_words_that_are_none() {
        for good in ["off", "warn", "INFO", "warn,quorate_daemon=debug", "quorate_client=trace"] {
            assert!(parse_filter(good).is_some(), "{good}");
        }
        for wrong in ["loud", "warn,quorate_daemon", "quorate_daemon=loud"] {
            assert!(parse_filter(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn each_line_of_a_text_has_its_priority() {
        assert_eq!(with_priority(4, "one\n\n  two\n"), "<4>one\n<4>  two");
        let all = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE].map(priority);
        assert_eq!(all, [3, 4, 6, 7, 7]);
    }
}
