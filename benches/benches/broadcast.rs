//! The ladder of ways to broadcast; `quorate_benches::broadcast` says what each rung is and how it is measured.
//!
//! ```sh
//! cargo bench -p quorate-benches --bench broadcast                     # all of it, about two minutes
//! cargo bench -p quorate-benches --bench broadcast -- --sizes 64 --receivers 3 --rounds 9 --json ladder.json
//! ```

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use quorate_benches::broadcast::{Matrix, RungName, receive, send};
use std::io::{BufReader, Write};
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: quorate_reactor::CountingAllocator = quorate_reactor::CountingAllocator;

/// Broadcasts messages to receivers in processes of their own, in several ways, and says what each costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rungs of the ladder to run, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = RungName::ALL)]
    rungs: Vec<RungName>,
    /// Sizes of messages in bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1024, 16 * 1024])]
    sizes: Vec<usize>,
    /// Numbers of receivers.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 9])]
    receivers: Vec<usize>,
    /// How often each rung is run; runs of all rungs take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one run takes.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Messages that are made at once, as in a tick of a replica.
    #[arg(long, default_value_t = 64)]
    burst: usize,
    /// Bursts that may still be queued for a receiver when the next one is made. With 0 each has left before, as
    /// when a replica's ticks follow each other at leisure; a few show how the rungs do when they are flooded.
    #[arg(long, default_value_t = 0)]
    window: usize,
    /// Also write the report, with every single run, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What this process is to be.
    #[arg(long, value_enum, hide = true)]
    role: Option<Role>,
    /// Added by `cargo bench`. Without it, as in `cargo test --benches`, every rung runs for a moment only.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Receiver,
    Sender,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Receiver) => receiver(),
        Some(Role::Sender) => send(&mut BufReader::new(std::io::stdin()), &mut std::io::stdout()),
        None => ladder(&arguments),
    }
}

fn receiver() -> anyhow::Result<()> {
    std::thread::spawn(|| {
        // The end of its input is the end of whoever started this process.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    receive(|port| {
        println!("{port}");
        Ok(std::io::stdout().flush()?)
    })
}

fn ladder(arguments: &Arguments) -> anyhow::Result<()> {
    let milliseconds = std::time::Duration::try_from_secs_f64(arguments.seconds)
        .with_context(|| format!("--seconds {}", arguments.seconds))?
        .as_millis();
    let mut matrix = Matrix {
        rungs: arguments.rungs.clone(),
        sizes: arguments.sizes.clone(),
        receivers: arguments.receivers.clone(),
        rounds: arguments.rounds,
        milliseconds: u64::try_from(milliseconds)?,
        burst: arguments.burst,
        window_bursts: arguments.window,
    };
    if !arguments.bench {
        eprintln!("one short round only; `cargo bench` runs it in full");
        matrix = Matrix { rounds: 1, milliseconds: 10, ..matrix };
    }
    let report = matrix.run(&mut |done| eprintln!("{done}"))?;
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json()?).with_context(|| format!("writing {}", path.display()))?;
    }
    print!("{}", report.table());
    Ok(())
}
