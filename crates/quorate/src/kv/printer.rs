//! How `quorate kv` prints what it found: as text for people, raw bytes for pipes, or JSON.

use super::text::escape;
use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value, json};
use std::io::{ErrorKind, IsTerminal, Write};

/// The flags that choose the form of the output.
#[derive(Args, Debug, Clone, Copy)]
pub(super) struct FormatArguments {
    /// Print keys and values escaped (\t, \n, \r, \\, \xHH), so that each record is one line. The default on a terminal.
    #[arg(long, global = true, group = "format")]
    escape: bool,
    /// Print keys and values byte for byte, also on a terminal; `get` then prints the value alone, without a newline.
    #[arg(long, global = true, group = "format")]
    raw: bool,
    /// Print one JSON object a line. What is not UTF-8 stands in base64 under `key_base64` or `value_base64`.
    #[arg(long, global = true, group = "format")]
    json: bool,
    /// End each key and value with a NUL byte instead of a tab or a newline, and print them byte for byte.
    #[arg(short = '0', long, global = true, group = "format")]
    null: bool,
    /// Print the version, and a tab before each value: the number of the write that it comes from. JSON always has it.
    #[arg(long, global = true)]
    versions: bool,
}

impl FormatArguments {
    fn format(self, is_terminal: bool) -> Format {
        match self {
            Self { json: true, .. } => Format::Json,
            Self { null: true, .. } => Format::Null,
            Self { raw: true, .. } => Format::Raw { value_alone: true },
            Self { escape: true, .. } => Format::Escaped,
            _ if is_terminal => Format::Escaped,
            _ => Format::Raw { value_alone: false },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Escaped,
    /// Bytes as they are; with `value_alone`, GET prints nothing after the value.
    Raw {
        value_alone: bool,
    },
    Null,
    Json,
}

/// One record of the output.
#[derive(Clone, Copy, Debug)]
pub(super) enum Record<'a> {
    /// The value of the key that was asked for.
    Value { key: &'a [u8], value: &'a [u8], version: u64 },
    /// A key with its value, of several.
    Entry { key: &'a [u8], value: &'a [u8], version: u64 },
    /// A key that was asked for and is not there: JSON says so.
    Absent { key: &'a [u8] },
    /// A write was done.
    Written { version: u64 },
    /// A condition did not hold: JSON says so.
    NotWritten { version: Option<u64> },
    /// A number: of keys, or what a key holds now.
    Number { name: &'static str, number: i64, version: Option<u64> },
}

/// Writes records. Once nobody reads any more, writing goes on without effect.
#[derive(Debug)]
pub(super) struct Printer<W> {
    format: Format,
    versions: bool,
    out: W,
    gone: bool,
    buffer: Vec<u8>,
}

impl Printer<std::io::Stdout> {
    pub(super) fn to_stdout(arguments: FormatArguments) -> Self {
        let out = std::io::stdout();
        Self::new(arguments, out.is_terminal(), out)
    }
}

impl<W: Write> Printer<W> {
    fn new(arguments: FormatArguments, is_terminal: bool, out: W) -> Self {
        let (format, versions) = (arguments.format(is_terminal), arguments.versions);
        Self { format, versions, out, gone: false, buffer: Vec::new() }
    }

    /// Whether the reader has gone away: there is no use in going on.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Adds a record.
    pub(super) fn record(&mut self, record: Record<'_>) {
        match self.format {
            Format::Json => {
                serde_json::to_writer(&mut self.buffer, &object(record))
                    .expect("invariant: a map of strings and numbers is valid JSON");
                self.buffer.push(b'\n');
            }
            Format::Escaped | Format::Raw { .. } | Format::Null => self.text(record),
        }
    }

    /// Gives out the records so far, so that a reader at the other end of a pipe sees them.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        let written =
            if self.gone { Ok(()) } else { self.out.write_all(&self.buffer).and_then(|()| self.out.flush()) };
        self.buffer.clear();
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.gone = true,
            other => other.context("cannot write to standard output")?,
        }
        Ok(())
    }

    fn text(&mut self, record: Record<'_>) {
        match record {
            Record::Value { value, version, .. } => {
                self.version(Some(version));
                self.bytes(value);
                if self.format != (Format::Raw { value_alone: true }) {
                    self.end(b'\n');
                }
            }
            Record::Entry { key, value, version } => {
                self.version(Some(version));
                self.bytes(key);
                self.end(b'\t');
                self.bytes(value);
                self.end(b'\n');
            }
            Record::Written { version } => {
                self.version(Some(version));
                self.bytes(b"OK");
                self.end(b'\n');
            }
            Record::Number { number, version, .. } => {
                self.version(version);
                self.bytes(number.to_string().as_bytes());
                self.end(b'\n');
            }
            // The exit code and a line on standard error say it.
            Record::Absent { .. } | Record::NotWritten { .. } => {}
        }
    }

    fn version(&mut self, version: Option<u64>) {
        if let Some(version) = version.filter(|_| self.versions) {
            self.buffer.extend_from_slice(version.to_string().as_bytes());
            self.end(b'\t');
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        match self.format {
            Format::Escaped => self.buffer.extend_from_slice(escape(bytes).as_bytes()),
            Format::Raw { .. } | Format::Null | Format::Json => self.buffer.extend_from_slice(bytes),
        }
    }

    fn end(&mut self, separator: u8) {
        self.buffer.push(if self.format == Format::Null { 0 } else { separator });
    }
}

fn object(record: Record<'_>) -> Map<String, Value> {
    let mut object = Map::new();
    let mut add = |name: &str, value: Value| object.insert(name.to_owned(), value);
    match record {
        Record::Value { key, value, version } | Record::Entry { key, value, version } => {
            add_bytes(&mut add, "key", key);
            add_bytes(&mut add, "value", value);
            add("version", json!(version));
        }
        Record::Absent { key } => {
            add_bytes(&mut add, "key", key);
            add("value", Value::Null);
        }
        Record::Written { version } => {
            add("written", json!(true));
            add("version", json!(version));
        }
        Record::NotWritten { version } => {
            add("written", json!(false));
            add("version", json!(version));
        }
        Record::Number { name, number, version } => {
            add(name, json!(number));
            if let Some(version) = version {
                add("version", json!(version));
            }
        }
    }
    object
}

fn add_bytes(add: &mut impl FnMut(&str, Value) -> Option<Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => add(name, json!(text)),
        Err(_) => add(&format!("{name}_base64"), json!(STANDARD.encode(bytes))),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: FormatArguments =
        FormatArguments { escape: false, raw: false, json: false, null: false, versions: false };

    fn printed(arguments: FormatArguments, is_terminal: bool, records: &[Record<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut printer = Printer::new(arguments, is_terminal, &mut out);
        records.iter().for_each(|record| printer.record(*record));
        printer.flush().unwrap();
        out
    }

    const ENTRY: Record<'_> = Record::Entry { key: b"a\tb", value: b"\x1b[2J\xff", version: 7 };
    const VALUE: Record<'_> = Record::Value { key: b"k", value: b"v\n", version: 7 };

    #[test]
    fn a_terminal_sees_escapes_and_a_pipe_gets_the_bytes() {
        assert_eq!(printed(PLAIN, true, &[ENTRY]), b"a\\tb\t\\x1b[2J\\xff\n");
        assert_eq!(printed(PLAIN, false, &[ENTRY]), b"a\tb\t\x1b[2J\xff\n");
        let (escape, raw) =
            (FormatArguments { escape: true, ..PLAIN }, FormatArguments { raw: true, ..PLAIN });
        assert_eq!(printed(escape, false, &[ENTRY]), b"a\\tb\t\\x1b[2J\\xff\n");
        assert_eq!(printed(raw, true, &[ENTRY]), b"a\tb\t\x1b[2J\xff\n");
    }

    #[test]
    fn a_value_ends_with_a_newline_unless_it_is_asked_for_raw() {
        assert_eq!(printed(PLAIN, false, &[VALUE]), b"v\n\n");
        assert_eq!(printed(FormatArguments { raw: true, ..PLAIN }, false, &[VALUE]), b"v\n");
        assert_eq!(printed(FormatArguments { versions: true, ..PLAIN }, true, &[VALUE]), b"7\tv\\n\n");
        let null = FormatArguments { null: true, versions: true, ..PLAIN };
        assert_eq!(printed(null, true, &[VALUE, ENTRY]), b"7\0v\n\x007\0a\tb\0\x1b[2J\xff\0");
    }

    #[test]
    fn json_marks_what_is_no_text() {
        let json = FormatArguments { json: true, ..PLAIN };
        let records = [
            ENTRY,
            VALUE,
            Record::Absent { key: b"gone" },
            Record::Written { version: 9 },
            Record::NotWritten { version: None },
            Record::Number { name: "removed", number: 2, version: None },
        ];
        let text = String::from_utf8(printed(json, true, &records)).unwrap();
        let expected = [
            r#"{"key":"a\tb","value_base64":"G1sySv8=","version":7}"#,
            r#"{"key":"k","value":"v\n","version":7}"#,
            r#"{"key":"gone","value":null}"#,
            r#"{"version":9,"written":true}"#,
            r#"{"version":null,"written":false}"#,
            r#"{"removed":2}"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_reader_that_goes_away_is_noticed_and_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut printer = Printer::new(PLAIN, false, Closed);
        printer.record(ENTRY);
        assert!(!printer.is_gone());
        printer.flush().unwrap();
        assert!(printer.is_gone());
    }
}
