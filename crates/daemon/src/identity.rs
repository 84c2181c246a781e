//! Whose data a directory holds, and what must not be forgotten of it: two copies of a short text, each with a checksum.
//!
//! | field | what |
//! | --- | --- |
//! | `format`, `reader` | the version of the format of all that is in the directory, and the lowest version whose programs may open it |
//! | `cluster_id`, `configuration`, `replica`, `directory` | whose it is, and what tells it from every other directory |
//! | `role`, `reason` | `founding`: it has all votes of its replica; `learner`: it casts none, and why |
//! | `claimed` | whether the never-spoken mark of the key was consumed for this directory |
//! | `unsynced_boot` | the boot of the system in which a run has not made durable what it wrote; empty if none |
//! | `halted` | why the replica halted; empty if it did not, or was told to go on |
//!
//! Whoever adds a field raises `reader` with `format`: a program that does not know it would drop it. Where copies are
//! intact and differ, as after a crash between writing one and the other, what forbids more stands.

use crate::data_directory::{DirectoryError, failed, write_durably};
use quorate_journal::LogIdentity;
use quorate_types::{ClusterConfig, CoreId, Digest, ReplicaId};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// The format of all that is in the directory.
const FORMAT: u32 = 4;
/// The lowest format whose programs may open what this one writes.
const READER: u32 = 4;
/// The lowest format that this program may go on with.
const OLDEST: u32 = 4;
pub(crate) const IDENTITY: &str = "identity";
pub(crate) const IDENTITY_COPY: &str = "identity.copy";
/// What precedes the checksum, which covers all above it.
const CHECK: &str = "check = \"";
const HEADER: &str = "\
# Whose data this is. Written by quorate; a change by hand is taken for damage.
";

/// What a replica may do with what the directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The replica has had this directory since the cluster began, and so all its votes.
    Founding,
    /// Votes may be lost, so it casts none.
    Learner {
        /// Why, in words.
        reason: String,
    },
}

/// Whose data a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: [u8; 32],
    /// The digest of the cluster's configuration; all that is signed carries it.
    pub configuration: Digest,
    /// The replica.
    pub replica: ReplicaId,
    /// What tells this directory from every other: drawn when it is formatted, and part of all that is written to its
    /// logs.
    pub directory: [u8; 16],
    /// What it may do.
    pub role: Role,
    /// Whether the never-spoken mark of the replica's key was consumed for this directory.
    pub claimed: bool,
    /// The boot of the system in which a run has not made durable what it wrote.
    pub unsynced_boot: Option<String>,
    /// Why the replica halted, unless it was told to go on.
    pub halted: Option<String>,
    /// The version of the format.
    pub format: u32,
    /// The lowest version of the format whose programs may open it.
    pub reader: u32,
}

impl Identity {
    /// The identity of a new directory of a replica of a cluster.
    #[must_use]
    pub fn new(cluster: &ClusterConfig, replica: ReplicaId, role: Role) -> Self {
        let mut directory = [0; 16];
        getrandom::fill(&mut directory).expect("invariant: the kernel's random source does not fail");
        Self {
            cluster_id: *cluster.cluster_id(),
            configuration: cluster.digest(),
            replica,
            directory,
            role,
            claimed: false,
            unsynced_boot: None,
            halted: None,
            format: FORMAT,
            reader: READER,
        }
    }

    /// Whose the log of one core is.
    #[must_use]
    pub fn log(&self, core: CoreId) -> LogIdentity {
        let Self { cluster_id, replica, directory, .. } = *self;
        LogIdentity { cluster_id, replica, core, directory }
    }

    /// Writes both copies; durable when this returns.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), DirectoryError> {
        let text = encode(self);
        write_durably(directory, IDENTITY_COPY, text.as_bytes())?;
        write_durably(directory, IDENTITY, text.as_bytes())
    }

    /// Refuses the data of others.
    pub(crate) fn check(
        &self,
        path: &Path,
        cluster: &ClusterConfig,
        replica: ReplicaId,
    ) -> Result<(), DirectoryError> {
        let problem = if self.cluster_id != *cluster.cluster_id() {
            format!(
                "this is the data of a replica of the cluster {}, and the cluster file has {}; name the data_dir of this \
                 cluster, or another one for a new cluster",
                Digest(self.cluster_id).short(),
                Digest(*cluster.cluster_id()).short()
            )
        } else if self.replica != replica {
            format!(
                "this is the data of replica {}, and the configuration is of replica {replica}; name the data_dir of \
                 replica {replica}",
                self.replica
            )
        } else if self.configuration != cluster.digest() {
            format!(
                "this data was written under the configuration {}, and the cluster file now has {}; put the old cluster \
                 file back, as a running cluster cannot change it in this version",
                self.configuration.short(),
                cluster.digest().short()
            )
        } else {
            return Ok(());
        };
        Err(DirectoryError::OtherIdentity { path: path.to_owned(), problem })
    }

    /// Takes over what forbids more of another copy of this identity.
    fn restrict(&mut self, other: &Self) {
        if self.role == Role::Founding {
            self.role.clone_from(&other.role);
        }
        if self.unsynced_boot.is_none() {
            self.unsynced_boot.clone_from(&other.unsynced_boot);
        }
        if self.halted.is_none() {
            self.halted.clone_from(&other.halted);
        }
        self.claimed &= other.claimed;
    }
}

