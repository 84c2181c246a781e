//! Tests of data directories.

use super::layout::LOST_AND_FOUND;
use super::*;
use crate::identity::{IDENTITY_COPY, decode, encode};
use crate::never_spoken;
use quorate_types::{Digest, PublicKey, SigningKey};

fn cluster(id: u8) -> ClusterConfig {
    let key = |number: u8| SigningKey::from_seed(&[number; 32]).public().to_hex();
    let replica = |number: u8| {
        format!(
            "[[replica]]\nid = {number}\nkey = \"{}\"\nmesh = \"127.0.0.1:{}\"\nclient = \"127.0.0.1:{}\"\n",
            key(number + 1),
            8000 + u16::from(number),
            9000 + u16::from(number)
        )
    };
    let replicas: String = (0..4).map(replica).collect();
    let head = format!("cluster_id = \"{}\"\nepoch = 0\nlinks = 1\n", hex::encode([id; 32]));
    ClusterConfig::parse(&format!("{head}clients = [\"{}\"]\n{replicas}", key(99))).unwrap()
}

const ME: ReplicaId = ReplicaId(2);

fn founding() -> Identity {
    Identity { directory: [3; 16], ..Identity::new(&cluster(1), ME, Role::Founding) }
}

fn formatted(path: &Path) -> DataDirectory {
    open(path, &cluster(1), ME).unwrap()
}

fn refused(path: &Path) -> DirectoryError {
    open(path, &cluster(1), ME).unwrap_err()
}

#[test]
fn a_formatted_directory_opens_once_and_names_who_has_it() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b");
    format(&path, &founding()).unwrap();
    let directory = formatted(&path);
    assert_eq!(directory.role(), &Role::Founding);
    assert!(directory.pages().is_dir() && directory.checkpoints().is_dir());
    let error = open(&path, &cluster(1), ME).unwrap_err().to_string();
    assert!(error.contains(&format!("replica 2, process {}", std::process::id())), "{error}");
    drop(directory);
    formatted(&path);
}

#[test]
fn nothing_is_formatted_over() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join(LOST_AND_FOUND)).unwrap();
    format(directory.path(), &founding()).unwrap();
    let error = format(directory.path(), &founding()).unwrap_err();
    assert!(matches!(error, DirectoryError::NotEmpty { .. }), "{error}");
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("thesis.tex"), "").unwrap();
    assert!(format(other.path(), &founding()).unwrap_err().to_string().contains("thesis.tex"));
    assert!(matches!(refused(other.path()), DirectoryError::Foreign { .. }));
}

#[test]
fn the_data_of_others_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    format(directory.path(), &founding()).unwrap();
    let refusal = |id: u8, replica: u8| {
        open(directory.path(), &cluster(id), ReplicaId(replica)).unwrap_err().to_string()
    };
    assert!(refusal(2, 2).contains("cluster 01010101, and the cluster file has 02020202; name the"));
    assert!(refusal(1, 3).contains("data of replica 2"));
    let mut other = founding();
    other.configuration = Digest([7; 32]);
    let second = tempfile::tempdir().unwrap();
    format(second.path(), &other).unwrap();
    let error = open(second.path(), &cluster(1), ME).unwrap_err().to_string();
    assert!(error.contains("put the old cluster file back"), "{error}");
}

#[test]
fn where_no_formatted_directory_is_nothing_starts_and_nothing_is_made() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    let told = |path: &Path| {
        let error = refused(path);
        assert!(error.is_configuration());
        let text = error.to_string();
        for part in ["mount the disk that holds it, or correct data_dir", "format --learner"] {
            assert!(text.contains(part), "{text}");
        }
        text
    };
    assert!(told(&path).contains("the data directory does not exist"));
    assert!(!path.exists());
    std::fs::create_dir(&path).unwrap();
    assert!(told(&path).contains("the data directory is empty"));
    assert_eq!(entries(&path).unwrap(), Vec::<String>::new());
}

#[test]
fn a_directory_becomes_a_learners_on_purpose_and_keeps_what_it_holds() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    let learn = |reason: &str| format_learner(&path, &cluster(1), ME, reason.to_owned());
    assert!(learn("a lost disk").unwrap(), "there was none");
    assert!(!learn("another reason").unwrap());
    let role = Role::Learner { reason: "a lost disk".to_owned() };
    assert_eq!(formatted(&path).role(), &role);
    let second = parent.path().join("second");
    format(&second, &founding()).unwrap();
    std::fs::create_dir(second.join("log-0")).unwrap();
    assert!(!format_learner(&second, &cluster(1), ME, "a lost segment".to_owned()).unwrap());
    assert!(second.join("log-0").is_dir() && matches!(formatted(&second).role(), Role::Learner { .. }));
    let error = format_learner(&second, &cluster(2), ME, String::new()).unwrap_err();
    assert!(matches!(error, DirectoryError::OtherIdentity { .. }), "{error}");
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("thesis.tex"), "").unwrap();
    let error = format_learner(other.path(), &cluster(1), ME, String::new()).unwrap_err();
    assert!(matches!(error, DirectoryError::NotEmpty { .. }), "{error}");
}

