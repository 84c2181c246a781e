//! Runs one of the small cases a fixed number of times, for a tool that counts instructions.
//!
//! `scripts/instructions` runs each case twice under callgrind and divides the difference, so that neither set-up nor
//! start counts. Without arguments the cases are listed.
#![forbid(unsafe_code)]

use anyhow::Context as _;
use clap::Parser;
use quorate_benches::cases::CASES;
use std::io::Write;

/// Runs a small case a fixed number of times, or lists all cases.
#[derive(Debug, Parser)]
struct Arguments {
    /// The case to run. [default: none, list them]
    case: Option<String>,
    /// How often.
    #[arg(default_value_t = 1)]
    times: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let Some(name) = arguments.case else {
        let names = CASES.map(|case| case.name).join("\n");
        return Ok(writeln!(std::io::stdout(), "{names}")?);
    };
    let case = CASES.iter().find(|case| case.name == name);
    let case = case.with_context(|| format!("there is no case {name}; without arguments they are listed"))?;
    let mut iteration = (case.set_up)();
    (0..arguments.times).for_each(|_| iteration());
    Ok(())
}
