//! Why a replica stopped because of its log.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A write, a sync or the preparation of a segment failed. The replica stops at once and tries nothing again: after a
/// failed sync nobody knows what is on the disk, and the next sync may succeed without having written it (DESIGN
/// section 5).
#[derive(Debug, Error)]
#[error("{path}: cannot {what}: {source}; the replica stops, as nobody knows what is on the disk: {remedy}", path = path.display())]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// What was tried.
    pub what: &'static str,
    /// Why it failed.
    pub source: io::Error,
    remedy: &'static str,
}

impl LogError {
    pub(crate) fn new(path: PathBuf, what: &'static str, source: io::Error) -> Self {
        let remedy = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "make room, raise min_free_bytes, and start it again"
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                "make the disk writable for it, and start it again"
            }
            _ => "check the disk (dmesg, smartctl), and start it again when it is sound",
        };
        Self { path, what, source, remedy }
    }
}
