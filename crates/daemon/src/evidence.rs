//! What a replica may do with the data directory that it finds: the one place that decides it, for a start and for whoever
//! only looks.

use crate::data_directory::{DirectoryError, failed};
use crate::identity::{Identity, Role};
use crate::page_folder::Survey;
use quorate_journal::{CONSENSUS_JOURNAL, Damage, Record, Scan};
use quorate_types::{CoreId, Lsn, Seq};
use std::path::Path;

/// The core whose log has the votes.
pub(crate) const FIRST_CORE: CoreId = CoreId(0);

/// Where the system says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What speaks for and against a replica.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) identity: &'a Identity,
    /// The present boot of the system.
    pub(crate) boot: &'a str,
    /// Whether the replica has noted that it says something.
    pub(crate) has_spoken: bool,
    /// Its logs, and where they are.
    pub(crate) logs: Vec<(CoreId, &'a Path, &'a Scan)>,
    /// What there is of checkpoints.
    pub(crate) pages: Survey,
    /// Up to which certified slot there must be a checkpoint, as the log of the votes was trimmed up to one; the highest
    /// slot of all if no certificate can be read.
    pub(crate) trimmed: Option<Seq>,
}

/// What a start does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It refuses, and changes nothing: why, and the remedy.
    Refuse(String),
    /// It goes on as a learner: why.
    Learn(String),
    /// It goes on and votes.
    Vote,
}

impl<'a> Evidence<'a> {
    pub(crate) fn new(
        identity: &'a Identity,
        boot: &'a str,
        has_spoken: bool,
        logs: Vec<(CoreId, &'a Path, &'a Scan)>,
        pages: Survey,
    ) -> Self {
        let first = logs.iter().find(|(core, ..)| *core == FIRST_CORE).map(|(_, _, scan)| *scan);
        let trimmed = first.filter(|scan| scan.trimmed(CONSENSUS_JOURNAL) > Lsn(0));
        let trimmed = trimmed.map(|scan| newest_certificate(scan).unwrap_or(Seq(u64::MAX)));
        Self { identity, boot, has_spoken, logs, pages, trimmed }
    }

    /// What a start does. What is absent may be put back, and what another version wrote is for that version: neither
    /// makes a learner, which lasts. What is there and damaged does.
    pub(crate) fn judge(&self) -> Verdict {
        if let Some(unknown) = self.unknown() {
            return Verdict::Refuse(unknown);
        }
        if let Some(reason) = &self.identity.halted {
            return Verdict::Refuse(halted(reason));
        }
        if let Role::Learner { reason } = &self.identity.role {
            return Verdict::Learn(reason.clone());
        }
        let votes = self.absent().map(|absent| format!("{absent}: votes of this replica stand there"));
        if let Some(absent) = votes.or_else(|| self.absent_batches()).or_else(|| self.absent_checkpoint()) {
            return Verdict::Refuse(format!(
                "{absent}; mount or put back what was taken away. If it is lost, \
                 `quorate format --learner --config FILE` lets the replica go on and cast no votes"
            ));
        }
        self.lost().map_or(Verdict::Vote, Verdict::Learn)
    }

    /// The log of the votes.
    fn first(&self) -> Option<&(CoreId, &'a Path, &'a Scan)> {
        self.logs.iter().find(|(core, ..)| *core == FIRST_CORE)
    }

    fn unknown(&self) -> Option<String> {
        self.logs.iter().find_map(|(_, path, scan)| match &scan.damage {
            Damage::Unknown { what } => Some(format!(
                "{}: another version has written what this one does not know: {what}; run the version that wrote it",
                path.display()
            )),
            _ => None,
        })
    }

    /// What was taken away of the votes.
    fn absent(&self) -> Option<String> {
        let first = self.first();
        if let Some((_, path, scan)) = first
            && let Some(absent) = &scan.absent
        {
            return Some(format!("{}: {absent}", path.display()));
        }
        if first.is_some_and(|(_, _, scan)| !scan.segments.is_empty()) {
            return None;
        }
        let shown = self.shown()?;
        Some(format!("log-{FIRST_CORE} has no files, and {shown}"))
    }

    /// What was taken away of the batches of another core. Others count on those that this replica has acknowledged, and
    /// their digests stand nowhere else: it could not even ask for them.
    fn absent_batches(&self) -> Option<String> {
        self.logs.iter().find_map(|(core, path, scan)| {
            let absent = scan.absent.as_ref().filter(|_| *core != FIRST_CORE)?;
            Some(format!(
                "{}: {absent}: batches that this replica has acknowledged stand there",
                path.display()
            ))
        })
    }

