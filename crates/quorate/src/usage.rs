//! Arguments that cannot be read: one line that names the option, what was given, and what to give.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::error::Error;

/// What the parsers of the standard library say, and what is meant.
const MEANINGS: [(&str, &str); 6] = [
    ("invalid float literal", "this is no number; use one as 10 or 0.5"),
    ("cannot parse float from empty string", "a number is missing; give one as 10 or 0.5"),
    ("invalid digit found in string", "this is no whole number; use one as 10"),
    ("cannot parse integer from empty string", "a whole number is missing; give one as 10"),
    ("to fit in target type", "this number is out of range; use one nearer to 0"),
    ("invalid IP address syntax", "this is no IP address; use one as 127.0.0.1"),
];

/// The line about a value that is none for its option; nothing for other errors, whose text is good.
pub(crate) fn explain(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (option, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    let problem = error.source()?.to_string();
    let meaning = MEANINGS.iter().find(|(raw, _)| problem.contains(raw)).map(|(_, meaning)| *meaning);
    let problem = meaning.unwrap_or(&problem);
    Some(format!("{option}: `{value}` cannot be used: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cli;
    use clap::{CommandFactory, Parser};

    /// All options and arguments with values: the words before one, and its name.
    fn places(command: &clap::Command, before: &[String]) -> Vec<(Vec<String>, String)> {
        let mut found = Vec::new();
        for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
            let words: Vec<String> = match argument.get_long() {
                Some(long) => [before, &[format!("--{long}=")]].concat(),
                // Those before it take anything.
                None => [before, &vec!["1".to_owned(); argument.get_index().unwrap_or(1) - 1]].concat(),
            };
            found.push((words, argument.get_id().to_string()));
        }
        for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
            found.extend(places(subcommand, &[before, &[subcommand.get_name().to_owned()]].concat()));
        }
        found
    }

    #[test]
    fn no_option_answers_with_what_its_parser_says_to_programmers() {
        let mut command = Cli::command();
        command.build();
        let mut explained = 0;
        for (words, name) in places(&command, &["quorate".to_owned()]) {
            for value in ["§", "", "x", "1.2.3", "-", "99999999999999999999999", "1e999", "a=b", "1..x"] {
                let mut words = words.clone();
                match words.last_mut().filter(|word| word.starts_with("--")) {
                    Some(option) => option.push_str(value),
                    None => words.push(value.to_owned()),
                }
                let Err(error) = Cli::try_parse_from(&words) else { continue };
                let Some(text) = explain(&error) else { continue };
                explained += 1;
                for (raw, _) in MEANINGS {
                    assert!(!text.contains(raw), "{words:?}: {text}");
                }
                assert!(text.contains(&format!("`{value}`")), "{name}: {text}");
                assert!(
                    ["use ", "give ", "write it as", "is not in "].iter().any(|remedy| text.contains(remedy)),
                    "{text}"
                );
            }
        }
        assert!(explained > 50, "{explained}");
    }

    #[test]
    fn a_number_that_is_none_is_one_line_with_option_value_and_remedy() {
        let error = Cli::try_parse_from(["quorate", "bench", "--duration", "ten"]).unwrap_err();
        let text = explain(&error).unwrap();
        assert_eq!(
            text,
            "--duration <SECONDS>: `ten` cannot be used: this is no number; use one as 10 or 0.5"
        );
        let other = Cli::try_parse_from(["quorate", "bench", "--no"]).unwrap_err();
        assert_eq!(explain(&other), None);
    }
}