/// The identity as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u32,
    reader: u32,
    cluster_id: String,
    configuration: String,
    replica: u8,
    directory: String,
    role: RoleName,
    reason: String,
    claimed: bool,
    unsynced_boot: String,
    halted: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RoleName {
    Founding,
    Learner,
}

pub(crate) fn encode(identity: &Identity) -> String {
    let (role, reason) = match &identity.role {
        Role::Founding => (RoleName::Founding, String::new()),
        Role::Learner { reason } => (RoleName::Learner, reason.clone()),
    };
    let file = IdentityFile {
        format: identity.format,
        reader: identity.reader,
        cluster_id: Digest(identity.cluster_id).to_hex(),
        configuration: identity.configuration.to_hex(),
        replica: identity.replica.0,
        directory: hex::encode(identity.directory),
        role,
        reason,
        claimed: identity.claimed,
        unsynced_boot: identity.unsynced_boot.clone().unwrap_or_default(),
        halted: identity.halted.clone().unwrap_or_default(),
    };
    let fields = toml::to_string(&file).expect("invariant: numbers and strings are valid TOML");
    seal(&format!("{HEADER}{fields}"))
}

fn seal(text: &str) -> String {
    let check = crc32c::crc32c(text.as_bytes());
    format!("{text}{CHECK}{check:08x}\"\n")
}

/// What a copy of the identity says.
pub(crate) type IdentityCopy = Result<Identity, Unreadable>;

/// Why a copy of the identity says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Missing,
    Damaged,
    /// Whole, and of another program: the version of its format, and the lowest whose programs may open it.
    OtherFormat {
        format: i64,
        reader: i64,
    },
}

/// The copies of an identity, and what stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copies {
    pub(crate) copies: [IdentityCopy; 2],
    pub(crate) identity: Option<Identity>,
}

impl Copies {
    /// Reads both copies. One that the system does not let read counts as damaged only beside one that is whole: nothing
    /// is known of what it holds.
    pub(crate) fn read(path: &Path) -> Result<Self, DirectoryError> {
        let mut refused = None;
        let copies = [IDENTITY, IDENTITY_COPY].map(|name| {
            let path = path.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => decode(&bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Unreadable::Missing),
                Err(error) => {
                    refused.get_or_insert_with(|| failed(&path, "read whose data this is")(error));
                    Err(Unreadable::Damaged)
                }
            }
        });
        let found = Self { identity: choose(&copies), copies };
        match refused.filter(|_| found.identity.is_none() && found.other_format().is_none()) {
            Some(refused) => Err(refused),
            None => Ok(found),
        }
    }

    /// Why this program must leave the directory alone, if another one has written it.
    pub(crate) fn other_format(&self) -> Option<String> {
        self.copies.iter().find_map(|copy| match copy {
            Err(Unreadable::OtherFormat { format, reader }) => Some(format!(
                "its format is {format}, which programs of format {reader} and newer may open, and this version knows \
                 {FORMAT}; run the version that wrote it"
            )),
            _ => None,
        })
    }

    /// The copies that are not as they should be.
    pub(crate) fn bad(&self) -> Vec<&'static str> {
        let names = [IDENTITY, IDENTITY_COPY].into_iter().zip(&self.copies);
        names.filter(|(_, copy)| copy.as_ref().ok() != self.identity.as_ref()).map(|(name, _)| name).collect()
    }

    /// Why there is no identity.
    pub(crate) fn why_none(&self) -> &'static str {
        let all_missing = self.copies.iter().all(|copy| *copy == Err(Unreadable::Missing));
        if all_missing { "missing" } else { "damaged" }
    }
}

