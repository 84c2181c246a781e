//! The processes of a run: this program again, as receivers that serve all runs and as one sender for each.

use super::job::{Job, Measured};
use anyhow::{Context as _, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The flag that tells this program which part to play.
pub(super) const ROLE_FLAG: &str = "--role";

fn start(role: &str) -> anyhow::Result<(Child, ChildStdin, BufReader<ChildStdout>)> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut child = Command::new(program)
        .args([ROLE_FLAG, role])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting a {role}"))?;
    let input = child.stdin.take().context("a piped stdin")?;
    let output = BufReader::new(child.stdout.take().context("a piped stdout")?);
    Ok((child, input, output))
}

fn read_line(role: &str, output: &mut impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line.ends_with('\n'), "a {role} has failed; it says why on standard error");
    Ok(line.trim_end().to_owned())
}

/// Receiving processes. They end with this value.
#[derive(Debug)]
pub(super) struct Receivers {
    processes: Vec<Receiver>,
}

#[derive(Debug)]
struct Receiver {
    child: Child,
    address: SocketAddr,
    /// A receiver ends when this is closed, even if nobody is left to kill it.
    _input: ChildStdin,
}

impl Receivers {
    pub(super) fn start(count: usize) -> anyhow::Result<Self> {
        let mut receivers = Self { processes: Vec::new() };
        for _ in 0..count {
            let (child, input, mut output) = start("receiver")?;
            let address = (Ipv4Addr::LOCALHOST, 0).into();
            receivers.processes.push(Receiver { child, address, _input: input });
            let port = read_line("receiver", &mut output)?.parse().context("a receiver's port")?;
            if let Some(receiver) = receivers.processes.last_mut() {
                receiver.address.set_port(port);
            }
        }
        Ok(receivers)
    }

    /// Where the first `count` of them listen.
    pub(super) fn addresses(&self, count: usize) -> Vec<SocketAddr> {
        self.processes.iter().take(count).map(|receiver| receiver.address).collect()
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        for receiver in &mut self.processes {
            // One that is gone already needs no ending.
            let _ = receiver.child.kill();
            let _ = receiver.child.wait();
        }
    }
}

/// A sending process that is connected and warm.
#[derive(Debug)]
pub(super) struct Sender {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Sender {
    pub(super) fn start(job: &Job) -> anyhow::Result<Self> {
        let (child, input, output) = start("sender")?;
        let mut sender = Self { child, input, output };
        writeln!(sender.input, "{}", serde_json::to_string(job)?)?;
        read_line("sender", &mut sender.output)?;
        Ok(sender)
    }

    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends, and says what it cost. The process stays until [`finish`](Self::finish).
    pub(super) fn run(&mut self) -> anyhow::Result<Measured> {
        writeln!(self.input, "go")?;
        let line = read_line("sender", &mut self.output)?;
        serde_json::from_str(&line).context("what a sender found")
    }

    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        writeln!(self.input, "end")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "a sender has failed: {status}");
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Does nothing after `finish`, which has waited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
