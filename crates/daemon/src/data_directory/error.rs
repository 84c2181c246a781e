//! Why a data directory cannot be used, each with its remedy.

use crate::page_folder::FolderError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The system refused something.
    #[error("{path}: cannot {what}: {source}; {remedy}", path = path.display(), remedy = remedy(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Something is there already where a new directory is to be made.
    #[error(
        "{path}: the directory holds {found:?} and is not formatted over; name another data_dir, or move this one away \
         if it is no longer wanted",
        path = path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// The directory is used for something else.
    #[error(
        "{path}: the directory holds {found:?}, which is no part of a replica's data; name a directory of its own in \
         data_dir",
        path = path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// It belongs to another cluster, replica, configuration or format.
    #[error("{path}: {problem}", path = path.display())]
    OtherIdentity {
        /// The directory.
        path: PathBuf,
        /// What differs, and the remedy.
        problem: String,
    },
    /// There is none.
    #[error(
        "{path}: {reason}; mount the disk that holds it, or correct data_dir. If it is lost, \
         `quorate format --learner --config FILE` makes a new one, of a replica that casts no votes",
        path = path.display()
    )]
    Unformatted {
        /// Where it should be.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// Another process uses it.
    #[error(
        "{path}: in use by {holder}; stop that process, or name another data_dir",
        path = path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who says to use it.
        holder: String,
    },
    /// Another process looks at this moment whether its directory may take the key into use.
    #[error(
        "{key_file}: another process is just taking this key into use; only one directory may, so see which one that is, \
         and try again if it is this one",
        key_file = key_file.display()
    )]
    KeyBusy {
        /// The file of the key.
        key_file: PathBuf,
    },
}

/// Why a data directory could not be made with a state in it.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The directory itself could not be made.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The state could not be written.
    #[error(transparent)]
    Pages(#[from] FolderError),
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on the disk",
        io::ErrorKind::PermissionDenied => "give the user that the replica runs as the right to it",
        io::ErrorKind::ReadOnlyFilesystem => "make the disk writable",
        _ if is_out_of_descriptors(error) => "raise the limit of open files (ulimit -n, LimitNOFILE)",
        _ => "check data_dir and the disk (dmesg, smartctl)",
    }
}

impl DirectoryError {
    /// Whether it lies in what an operator has configured or mounted rather than in the machine at work: the directory
    /// is another one, or not there, or not this user's.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem)
            }
            Self::KeyBusy { .. } => false,
            _ => true,
        }
    }

    /// What the system says, of an error of the system.
    pub(crate) fn into_source(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        }
    }
}

pub(crate) fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> DirectoryError {
    move |source| DirectoryError::Io { path: path.to_owned(), what, source }
}