/// A folder with a key that nobody has spoken with.
fn fresh_key() -> (tempfile::TempDir, PathBuf, PublicKey) {
    let parent = tempfile::tempdir().unwrap();
    let (key_file, key) = (parent.path().join("key"), SigningKey::from_seed(&[1; 32]).public());
    std::fs::write(&key_file, "").unwrap();
    never_spoken::mark(&key_file, &key).unwrap();
    (parent, key_file, key)
}

/// The disk is full, or the place above it may not be written.
#[test]
fn a_directory_that_cannot_be_made_has_not_taken_the_key() {
    let (parent, key_file, key) = fresh_key();
    // No directory is made over a link that leads nowhere.
    let nowhere = parent.path().join("nowhere");
    std::os::unix::fs::symlink(parent.path().join("gone"), &nowhere).unwrap();
    let make = |path: &Path| format_with_key(path, &cluster(1), ME, (&key_file, &key));
    make(&nowhere).unwrap_err();
    let path = parent.path().join("data");
    assert_eq!(make(&path).unwrap(), Role::Founding);
    assert!(formatted(&path).identity().claimed);
    assert!(!never_spoken::mark_path(&key_file).exists());
}

/// Each pair has a key of its own, and both look at its mark at the same moment.
#[test]
fn of_two_directories_made_for_one_key_at_the_same_moment_one_is_a_voters() {
    for round in 0..40 {
        let (parent, key_file, key) = fresh_key();
        let paths = ["one", "other"].map(|name| parent.path().join(name));
        let gate = std::sync::Barrier::new(2);
        let make = |path: &Path| format_with_key(path, &cluster(1), ME, (&key_file, &key));
        let start = |path: &Path| {
            gate.wait();
            make(path)
        };
        let made = std::thread::scope(|scope| {
            paths.each_ref().map(|path| scope.spawn(|| start(path))).map(|one| one.join().unwrap())
        });
        let mut roles = Vec::new();
        for (path, made) in paths.iter().zip(made) {
            match made {
                Ok(role) => roles.push(role),
                // Whoever comes too late for that moment is told to look, and finds that it is the second.
                Err(DirectoryError::KeyBusy { .. }) => roles.push(make(path).unwrap()),
                Err(error) => panic!("round {round}: {error}"),
            }
            assert_eq!(Some(formatted(path).role()), roles.last());
        }
        let founders = roles.iter().filter(|role| **role == Role::Founding).count();
        assert_eq!(founders, 1, "round {round}: {roles:?}");
    }
}

#[test]
fn what_must_not_be_forgotten_is_remembered() {
    let directory = tempfile::tempdir().unwrap();
    format(directory.path(), &founding()).unwrap();
    let mut open = formatted(directory.path());
    assert!(!open.has_spoken().unwrap());
    note_spoken(directory.path()).unwrap();
    open.claim().unwrap();
    open.set_unsynced_boot(Some("a".to_owned())).unwrap();
    open.set_halted(Some("two roots".to_owned())).unwrap();
    drop(open);
    let mut open = formatted(directory.path());
    let expected = Identity {
        claimed: true,
        unsynced_boot: Some("a".to_owned()),
        halted: Some("two roots".to_owned()),
        ..founding()
    };
    assert_eq!((open.identity(), open.has_spoken().unwrap()), (&expected, true));
    open.set_unsynced_boot(None).unwrap();
    open.set_halted(None).unwrap();
    drop(open);
    assert_eq!(formatted(directory.path()).identity(), &Identity { claimed: true, ..founding() });
}

#[test]
fn a_founder_that_becomes_a_learner_stays_one_for_its_first_reason() {
    let directory = tempfile::tempdir().unwrap();
    format(directory.path(), &founding()).unwrap();
    let mut open = formatted(directory.path());
    for reason in ["votes \"damaged\"\nin segment 3", "another"] {
        open.become_learner(reason.to_owned()).unwrap();
    }
    drop(open);
    let role = formatted(directory.path()).role().clone();
    assert_eq!(role, Role::Learner { reason: "votes \"damaged\"\nin segment 3".to_owned() });
    // A crash in between leaves two that differ: the one that does not vote stands.
    write_durably(directory.path(), IDENTITY, encode(&founding()).as_bytes()).unwrap();
    assert_eq!(formatted(directory.path()).role(), &role);
    let mended = std::fs::read(directory.path().join(IDENTITY)).unwrap();
    assert_eq!(decode(&mended).unwrap().role, role);
}

