//! How a subcommand fails: the exit code and the message.

use crate::logging;
use quorate_client::{ClientError, Outcome};
use quorate_daemon::{ConfigError, DirectoryError};
use std::fmt;
use std::process::ExitCode;

/// The exit code of a command that was done and whose answer is no.
pub(crate) const NO: u8 = 4;

/// Why a subcommand did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something went wrong at run time.
    Run(anyhow::Error),
    /// The configuration or the arguments are wrong; one line that names file, field and remedy.
    Usage(String),
    /// A safety check stopped a replica.
    Halted(String),
    /// The cluster has not done what was asked, and will not.
    NotDone(String),
    /// The cluster may have done what was asked, or may do it yet.
    Unknown(String),
    /// The cluster was not asked, for it could not be reached.
    Unreachable(String),
}

impl Failure {
    /// A failure of configuration or arguments.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(one_line(&message.to_string()))
    }

    /// What an error of the client says about what it was asked to execute.
    pub(crate) fn of_client(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Unreachable { .. } | ClientError::NotRegistered { .. } => Self::Unreachable(message),
            // No word from the cluster: this program has failed before it asked.
            ClientError::Random(_) => Self::Run(error.into()),
            other => match other.outcome() {
                Outcome::NotDone => Self::NotDone(message),
                // Done, but what came out is not known: to whoever asked that is no better.
                Outcome::Done | Outcome::Unknown => Self::Unknown(message),
            },
        }
    }

    /// The message alone, for a library that knows no exit codes.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Run(error) => error,
            Self::Usage(message)
            | Self::Halted(message)
            | Self::NotDone(message)
            | Self::Unknown(message)
            | Self::Unreachable(message) => anyhow::Error::msg(message),
        }
    }

    /// Writes the message to standard error and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let (code, message) = match self {
            Self::Run(error) => (1, in_full(&error)),
            Self::Usage(message) => (2, message),
            Self::Halted(reason) => (3, format!("halted by a safety check: {reason}")),
            Self::NotDone(reason) => (5, format!("not done: {reason}")),
            Self::Unknown(message) => (6, message),
            Self::Unreachable(message) => (7, message),
        };
        crate::output::note(&logging::last_words(&format!("quorate: {message}")));
        ExitCode::from(code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = match error.into().downcast::<ConfigError>() {
            Ok(error) => return Self::usage(error),
            Err(error) => error,
        };
        match error.downcast::<DirectoryError>() {
            Ok(error) if error.is_configuration() => Self::usage(error),
            Ok(error) => Self::Run(error.into()),
            Err(error) => Self::Run(error),
        }
    }
}

/// An error with what has caused it, each said once: many say what has caused them themselves.
pub(crate) fn in_full(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        said if said.contains(&cause) => text,
        said => format!("{said}: {cause}"),
    })
}

/// The message without the drawing of the place that the TOML parser makes over several lines: line and column stay, and
/// what stands there.
pub(crate) fn one_line(message: &str) -> String {
    // As in `30 | max_journal_bytes = "2 GB"`, with lines that only point to it.
    let excerpt = |line: &str| {
        let line = line.trim_start().trim_start_matches(|digit: char| digit.is_ascii_digit());
        line.trim_start().strip_prefix('|').map(|rest| rest.trim().to_owned())
    };
    let is_text = |text: &String| !text.trim_matches(['^', ' ']).is_empty();
    let shown = message.lines().filter_map(excerpt).find(is_text);
    let lines: Vec<_> = message
        .lines()
        .filter(|line| excerpt(line).is_none())
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let text = lines.join(": ");
    if !text.contains("TOML parse error") {
        return text;
    }
    let place = shown.map(|shown| format!(", in `{}`", shown.chars().take(SHOWN_MAX).collect::<String>()));
    format!("{text}{}; correct that line of the file", place.unwrap_or_default())
}

/// The letters that are shown of a line that is wrong.
const SHOWN_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_client::NotDone;

    #[test]
    fn what_is_not_done_unknown_or_out_of_reach_is_told_apart() {
        let states = String::new();
        let unreachable = ClientError::NotRegistered { connected: 3, seconds: 1, states: states.clone() };
        assert!(matches!(Failure::of_client(unreachable), Failure::Unreachable(_)));
        let refused = ClientError::Refused { states: states.clone() };
        assert!(matches!(Failure::of_client(refused), Failure::NotDone(_)));
        let declined = ClientError::NotDone(NotDone::NumberUsed);
        assert!(matches!(Failure::of_client(declined), Failure::NotDone(_)));
        let unanswered = ClientError::Unanswered { seconds: 1, states };
        assert!(matches!(Failure::of_client(unanswered), Failure::Unknown(_)));
        assert!(matches!(Failure::of_client(ClientError::Closed), Failure::Unknown(_)));
    }

    #[test]
    fn what_has_caused_an_error_is_said_once() {
        use anyhow::Context;
        let source = || std::io::Error::other("the disk is gone");
        let path = std::path::PathBuf::from("/data");
        let own = anyhow::Error::from(ConfigError::Read { path, source: source(), remedy: "look" });
        assert_eq!(in_full(&own), "/data: the disk is gone; look");
        let other: Result<(), _> = Err(source()).context("cannot write /data");
        assert_eq!(in_full(&other.unwrap_err()), "cannot write /data: the disk is gone");
    }

    #[test]
    fn an_error_of_the_toml_parser_becomes_one_line_with_place_and_remedy() {
        let error = toml::from_str::<quorate_daemon::NodeFile>("cluster = \"a\"\nclutter = 3\n").unwrap_err();
        let line = one_line(&format!("a.toml: {error}"));
        assert!(
            line.starts_with("a.toml: TOML parse error at line 2, column 1: unknown field `clutter`"),
            "{line}"
        );
        assert!(line.ends_with(", in `clutter = 3`; correct that line of the file"), "{line}");
        assert!(!line.contains('|') && !line.contains('\n'), "{line}");
        let long = format!("cluster = {}", "\"x".repeat(500));
        let error = toml::from_str::<quorate_daemon::NodeFile>(&long).unwrap_err();
        let line = one_line(&format!("a.toml: {error}"));
        assert!(line.contains(", in `cluster = \"x\"x") && line.len() < 300, "{line}");
    }
}
