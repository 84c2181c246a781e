//! Reads that one answer cannot hold: page by page, each printed before the next is asked for.
//!
//! A page is read at one place of the order; two pages may have writes between them. So a SCAN of any length and an
//! MGET of any number of keys come to their end in bounded memory, and what was read at one moment is as much as one
//! answer holds (1 MiB).

use super::answer::{execute, unexpected};
use super::printer::{Printer, Record};
use crate::failure::Failure;
use quorate_client::Client;
use quorate_types::{Operation, OperationError, OperationResult, Versioned, limits};
use std::collections::VecDeque;
use std::io::Write;

/// The entries that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// The first key.
    pub(super) start: Vec<u8>,
    /// The key after the last; empty means "to the end".
    pub(super) end: Vec<u8>,
    /// The most entries; nothing means all.
    pub(super) limit: Option<u64>,
}

impl Range {
    /// All keys that begin with `prefix`.
    pub(super) fn of_prefix(prefix: Vec<u8>) -> Self {
        let end = end_of_prefix(prefix.clone());
        Self { start: prefix, end, limit: None }
    }

    /// The part of the range above `key`; nothing if no key can be there.
    pub(super) fn above(self, key: &[u8]) -> Option<Self> {
        let start = self.start.max(next_key(key)?);
        (self.end.is_empty() || start < self.end).then_some(Self { start, ..self })
    }
}

/// The lowest key behind all that begin with the prefix; empty if there is none.
fn end_of_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if let Some(next) = last.checked_add(1) {
            prefix.push(next);
            break;
        }
    }
    prefix
}

/// The lowest key above `key`, if there is one: a key that has its greatest length has none that it begins.
fn next_key(key: &[u8]) -> Option<Vec<u8>> {
    if key.len() < limits::KEY_BYTES_MAX {
        return Some([key, &[0]].concat());
    }
    let end = end_of_prefix(key.to_vec());
    (!end.is_empty()).then_some(end)
}

/// Prints the entries of a range; the last key printed, if the limit left others out.
pub(super) async fn scan<W: Write>(
    client: &Client,
    mut range: Range,
    printer: &mut Printer<W>,
) -> Result<Option<Vec<u8>>, Failure> {
    loop {
        let page = range.limit.map_or(limits::SCAN_ENTRIES_MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX).min(limits::SCAN_ENTRIES_MAX)
        });
        let limit = u32::try_from(page).expect("invariant: a page is short");
        let (start, end) = (range.start.clone(), range.end.clone());
        let results = execute(client, vec![Operation::Scan { start, end, limit }]).await?;
        let [OperationResult::Entries { entries, more }] = results.as_slice() else {
            return Err(unexpected(&results));
        };
        for entry in entries {
            let (key, value, version) = (&entry.key, &entry.value, entry.version);
            printer.record(Record::Entry { key, value, version });
        }
        printer.flush()?;
        let Some(last) = entries.last().filter(|_| *more && !printer.is_gone()) else { return Ok(None) };
        range.limit = range.limit.map(|left| left.saturating_sub(entries.len() as u64));
        if range.limit == Some(0) {
            return Ok(Some(last.key.clone()));
        }
        let Some(rest) = range.above(&last.key) else { return Ok(None) };
        range = rest;
    }
}

/// What came of reading several keys.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The keys that do not exist.
    pub(super) absent: Vec<Vec<u8>>,
    /// How many answers it took: the values of different ones are of different moments.
    pub(super) pages: usize,
}

/// Prints the values of several keys in their order.
pub(super) async fn read<W: Write>(
    client: &Client,
    keys: Vec<Vec<u8>>,
    printer: &mut Printer<W>,
) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut open: VecDeque<Vec<Vec<u8>>> = keys.chunks(limits::MULTI_KEYS_MAX).map(<[_]>::to_vec).collect();
    while let Some(mut keys) = open.pop_front().filter(|_| !printer.is_gone()) {
        let results = execute(client, vec![Operation::MultiGet { keys: keys.clone() }]).await?;
        match results.as_slice() {
            [OperationResult::Values(values)] => {
                found.pages += 1;
                print_values(&keys, values, printer, &mut found.absent);
                printer.flush()?;
            }
            [OperationResult::Error(OperationError::ResultsTooLong)] if keys.len() > 1 => {
                open.push_front(keys.split_off(keys.len() / 2));
                open.push_front(keys);
            }
            _ => return Err(unexpected(&results)),
        }
    }
    Ok(found)
}

fn print_values<W: Write>(
    keys: &[Vec<u8>],
    values: &[Option<Versioned>],
    printer: &mut Printer<W>,
    absent: &mut Vec<Vec<u8>>,
) {
    for (key, value) in keys.iter().zip(values) {
        match value {
            Some(found) => {
                printer.record(Record::Entry { key, value: &found.value, version: found.version });
            }
            None => {
                printer.record(Record::Absent { key });
                absent.push(key.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range_also_at_the_end_of_all_keys() {
        for (prefix, end) in [(&b"ab"[..], &b"ac"[..]), (b"a\xff\xff", b"b"), (b"\xff", b""), (b"", b"")] {
            assert_eq!(Range::of_prefix(prefix.to_vec()).end, end);
        }
    }

    #[test]
    fn every_key_has_a_next_one_but_the_last_of_all() {
        assert_eq!(next_key(b"a"), Some(b"a\0".to_vec()));
        let longest = [vec![b'k'; limits::KEY_BYTES_MAX - 1], vec![0xff]].concat();
        let next = next_key(&longest).expect("there are greater ones");
        assert_eq!((next.len(), next.last()), (limits::KEY_BYTES_MAX - 1, Some(&b'l')));
        assert_eq!(next_key(&[0xff; limits::KEY_BYTES_MAX]), None);
    }

    #[test]
    fn what_is_above_a_key_stays_inside_the_range() {
        let range = || Range::of_prefix(b"user:".to_vec());
        let above = |key: &[u8]| range().above(key).map(|range| range.start);
        assert_eq!(above(b"user:1"), Some(b"user:1\0".to_vec()));
        assert_eq!(above(b"a"), Some(b"user:".to_vec()), "it does not begin before its prefix");
        assert_eq!(above(b"v"), None);
        let most = |limit| Range { limit, ..range() };
        assert_eq!(most(Some(3)).above(b"user:1").and_then(|range| range.limit), Some(3));
    }
}
