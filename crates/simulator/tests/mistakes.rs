//! Mistakes made on purpose (DESIGN sections 4 and 9): each of them is found, and by whom. What no history finds shows an agent
//! or an oracle that is missing.
//!
//! The first seed of each lies near one that finds it, so that the test is short; from 0 on it takes longer. Plans change with
//! every kind of fault that is added: `quorate-simulator --mistake NAME --findings 1` says which seeds find it now.

use quorate_simulator::trace::Trace;
use quorate_simulator::{Plan, run};
use quorate_types::Mistake;
use std::sync::Mutex;

/// A mistake, the first seed, the number of seeds within which it is found, and the oracle that finds it.
type Row = (Mistake, u64, u64, &'static str);

const TABLE: &[Row] = &[
    // Votes and certificates.
    (Mistake::AcceptsBelowStable, 6, 3, "nothing is accepted at or below stable"),
    (Mistake::DropsCertificateBelowStable, 0, 3, "trimming"),
    (Mistake::CommitsBeforeDurable, 0, 1, "durable before send"),
    (Mistake::CommitsInOldView, 4, 3, "no vote in a lower view"),
    (Mistake::CountsDescendants, 0, 3, "certificates"),
    (Mistake::CountsAcrossViews, 17, 1, "certificates"),
    (Mistake::SmallQuorum, 0, 1, "certificates"),
    (Mistake::VotesBeforeDurable, 0, 1, "durable before send"),
    (Mistake::VotesBelowHead, 0, 3, "votes from the head on"),
    // View changes.
    (Mistake::ChangesViewBeforeDurable, 0, 3, "durable before send"),
    (Mistake::EntersViewTwice, 0, 3, "no panic"),
    (Mistake::SelectsAnyCertificate, 85, 1, "agreement"),
    (Mistake::SelectsLongestChain, 1409, 1, "no unexplained refusal"),
    (Mistake::ShowsCommittedAlone, 0, 3, "certificates"),
    // Restarts.
    (Mistake::ComparesSlotsAlone, 4, 1, "certificates"),
    (Mistake::ForgetsCertificate, 4, 1, "certificates"),
    (Mistake::ForgetsEnterView, 66, 1, "equivocation"),
    (Mistake::ForgetsPromise, 58, 1, "trimming"),
    (Mistake::ForgetsViewState, 4, 3, "no vote in a lower view"),
    (Mistake::ForgetsVotes, 4, 1, "progress"),
    (Mistake::GivesUpVotedStates, 101, 1, "what was voted for is there"),
    (Mistake::ReplacesOwedStates, 127_906, 1, "progress"),
    (Mistake::ServesNewestState, 1646, 1, "progress"),
    (Mistake::UncertifiedFloor, 17, 1, "what was durable is there after a restart"),
    // Disks.
    (Mistake::TearsWithBatch, 89, 1, "what was durable is there after a restart"),
    (Mistake::TidiesUnreadable, 3, 3, "unreadable is not unneeded"),
    // Execution.
    (Mistake::JudgesByView, 6, 1, "at most once"),
    (Mistake::ForgetsTransferredBytes, 17, 1, "at most once"),
    // Work.
    (Mistake::ChecksOnCredit, 421, 1, "bounded verification"),
    (Mistake::AdmitsWhatFits, 191, 1, "fairness"),
    (Mistake::TakesOffAtOnce, 593, 1, "fairness"),
    // Lanes.
    (Mistake::AcceptsUnacknowledged, 80, 5, "origins"),
    (Mistake::FetchesAcknowledgedOnly, 210, 5, "no honest primary deposed"),
    (Mistake::AwaitsDeadForks, 178, 1, "no honest primary deposed"),
    (Mistake::ReplacesAcknowledgements, 4108, 1, "no honest primary deposed"),
    (Mistake::ServesMemoryOnly, 307, 1, "progress"),
    (Mistake::CoalescesAcknowledgements, 609, 1, "no honest primary deposed"),
    (Mistake::DropsNamedForBudget, 107, 1, "no honest primary deposed"),
    // Fetches.
    (Mistake::RenewsDeadlines, 155, 1, "no honest primary deposed"),
];

/// The histories run on so many threads.
const THREADS: usize = 2;

/// What is wrong with a row; nothing if its mistake is found as it says.
fn check((mistake, first, count, oracle): Row) -> Option<String> {
    let name = mistake.name();
    for seed in first..first + count {
        let report = run(Plan { mistake: Some(mistake), ..Plan::of(seed) }, Trace::silent());
        let Some(finding) = report.finding else { continue };
        if finding.violation.oracle != oracle {
            return Some(format!("{name} is found by another oracle: {finding}"));
        }
        // It is the mistake that was found, and nothing else.
        let innocent = run(Plan::of(seed), Trace::silent()).finding;
        return innocent.map(|finding| format!("{name} is found, and without it: {finding}"));
    }
    Some(format!("{name} is not found in {count} seeds from {first}"))
}

#[test]
fn every_mistake_is_found() {
    let rows = Mutex::new(TABLE.iter());
    let wrong = Mutex::new(Vec::new());
    let work = || {
        loop {
            let Some(row) = rows.lock().expect("invariant: no panic beside").next() else { return };
            let found = check(*row);
            wrong.lock().expect("invariant: no panic beside").extend(found);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().expect("invariant: no panic beside");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_mistake_stands_in_the_table() {
    for mistake in Mistake::ALL {
        let rows = TABLE.iter().filter(|(row, ..)| *row == *mistake).count();
        assert_eq!(rows, 1, "{}", mistake.name());
    }
}
