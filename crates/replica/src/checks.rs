//! How many signature checks one peer may cause (DESIGN section 7).
//!
//! Votes and proposals are bounded by the window: each slot brings so many, and what says nothing new is not looked at.
//! Everything else that is signed comes seldom from honest replicas and could come at any rate from a liar, each time with
//! something new in it and a signature that holds. So each peer has a credit of checks that grows with time.

use quorate_types::mistakes::is_made;
use quorate_types::{Mistake, Nanoseconds, ReplicaId};

/// In so much time a peer earns one check, which takes about a fortieth of it.
const CHECK_TIME: Nanoseconds = Nanoseconds::from_millis(2);
/// The credit of a peer beside what one message may cost, which grows with the number of replicas.
const CREDIT: u64 = 64;
/// The signatures of the largest message, a new view: one summary, one PREPARE and one checkpoint vote of each replica.
const LARGEST_PER_REPLICA: u64 = 3;

/// The signature checks that a peer has caused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// Those that its credit has paid for.
    pub charged: u64,
    /// Those that the window bounds.
    pub windowed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    credit: u64,
    /// Up to when credit was given.
    since: Nanoseconds,
    caused: Checks,
}

/// The accounts of all replicas.
#[derive(Debug)]
pub(crate) struct CheckAccounts {
    accounts: Vec<Account>,
    credit_max: u64,
    uncovered: u64,
}

impl CheckAccounts {
    pub(crate) fn new(replicas: usize) -> Self {
        let credit_max = LARGEST_PER_REPLICA * replicas as u64 + CREDIT;
        let account = Account { credit: credit_max, since: Nanoseconds(0), caused: Checks::default() };
        Self { accounts: vec![account; replicas], credit_max, uncovered: 0 }
    }

    /// Whether the peer's credit covers so many checks, which are then charged.
    pub(crate) fn charge(&mut self, now: Nanoseconds, peer: ReplicaId, checks: usize) -> bool {
        let credit_max = self.credit_max;
        let Some(account) = self.accounts.get_mut(peer.index()) else { return false };
        let earned = now.since(account.since) / CHECK_TIME.0;
        if earned > 0 {
            account.credit = account.credit.saturating_add(earned).min(credit_max);
            account.since = account.since.plus(earned.saturating_mul(CHECK_TIME.0));
        }
        let checks = checks as u64;
        let covers = account.credit >= checks || is_made(Mistake::ChecksOnCredit);
        if covers {
            account.credit = account.credit.saturating_sub(checks);
            account.caused.charged += checks;
        } else {
            self.uncovered += 1;
        }
        covers
    }

    /// The peer has caused a check that the window bounds: it is counted and costs no credit. Whether there is such a peer.
    pub(crate) fn note(&mut self, peer: ReplicaId) -> bool {
        let account = self.accounts.get_mut(peer.index());
        account.map(|account| account.caused.windowed += 1).is_some()
    }

    /// How often a credit has not covered a message since this was asked last.
    pub(crate) fn take_uncovered(&mut self) -> u64 {
        std::mem::take(&mut self.uncovered)
    }

    /// The checks that this peer has caused.
    pub(crate) fn caused(&self, peer: ReplicaId) -> Checks {
        self.accounts.get(peer.index()).map_or(Checks::default(), |account| account.caused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R1: ReplicaId = ReplicaId(1);
    const R2: ReplicaId = ReplicaId(2);

    #[test]
    fn credit_grows_with_time_up_to_a_bound_and_each_peer_has_its_own() {
        let mut accounts = CheckAccounts::new(4);
        let all = usize::try_from(accounts.credit_max).expect("small");
        assert_eq!(all, 76);
        let mut now = Nanoseconds(0);
        assert!(accounts.charge(now, R1, all) && !accounts.charge(now, R1, 1));
        assert!(accounts.charge(now, R2, 1), "of another's credit nothing is gone");
        now = now.plus(3 * CHECK_TIME.0);
        assert!(!accounts.charge(now, R1, 4) && accounts.charge(now, R1, 3));
        now = now.plus(CHECK_TIME.0 - 1);
        assert!(!accounts.charge(now, R1, 1));
        assert!(accounts.charge(now.plus(1), R1, 1), "parts of the time are not lost");
        now = now.plus(u64::MAX / 2);
        assert!(!accounts.charge(now, R1, all + 1) && accounts.charge(now, R1, all));
        assert_eq!(accounts.caused(R1).charged, 2 * all as u64 + 4);
        assert!(accounts.note(R1));
        assert_eq!(accounts.caused(R1).windowed, 1);
    }

    #[test]
    fn strangers_have_no_credit() {
        let mut accounts = CheckAccounts::new(4);
        assert!(!accounts.charge(Nanoseconds(0), ReplicaId(4), 0));
        assert!(!accounts.note(ReplicaId(9)));
        assert_eq!(accounts.caused(ReplicaId(9)), Checks::default());
    }

    #[test]
    fn the_largest_message_is_covered() {
        for replicas in [1, 4, 100] {
            let mut accounts = CheckAccounts::new(replicas);
            assert!(accounts.charge(Nanoseconds(0), ReplicaId(0), 1 + 3 * replicas));
        }
    }
}
