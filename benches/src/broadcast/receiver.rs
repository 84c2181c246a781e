//! A receiving process: takes one connection after the other, checks what comes and acknowledges each mark.

use super::stream::{Checker, Receipt, read_opening};
use anyhow::Context as _;
use quorate_reactor::usage;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// Serves connections until the process is ended; `announce` learns the port first.
///
/// # Errors
/// When nothing can be listened on, or a stream is not what a sender sends: a message is missing, torn or out of
/// order.
pub fn receive(announce: impl FnOnce(u16) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on loopback")?;
    announce(listener.local_addr()?.port())?;
    loop {
        let (stream, _) = listener.accept().context("accepting")?;
        serve(stream)?;
    }
}

/// Receives all of one connection.
pub(super) fn serve(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut opening = [0; 8];
    stream.read_exact(&mut opening).context("the opening")?;
    let mut checker = Checker::new(read_opening(opening)?);
    let (mut messages, mut cpu) = (0, cpu_us());
    while checker.read_to_mark(&mut stream)? {
        let now = cpu_us();
        let receipt = Receipt { messages: checker.messages() - messages, cpu_us: now - cpu };
        stream.write_all(&receipt.bytes()).context("acknowledging")?;
        (messages, cpu) = (checker.messages(), now);
    }
    Ok(())
}

fn cpu_us() -> u64 {
    let used = usage();
    u64::try_from((used.user + used.system).as_micros()).unwrap_or(u64::MAX)
}