    /// What was taken away of the checkpoints. A log is trimmed only up to one that is durable, and none that a certificate
    /// covers is removed before there is a newer one; one that is damaged still has its name.
    fn absent_checkpoint(&self) -> Option<String> {
        if !self.pages.is_there {
            return Some("pages is not there: it was made with the directory".to_owned());
        }
        if self.first().is_some_and(|(_, _, scan)| scan.votes_are_lost()) {
            // So may be the certificates that tell up to which one it was trimmed.
            return None;
        }
        let trimmed = self.trimmed.filter(|_| !self.pages.has_unreadable)?;
        let is_covered = self.pages.oldest.is_some_and(|oldest| oldest <= trimmed);
        (!is_covered).then(|| {
            format!(
                "log-{FIRST_CORE} was trimmed up to a checkpoint, and there is no manifest of it in pages"
            )
        })
    }

    /// What shows that the replica has said something, besides the log of its votes. That of another core is filled
    /// before the first vote, and shows nothing.
    fn shown(&self) -> Option<&'static str> {
        match self.has_spoken {
            true => Some("the replica has spoken"),
            false => self.pages.follows_headers.then_some("there is a later checkpoint"),
        }
    }

    /// Why votes are lost, or may be.
    fn lost(&self) -> Option<String> {
        for (_, path, scan) in &self.logs {
            if scan.votes_are_lost() {
                return Some(format!("{}: {}", path.display(), scan.damage));
            }
        }
        let first = self.first();
        if first.is_none_or(|(_, _, scan)| scan.is_empty())
            && let Some(shown) = self.shown()
        {
            return Some(format!("nothing of log-{FIRST_CORE} can be read, and {shown}"));
        }
        let unsynced = self.identity.unsynced_boot.as_ref().filter(|boot| *boot != self.boot)?;
        Some(format!(
            "it ran with durability = \"async\" in another boot of the system ({unsynced}) and did not stop in order: what \
             it wrote last may be lost"
        ))
    }
}

/// The newest certificate in a log.
fn newest_certificate(scan: &Scan) -> Option<Seq> {
    let certified = scan.records.iter().filter_map(|(_, _, record)| match record {
        Record::Checkpoint(certificate) => Some(certificate.position.seq),
        _ => None,
    });
    certified.max()
}

/// Why a replica that has halted does not start, and how it does.
pub(crate) fn halted(reason: &str) -> String {
    format!(
        "it has halted, because going on would not have been safe: {reason}. Find out why, keep a copy of its data, and run \
         `quorate clear-halt --config FILE` to let it start again"
    )
}

