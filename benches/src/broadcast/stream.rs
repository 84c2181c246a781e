//! The bytes of a run. A connection opens with the size of its messages; each message starts with its number; a
//! mark is a message with a number of its own, and is answered with a receipt.

use anyhow::{Context as _, bail, ensure};
use std::io::Read;
use std::sync::Arc;

/// A message, encoded once and shared by all who still have to send it.
pub(super) type Message = Arc<Vec<u8>>;

/// The bytes of a message's number, and so of the smallest message.
pub(super) const NUMBER_BYTES: usize = 8;
/// The bytes of the largest message: two fit into a receiver's buffer.
pub(super) const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// The bytes of a receipt.
pub(super) const RECEIPT_BYTES: usize = 16;
/// The number of a mark.
const MARK: u64 = u64::MAX;
const BUFFER_BYTES: usize = 256 * 1024;

const _: () = assert!(BUFFER_BYTES >= 2 * MESSAGE_BYTES_MAX);

/// Makes the messages of a run.
#[derive(Debug)]
pub(super) struct Producer {
    next: u64,
    message_bytes: usize,
}

impl Producer {
    pub(super) fn new(message_bytes: usize) -> Self {
        Self { next: 0, message_bytes }
    }

    /// Messages made so far.
    pub(super) fn made(&self) -> u64 {
        self.next
    }

    pub(super) fn message(&mut self) -> Message {
        let number = self.next;
        self.next += 1;
        self.numbered(number)
    }

    pub(super) fn mark(&self) -> Message {
        self.numbered(MARK)
    }

    fn numbered(&self, number: u64) -> Message {
        let mut bytes = vec![b'q'; self.message_bytes];
        bytes[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
        Arc::new(bytes)
    }
}

/// The first bytes of a connection.
pub(super) fn opening(message_bytes: usize) -> [u8; 8] {
    (message_bytes as u64).to_le_bytes()
}

/// The size of messages that an opening announces.
pub(super) fn read_opening(bytes: [u8; 8]) -> anyhow::Result<usize> {
    let size = usize::try_from(u64::from_le_bytes(bytes))?;
    ensure!((NUMBER_BYTES..=MESSAGE_BYTES_MAX).contains(&size), "a message of {size} bytes");
    Ok(size)
}

/// What a receiver answers to a mark: totals since the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) messages: u64,
    pub(super) cpu_us: u64,
}

impl Receipt {
    pub(super) fn bytes(self) -> [u8; RECEIPT_BYTES] {
        let mut bytes = [0; RECEIPT_BYTES];
        bytes[..8].copy_from_slice(&self.messages.to_le_bytes());
        bytes[8..].copy_from_slice(&self.cpu_us.to_le_bytes());
        bytes
    }

    pub(super) fn read(bytes: [u8; RECEIPT_BYTES]) -> Self {
        let (first, second) = bytes.split_at(8);
        let number = |half: &[u8]| half.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Self { messages: number(first), cpu_us: number(second) }
    }
}

/// Reads a stream and checks that messages are whole and in order.
#[derive(Debug)]
pub(super) struct Checker {
    buffer: Vec<u8>,
    filled: usize,
    message_bytes: usize,
    next: u64,
}

impl Checker {
    pub(super) fn new(message_bytes: usize) -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], filled: 0, message_bytes, next: 0 }
    }

    /// Messages checked so far.
    pub(super) fn messages(&self) -> u64 {
        self.next
    }

    /// Reads until the next mark, and says whether there was one or the stream has ended in good order.
    pub(super) fn read_to_mark(&mut self, stream: &mut impl Read) -> anyhow::Result<bool> {
        loop {
            let read = stream.read(&mut self.buffer[self.filled..]).context("receiving")?;
            if read == 0 {
                ensure!(self.filled == 0, "the stream ends within a message");
                return Ok(false);
            }
            self.filled += read;
            if self.check()? {
                return Ok(true);
            }
        }
    }

    /// Checks all whole messages in the buffer; says whether the last one is a mark.
    fn check(&mut self) -> anyhow::Result<bool> {
        let whole = self.filled - self.filled % self.message_bytes;
        let mut marked = false;
        for message in self.buffer[..whole].chunks_exact(self.message_bytes) {
            ensure!(!marked, "a message before the receipt of the mark");
            let number = message.first_chunk::<NUMBER_BYTES>().context("a message without a number")?;
            match u64::from_le_bytes(*number) {
                MARK => marked = true,
                number if number == self.next => self.next += 1,
                number => bail!("message {number} came where {} belongs", self.next),
            }
        }
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        Ok(marked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(numbers: &[u64]) -> Vec<u8> {
        let producer = Producer::new(20);
        numbers.iter().flat_map(|number| producer.numbered(*number).to_vec()).collect()
    }

    #[test]
    fn messages_in_order_are_counted_up_to_the_mark() {
        let bytes = stream(&[0, 1, 2, MARK]);
        let mut checker = Checker::new(20);
        let mut pieces = bytes.chunks(7);
        let mut found = false;
        while let Some(mut piece) = pieces.next().filter(|_| !found) {
            let length = piece.len();
            checker.filled += piece.read(&mut checker.buffer[checker.filled..]).unwrap();
            found = checker.check().unwrap();
            assert!(length <= 7);
        }
        assert!(found && pieces.next().is_none());
        assert_eq!(checker.messages(), 3);
    }

    #[test]
    fn a_gap_a_swap_and_a_torn_end_are_found() {
        let error = |bytes: &[u8]| Checker::new(20).read_to_mark(&mut &bytes[..]).unwrap_err().to_string();
        assert_eq!(error(&stream(&[0, 2])), "message 2 came where 1 belongs");
        assert_eq!(error(&stream(&[1, 0])), "message 1 came where 0 belongs");
        assert_eq!(error(&stream(&[0])[..19]), "the stream ends within a message");
        assert_eq!(error(&stream(&[MARK, 0])), "a message before the receipt of the mark");
    }

    #[test]
    fn a_receipt_and_an_opening_survive_the_way() {
        let receipt = Receipt { messages: 7 << 40, cpu_us: 9 };
        assert_eq!(Receipt::read(receipt.bytes()), receipt);
        assert_eq!(read_opening(opening(64)).unwrap(), 64);
        assert!(read_opening(opening(7)).is_err());
    }
}