/// The identity that stands.
fn choose(copies: &[IdentityCopy; 2]) -> Option<Identity> {
    let mut intact = copies.iter().filter_map(|copy| copy.as_ref().ok());
    let mut chosen = intact.next()?.clone();
    intact.for_each(|other| chosen.restrict(other));
    Some(chosen)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Identity, Unreadable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::Damaged)?;
    let (covered, check) = text.rsplit_once(CHECK).ok_or(Unreadable::Damaged)?;
    if check != format!("{:08x}\"\n", crc32c::crc32c(covered.as_bytes())) {
        return Err(Unreadable::Damaged);
    }
    let table: toml::Table = covered.parse().map_err(|_| Unreadable::Damaged)?;
    let number = |name: &str| table.get(name).and_then(toml::Value::as_integer);
    let format = number("format").ok_or(Unreadable::Damaged)?;
    let reader = number("reader").unwrap_or(format);
    if format < i64::from(OLDEST) || reader > i64::from(FORMAT) {
        return Err(Unreadable::OtherFormat { format, reader });
    }
    // The checksum is right: who has written what this program does not know is another one.
    let other = |_| Unreadable::OtherFormat { format, reader };
    let file: IdentityFile = table.try_into().map_err(other)?;
    let role = match file.role {
        RoleName::Founding => Role::Founding,
        RoleName::Learner => Role::Learner { reason: file.reason },
    };
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok(Identity {
        cluster_id: digits(&file.cluster_id)?,
        configuration: Digest(digits(&file.configuration)?),
        replica: ReplicaId(file.replica),
        directory: digits(&file.directory)?,
        role,
        claimed: file.claimed,
        unsynced_boot: some(file.unsynced_boot),
        halted: some(file.halted),
        format: file.format,
        reader: file.reader,
    })
}

fn digits<const N: usize>(text: &str) -> Result<[u8; N], Unreadable> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| Unreadable::Damaged)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_wire::testing;

    fn identity() -> Identity {
        let new = Identity::new(&testing::config(4), ReplicaId(2), Role::Founding);
        Identity { directory: [3; 16], ..new }
    }

    /// The text of an identity with something else in it, sealed as its writer would.
    fn edited(from: &str, to: &str) -> String {
        let text = encode(&identity());
        let (covered, _) = text.rsplit_once(CHECK).unwrap();
        assert!(covered.contains(from), "{covered}");
        seal(&covered.replace(from, to))
    }

    #[test]
    fn what_is_written_is_read_and_each_changed_byte_is_damage() {
        let role = Role::Learner { reason: "votes \"damaged\"\nin segment 3".to_owned() };
        let some = |text: &str| Some(text.to_owned());
        let (unsynced_boot, halted) = (some("1-2-3"), some("two roots\nof \"one\" state"));
        for identity in [identity(), Identity { role, claimed: true, unsynced_boot, halted, ..identity() }] {
            let text = encode(&identity);
            assert_eq!(decode(text.as_bytes()), Ok(identity));
            for index in 0..text.len() {
                let mut damaged = text.clone().into_bytes();
                damaged[index] ^= 1 << (index % 7);
                assert_eq!(decode(&damaged), Err(Unreadable::Damaged), "byte {index}");
                assert_eq!(decode(&text.as_bytes()[..index]), Err(Unreadable::Damaged), "cut at {index}");
            }
        }
    }

    #[test]
    fn a_later_format_is_opened_if_it_says_so_and_left_alone_otherwise() {
        let later = edited("format = 4\nreader = 4", "format = 7\nreader = 4");
        let found = decode(later.as_bytes()).unwrap();
        assert_eq!(Identity { format: 4, ..found.clone() }, identity());
        assert!(encode(&found).contains("format = 7\nreader = 4"), "and it stays what it was");
        for (text, format, reader) in [
            (edited("reader = 4", "reader = 5"), 4, 5),
            (edited("format = 4\nreader = 4", "format = 8\nreader = 8"), 8, 8),
            (edited("format = 4\nreader = 4", "format = 3"), 3, 3),
            (edited("claimed = false", "claimed = false\ncolour = 3"), 4, 4),
        ] {
            assert_eq!(decode(text.as_bytes()), Err(Unreadable::OtherFormat { format, reader }), "{text}");
        }
    }

    #[test]
    fn of_two_copies_that_differ_what_forbids_more_stands() {
        let learner = Role::Learner { reason: "a".to_owned() };
        let one = Identity { role: learner.clone(), claimed: true, ..identity() };
        let halted = Some("b".to_owned());
        let other = Identity { halted: halted.clone(), unsynced_boot: Some("c".to_owned()), ..identity() };
        for copies in [[Ok(one.clone()), Ok(other.clone())], [Ok(other.clone()), Ok(one)]] {
            let chosen = choose(&copies).unwrap();
            assert_eq!((&chosen.role, &chosen.halted, chosen.claimed), (&learner, &halted, false));
            assert_eq!(chosen.unsynced_boot.as_deref(), Some("c"));
        }
        assert_eq!(choose(&[Err(Unreadable::Missing), Ok(other.clone())]), Some(other));
        assert_eq!(choose(&[Err(Unreadable::Missing), Err(Unreadable::Damaged)]), None);
    }
}