/// Which boot of the system this is.
pub(crate) fn boot_id() -> Result<String, DirectoryError> {
    let path = Path::new(BOOT_ID);
    let text =
        std::fs::read_to_string(path).map_err(failed(path, "read which boot of the system this is"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_journal::{Fate, GroupNumber, GroupSummary, SegmentHeader, SegmentNumber, SegmentSummary};
    use quorate_types::ReplicaId;
    use quorate_wire::testing;
    use std::collections::BTreeMap;

    /// A log with a file and nothing in it.
    fn prepared() -> Scan {
        let mut scan = Scan::default();
        scan.segments.push(SegmentSummary {
            number: SegmentNumber(1),
            bytes: 1 << 20,
            header: SegmentHeader::Own,
            groups: 0,
            first_group: None,
            highest: BTreeMap::new(),
            end: 4096,
            broken_at: None,
        });
        scan
    }

    fn used() -> Scan {
        let mut scan = prepared();
        scan.groups.push(GroupSummary {
            segment: SegmentNumber(1),
            offset: 4096,
            bytes: 8192,
            number: GroupNumber(1),
            watermark: GroupNumber(0),
            run: SegmentNumber(1),
            fate: Fate::Kept,
            repaired: false,
            announced: 0,
            records: Vec::new(),
        });
        scan
    }

    fn with(mut scan: Scan, change: impl FnOnce(&mut Scan)) -> Scan {
        change(&mut scan);
        scan
    }

    fn founding() -> Identity {
        Identity::new(&testing::config(4), ReplicaId(2), Role::Founding)
    }

    fn judge(logs: &[Scan], change: impl FnOnce(&mut Evidence<'_>)) -> Verdict {
        let identity = founding();
        judge_with(&identity, logs, change)
    }

    fn judge_with(identity: &Identity, logs: &[Scan], change: impl FnOnce(&mut Evidence<'_>)) -> Verdict {
        let logs = logs.iter().enumerate();
        let log = |(core, scan)| (CoreId(u8::try_from(core).unwrap()), Path::new("log"), scan);
        let pages = Survey { is_there: true, ..Survey::default() };
        let mut evidence = Evidence::new(identity, "this", false, logs.map(log).collect(), pages);
        change(&mut evidence);
        evidence.judge()
    }

    fn refused(verdict: Verdict, part: &str) {
        let Verdict::Refuse(why) = verdict else { panic!("{verdict:?}") };
        assert!(why.contains(part), "{why}");
    }

    fn learns(verdict: Verdict, part: &str) {
        let Verdict::Learn(why) = verdict else { panic!("{verdict:?}") };
        assert!(why.contains(part), "{why}");
    }

    #[test]
    fn who_never_spoke_votes_and_who_has_does_not_vote_without_its_votes() {
        let none = Scan::default;
        let first_start = [prepared(), used()];
        for logs in [&[][..], &[none(), none()], &[prepared(), prepared()], &[used(), none()], &first_start] {
            assert_eq!(judge(logs, |_| {}), Verdict::Vote);
        }
        assert_eq!(judge(&[used()], |evidence| evidence.has_spoken = true), Verdict::Vote);
        // No file at all: somebody took them away.
        for logs in [&[][..], &[none()]] {
            refused(
                judge(logs, |evidence| evidence.has_spoken = true),
                "no files, and the replica has spoken",
            );
            let later = judge(logs, |evidence| evidence.pages.follows_headers = true);
            refused(later, "there is a later checkpoint");
        }
        let gap = || with(used(), |scan| scan.absent = Some("segment 3 is missing".to_owned()));
        refused(
            judge(&[gap()], |_| {}),
            "log: segment 3 is missing: votes of this replica stand there; mount",
        );
        let of_another_core = judge(&[used(), gap()], |_| {});
        refused(
            of_another_core,
            "log: segment 3 is missing: batches that this replica has acknowledged stand",
        );
        // Files, and nothing in them that can be read.
        learns(judge(&[prepared()], |evidence| evidence.has_spoken = true), "nothing of log-0 can be read");
        learns(judge(&[prepared()], |evidence| evidence.pages.follows_headers = true), "later checkpoint");
    }

    /// Whoever takes the manifests away for ones that never were begins with nothing, and its trimmed logs lead nowhere.
    #[test]
    fn a_log_that_was_trimmed_wants_a_checkpoint_that_is_covered_by_its_certificates() {
        let found = |oldest: Option<u64>, has_unreadable| {
            let oldest = oldest.map(Seq);
            Survey { is_there: true, oldest, has_unreadable, ..Survey::default() }
        };
        let judged = |trimmed: Option<u64>, pages| {
            judge(&[used()], |evidence| (evidence.trimmed, evidence.pages) = (trimmed.map(Seq), pages))
        };
        for (trimmed, oldest) in
            [(None, None), (None, Some(64)), (Some(64), Some(64)), (Some(u64::MAX), Some(9))]
        {
            assert_eq!(judged(trimmed, found(oldest, false)), Verdict::Vote, "{trimmed:?} {oldest:?}");
        }
        for oldest in [None, Some(128)] {
            refused(judged(Some(64), found(oldest, false)), "no manifest of it in pages; mount or put back");
            assert_eq!(judged(Some(64), found(oldest, true)), Verdict::Vote, "that one may be it");
        }
        refused(judged(None, Survey::default()), "pages is not there");
        let learner = Identity { role: Role::Learner { reason: "a disk".to_owned() }, ..founding() };
        learns(judge_with(&learner, &[used()], |evidence| evidence.pages = Survey::default()), "a disk");
    }

    #[test]
    fn what_another_version_wrote_is_left_to_it_whatever_else_there_is() {
        let what = "unknown kind 99 of a record in segment 1 at 8192".to_owned();
        let unknown = || with(used(), |scan| scan.damage = Damage::Unknown { what: what.clone() });
        refused(
            judge(&[used(), unknown()], |_| {}),
            "kind 99 of a record in segment 1 at 8192; run the version",
        );
        let learner = Identity { role: Role::Learner { reason: "a".to_owned() }, ..founding() };
        refused(judge_with(&learner, &[unknown()], |_| {}), "run the version that wrote it");
    }

    #[test]
    fn lost_votes_make_a_learner_that_stays_one_whatever_is_missing() {
        let reason = "group 3 is missing".to_owned();
        let lost = with(used(), |scan| scan.damage = Damage::LostVotes { reason });
        learns(
            judge(std::slice::from_ref(&lost), |_| {}),
            "votes lost, never to vote again: group 3 is missing",
        );
        // With them the certificates went that tell up to where the log was trimmed.
        let trimmed = |evidence: &mut Evidence<'_>| {
            (evidence.trimmed, evidence.pages.oldest) = (Some(Seq(64)), Some(Seq(128)));
        };
        learns(judge(&[lost], trimmed), "votes lost, never to vote again: group 3 is missing");
        let learner = Identity { role: Role::Learner { reason: "a disk".to_owned() }, ..founding() };
        learns(judge_with(&learner, &[], |evidence| evidence.has_spoken = true), "a disk");
    }

    #[test]
    fn another_boot_after_an_asynchronous_run_may_have_lost_votes() {
        let ran = |boot: &str| Identity { unsynced_boot: Some(boot.to_owned()), ..founding() };
        assert_eq!(judge_with(&ran("this"), &[used()], |_| {}), Verdict::Vote, "the system has it all");
        learns(judge_with(&ran("other"), &[used()], |_| {}), "did not stop in order");
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }

    #[test]
    fn who_has_halted_halts_again() {
        let identity = Identity { halted: Some("two roots".to_owned()), ..founding() };
        refused(judge_with(&identity, &[used()], |_| {}), "two roots. Find out why");
    }
}
