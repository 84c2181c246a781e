//! Who counts the system calls of a sending process: perf where it may use the tracepoint, else strace.
//!
//! Counting happens in runs of their own. perf costs little; under strace a run is many times slower, so that
//! sends coalesce otherwise than without it, and its figures are close at best.

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::NamedTempFile;

const TRACEPOINT: &str = "raw_syscalls:sys_enter";

/// A tool that works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracer {
    Perf,
    Strace,
}

impl fmt::Display for Tracer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Perf => "perf stat -e raw_syscalls:sys_enter",
            Self::Strace => "strace -c -f",
        })
    }
}

impl Tracer {
    /// The better one of those that work, or why none does.
    pub(super) fn find() -> Result<Self, String> {
        let works = |command: &mut Command| {
            let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        if works(Command::new("perf").args(["stat", "-e", TRACEPOINT, "true"])) {
            return Ok(Self::Perf);
        }
        if works(Command::new("strace").args(["-c", "-f", "true"])) {
            return Ok(Self::Strace);
        }
        Err("neither `perf stat -e raw_syscalls:sys_enter` nor `strace -c` works here (Debian: linux-perf, \
             strace; perf needs root or a low kernel.perf_event_paranoid)"
            .to_owned())
    }

    /// Begins to count the system calls of all threads of `process`.
    pub(super) fn attach(self, process: u32) -> anyhow::Result<Attached> {
        match self {
            Self::Perf => Attached::perf(process),
            Self::Strace => Attached::strace(process),
        }
    }
}

/// A tool that counts until [`calls`](Self::calls).
#[derive(Debug)]
pub(super) struct Attached {
    child: Child,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Perf { control: ChildStdin, answers: BufReader<ChildStdout> },
    Strace { messages: BufReader<ChildStderr>, table: NamedTempFile },
}

impl Attached {
    fn perf(process: u32) -> anyhow::Result<Self> {
        // Begins disabled, and is switched on and off through its standard input.
        let mut child = Command::new("perf")
            .args(["stat", "-x,", "-e", TRACEPOINT, "-D", "-1", "--control", "fd:0,1", "-p"])
            .arg(process.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting perf")?;
        let control = child.stdin.take().context("a piped stdin")?;
        let answers = BufReader::new(child.stdout.take().context("a piped stdout")?);
        let mut attached = Self { child, kind: Kind::Perf { control, answers } };
        attached.command("enable")?;
        Ok(attached)
    }

    fn strace(process: u32) -> anyhow::Result<Self> {
        let table = NamedTempFile::new()?;
        let mut child = Command::new("strace")
            .args(["-c", "-f", "-U", "calls,name", "-o"])
            .arg(table.path())
            .args(["-p", &process.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .context("starting strace")?;
        let messages = BufReader::new(child.stderr.take().context("a piped stderr")?);
        let mut attached = Self { child, kind: Kind::Strace { messages, table } };
        attached.wait_for_strace()?;
        Ok(attached)
    }

    /// It says when it is attached.
    fn wait_for_strace(&mut self) -> anyhow::Result<()> {
        let Kind::Strace { messages, .. } = &mut self.kind else { return Ok(()) };
        let mut line = String::new();
        messages.read_line(&mut line)?;
        ensure!(line.contains("attached"), "strace does not attach: {}", line.trim());
        Ok(())
    }

    fn command(&mut self, command: &str) -> anyhow::Result<()> {
        let Kind::Perf { control, answers } = &mut self.kind else { return Ok(()) };
        writeln!(control, "{command}")?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        ensure!(answer.trim_matches(['\0', '\n']) == "ack", "perf answers {answer:?} to {command}");
        Ok(())
    }

    /// Stops counting; returns the number of system calls.
    pub(super) fn calls(mut self) -> anyhow::Result<u64> {
        self.command("disable")?;
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(process, Signal::INT)?;
        let mut text = String::new();
        match &mut self.kind {
            Kind::Perf { .. } => {
                self.child.stderr.take().context("a piped stderr")?.read_to_string(&mut text)?;
                self.child.wait()?;
                perf_calls(&text)
            }
            Kind::Strace { table, .. } => {
                self.child.wait()?;
                table.reopen()?.read_to_string(&mut text)?;
                strace_calls(&text)
            }
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Does nothing after `calls`, which has waited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn perf_calls(text: &str) -> anyhow::Result<u64> {
    let line = text.lines().find(|line| line.contains(TRACEPOINT));
    let Some(first) = line.and_then(|line| line.split(',').next()) else { bail!("perf says {text:?}") };
    first.parse().with_context(|| format!("perf says {first:?}"))
}

fn strace_calls(text: &str) -> anyhow::Result<u64> {
    let line = text.lines().find(|line| line.trim_end().ends_with("total"));
    let Some(first) = line.and_then(|line| line.split_whitespace().next()) else {
        bail!("strace says {text:?}")
    };
    first.parse().with_context(|| format!("strace says {first:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_write_is_understood() {
        let perf = "12345,,raw_syscalls:sys_enter,501066204,100.00,,\n";
        assert_eq!(perf_calls(perf).unwrap(), 12345);
        assert!(perf_calls("<not counted>,,raw_syscalls:sys_enter,0,0.00,,").is_err());
        let strace = "    calls syscall\n--------- ----------------\n       30 read\n        7 futex\n\
                      --------- ----------------\n       37 total\n";
        assert_eq!(strace_calls(strace).unwrap(), 37);
        assert!(strace_calls("").is_err());
    }
}
