//! A flame graph from `perf script -F comm,tid,ip,sym` on standard input, as an SVG on standard output.
#![forbid(unsafe_code)]

use clap::Parser;
use quorate_benches::flame::Stacks;
use std::io::Write;

/// Draws the stacks that `perf script -F comm,tid,ip,sym` prints.
#[derive(Debug, Parser)]
struct Arguments {
    /// The heading of the picture.
    #[arg(long, default_value = "Flame graph")]
    title: String,
    /// Print the folded stacks, one a line with its count, and no picture.
    #[arg(long)]
    folded: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let stacks = Stacks::read(std::io::stdin().lock())?;
    let text = match arguments.folded {
        true => stacks.folded(),
        false => stacks.svg(&arguments.title),
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