#[test]
fn one_damaged_copy_is_mended_and_two_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    format(directory.path(), &founding()).unwrap();
    let whole = std::fs::read(directory.path().join(IDENTITY)).unwrap();
    for name in [IDENTITY, IDENTITY_COPY] {
        std::fs::write(directory.path().join(name), &whole[..40]).unwrap();
        assert_eq!(formatted(directory.path()).role(), &Role::Founding);
        assert_eq!(std::fs::read(directory.path().join(name)).unwrap(), whole);
    }
    std::fs::write(directory.path().join(IDENTITY), "").unwrap();
    std::fs::remove_file(directory.path().join(IDENTITY_COPY)).unwrap();
    let error = refused(directory.path()).to_string();
    assert!(error.contains("identity and its copy are damaged"), "{error}");
    assert_eq!(std::fs::read(directory.path().join(IDENTITY)).unwrap(), b"");
}

#[test]
fn an_identity_that_the_system_does_not_let_read_makes_no_learner() {
    let directory = tempfile::tempdir().unwrap();
    format(directory.path(), &founding()).unwrap();
    // Whoever reads a directory is refused, root too.
    let refuse = |name: &str| {
        std::fs::remove_file(directory.path().join(name)).unwrap();
        std::fs::create_dir(directory.path().join(name)).unwrap();
    };
    refuse(IDENTITY);
    assert_eq!(Copies::read(directory.path()).unwrap().identity, Some(founding()), "the copy serves");
    refuse(IDENTITY_COPY);
    for error in [refused(directory.path()), look(directory.path()).unwrap_err()] {
        let text = error.to_string();
        assert!(text.contains("/identity: cannot read whose data this is: Is a directory"), "{text}");
        assert!(text.contains("check data_dir"), "{text}");
    }
}

#[test]
fn what_the_system_refuses_is_told_with_its_remedy_and_whose_fault_it_is() {
    let errno = |errno: rustix::io::Errno| failed(Path::new("data"), "read it")(errno.into());
    for (error, is_configuration, remedy) in [
        (errno(rustix::io::Errno::ACCESS), true, "give the user that the replica runs as the right to it"),
        (errno(rustix::io::Errno::ROFS), true, "make the disk writable"),
        (errno(rustix::io::Errno::MFILE), false, "raise the limit of open files"),
        (errno(rustix::io::Errno::NOSPC), false, "make room on the disk"),
        (errno(rustix::io::Errno::IO), false, "check data_dir and the disk"),
    ] {
        assert_eq!(error.is_configuration(), is_configuration, "{error}");
        assert!(error.to_string().contains(remedy), "{error}");
    }
}

#[test]
fn another_format_is_left_to_the_program_that_knows_it() {
    let directory = tempfile::tempdir().unwrap();
    format(directory.path(), &founding()).unwrap();
    // One copy is enough: whoever has written it may have begun to change the rest.
    let text = encode(&founding()).replace("reader = 4", "reader = 5");
    let (covered, _) = text.rsplit_once("check = ").unwrap();
    let text = format!("{covered}check = \"{:08x}\"\n", crc32c::crc32c(covered.as_bytes()));
    std::fs::write(directory.path().join(IDENTITY_COPY), &text).unwrap();
    let error = refused(directory.path()).to_string();
    assert!(
        error.contains("format 5 and newer may open, and this version knows 4")
            && error.contains("run the version"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(directory.path().join(IDENTITY_COPY)).unwrap(), text);
}

#[test]
fn logs_of_all_cores_are_found_in_order() {
    let directory = tempfile::tempdir().unwrap();
    format(directory.path(), &founding()).unwrap();
    let open = formatted(directory.path());
    assert_eq!(open.logs().unwrap(), []);
    for core in [10, 2, 0] {
        assert!(open.log(CoreId(core)).unwrap().is_dir());
    }
    let cores: Vec<u8> = open.logs().unwrap().into_iter().map(|(core, _)| core.0).collect();
    assert_eq!(cores, [0, 2, 10]);
    // What was made of a log tells of it when its directory is gone.
    std::fs::write(directory.path().join("log-3.made"), "").unwrap();
    std::fs::write(directory.path().join("log-2.made"), "").unwrap();
    let cores: Vec<u8> = open.logs().unwrap().into_iter().map(|(core, _)| core.0).collect();
    assert_eq!(cores, [0, 2, 3, 10]);
}
