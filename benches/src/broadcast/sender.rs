//! The sending process: the producer loop, which is the same for all rungs, and what it cost.

use super::job::{Job, Measured};
use super::rung::Rung;
use super::stream::{Producer, Receipt};
use anyhow::{Context as _, ensure};
use quorate_reactor::{Usage, usage};
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

/// How long messages are sent before the measurement, so that buffers and windows have grown.
const WARM_UP: Duration = Duration::from_millis(50);

/// Does one job: reads it from `input`, says `ready` when it is connected and warm, begins at the next line, and
/// writes what it found.
///
/// # Errors
/// When a receiver cannot be reached, stalls for 30 seconds, or has not received exactly what was sent.
pub fn send(input: &mut impl BufRead, output: &mut impl Write) -> anyhow::Result<()> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line).context("the job")?;
    let mut producer = Producer::new(job.message_bytes);
    let mut rung = job.rung.open(&job)?;
    run(&mut *rung, &mut producer, &job, WARM_UP)?;
    writeln!(output, "ready")?;
    output.flush()?;
    input.read_line(&mut line)?;
    let measured = measure(&mut *rung, &mut producer, &job)?;
    writeln!(output, "{}", serde_json::to_string(&measured)?)?;
    output.flush()?;
    // Until whoever counts system calls has stopped counting.
    input.read_line(&mut line)?;
    Ok(())
}

pub(super) fn measure(rung: &mut dyn Rung, producer: &mut Producer, job: &Job) -> anyhow::Result<Measured> {
    let made = producer.made();
    let own_syscalls = rung.own_syscalls();
    let before = usage();
    let started = Instant::now();
    let receipts = run(rung, producer, job, Duration::from_millis(job.milliseconds))?;
    let elapsed = started.elapsed();
    let after = usage();
    let own_syscalls = own_syscalls.zip(rung.own_syscalls()).map(|(before, after)| after - before);
    Ok(Measured {
        broadcasts: producer.made() - made,
        nanoseconds: u64::try_from(elapsed.as_nanos()).context("a very long run")?,
        cpu_us: cpu_us(&after) - cpu_us(&before),
        voluntary_switches: after.voluntary_switches - before.voluntary_switches,
        involuntary_switches: after.involuntary_switches - before.involuntary_switches,
        own_syscalls,
        receivers_cpu_us: receipts.iter().map(|receipt| receipt.cpu_us).sum(),
    })
}

/// Broadcasts for `time`, then waits until everything is acknowledged.
fn run(
    rung: &mut dyn Rung,
    producer: &mut Producer,
    job: &Job,
    time: Duration,
) -> anyhow::Result<Vec<Receipt>> {
    let made = producer.made();
    let end = Instant::now() + time;
    while Instant::now() < end {
        for _ in 0..job.burst {
            rung.broadcast(&producer.message())?;
        }
        rung.end_burst()?;
    }
    rung.broadcast(&producer.mark())?;
    rung.end_burst()?;
    let receipts = rung.receipts()?;
    let sent = producer.made() - made;
    for receipt in &receipts {
        ensure!(receipt.messages == sent, "{} of {sent} messages were received", receipt.messages);
    }
    Ok(receipts)
}

fn cpu_us(used: &Usage) -> u64 {
    u64::try_from((used.user + used.system).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::receiver::serve;
    use super::super::rung::RungName;
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::thread::JoinHandle;

    fn receiver() -> (SocketAddr, JoinHandle<anyhow::Result<()>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (address, std::thread::spawn(move || serve(listener.accept()?.0)))
    }

    #[test]
    fn every_rung_brings_all_messages_to_all_receivers_in_order() {
        for rung in RungName::ALL {
            for message_bytes in [64, 16 * 1024] {
                let (addresses, threads): (Vec<_>, Vec<_>) = (0..3).map(|_| receiver()).unzip();
                let job = Job {
                    rung,
                    message_bytes,
                    milliseconds: 5,
                    burst: 64,
                    window_bytes: 256 * 1024,
                    receivers: addresses,
                };
                let mut producer = Producer::new(message_bytes);
                let mut opened = rung.open(&job).unwrap();
                let measured = measure(&mut *opened, &mut producer, &job).unwrap();
                drop(opened);
                assert!(measured.broadcasts >= 64 && measured.nanoseconds > 0, "{rung}: {measured:?}");
                threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
            }
        }
    }
}
