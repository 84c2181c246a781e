//! Verification work: nobody makes a replica check more signatures than its credit pays for or the window has room for,
//! whatever it sends.

use super::Violation;
use quorate_replica::Checks;
use quorate_types::{Nanoseconds, ReplicaId, Tuning};
use std::collections::BTreeMap;

const ORACLE: &str = "bounded verification";

/// What a peer may cause at once, for each replica and besides; and in how much time it earns one check more.
const CREDIT_PER_REPLICA: u64 = 3;
const CREDIT: u64 = 64;
const CHECK_TIME: u64 = 2_000_000;
/// For each slot that is open in a view: a proposal and a PREPARE, and one of each that contradicts it.
const CHECKS_PER_SLOT: u64 = 4;
/// Slots of a view that may be open beside those of the window, so that what is evidence has room.
const SLOTS_BESIDE: u64 = 4;
/// What a connection may bring that nobody has signed, before it is closed.
const CHECKS_PER_CONNECTION: u64 = 64;

/// What one replica has checked for one peer since it was started.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    seen: Checks,
    /// Charged checks that time has not made up for, up to then.
    open: u64,
    since: Nanoseconds,
    connections: u64,
}

/// What one replica has gone through since it was started.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    views: u64,
    slots: u64,
}

/// The work of all replicas.
#[derive(Debug)]
pub struct Work {
    credit: u64,
    slots_per_view: u64,
    accounts: BTreeMap<(ReplicaId, ReplicaId), Account>,
    ways: BTreeMap<ReplicaId, Way>,
}

impl Work {
    /// Nothing is checked yet.
    #[must_use]
    pub fn new(replicas: u8, tuning: &Tuning) -> Self {
        let credit = CREDIT_PER_REPLICA * u64::from(replicas) + CREDIT;
        let slots_per_view = tuning.window + tuning.proposals_max + SLOTS_BESIDE;
        Self { credit, slots_per_view, accounts: BTreeMap::new(), ways: BTreeMap::new() }
    }

    /// A replica has entered a view.
    pub fn on_view(&mut self, replica: ReplicaId) {
        self.ways.entry(replica).or_default().views += 1;
    }

    /// A replica has committed up to a slot.
    pub fn on_committed(&mut self, replica: ReplicaId, slot: u64) {
        let way = self.ways.entry(replica).or_default();
        way.slots = way.slots.max(slot);
    }

    /// A replica closes the connection to a peer.
    pub fn on_closed(&mut self, replica: ReplicaId, peer: ReplicaId) {
        self.accounts.entry((replica, peer)).or_default().connections += 1;
    }

    /// A replica starts again and has checked nothing.
    pub fn on_restart(&mut self, replica: ReplicaId) {
        self.accounts.retain(|(other, _), _| *other != replica);
    }

    /// A replica says how much it has checked for a peer.
    pub fn on_checks(
        &mut self,
        now: Nanoseconds,
        replica: ReplicaId,
        peer: ReplicaId,
        checks: Checks,
    ) -> Result<(), Violation> {
        let way = self.ways.get(&replica).copied().unwrap_or_default();
        let account = self.accounts.entry((replica, peer)).or_default();
        let earned = now.since(account.since) / CHECK_TIME;
        account.since = account.since.plus(earned * CHECK_TIME);
        account.open = account.open.saturating_sub(earned) + (checks.charged - account.seen.charged);
        account.seen = checks;
        // One may have been earned a moment before it is seen here.
        if account.open > self.credit + 1 {
            let text = format!("r{peer} causes {} checks beyond what time pays for", account.open);
            return Err(Violation::new(ORACLE, text));
        }
        let most = CHECKS_PER_SLOT * (way.slots + (way.views + 1) * self.slots_per_view)
            + CHECKS_PER_CONNECTION * (account.connections + 1);
        if checks.windowed > most {
            let text = format!("r{peer} causes {} checks of votes, {most} have room", checks.windowed);
            return Err(Violation::new(ORACLE, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R0: ReplicaId = ReplicaId(0);
    const R1: ReplicaId = ReplicaId(1);

    #[test]
    fn time_pays_for_so_many_checks_and_slots_have_room_for_so_many() {
        let tuning = Tuning { window: 10, proposals_max: 2, ..Tuning::default() };
        let work = || Work::new(4, &tuning);
        let charged = |charged| Checks { charged, windowed: 0 };
        let start = Nanoseconds(0);
        assert!(work().on_checks(start, R0, R1, charged(77)).is_ok());
        assert!(work().on_checks(start, R0, R1, charged(78)).is_err());
        let mut late = work();
        late.on_checks(start, R0, R1, charged(77)).unwrap();
        late.on_checks(Nanoseconds(3 * CHECK_TIME), R0, R1, charged(80)).unwrap();
        assert!(late.on_checks(Nanoseconds(3 * CHECK_TIME), R0, R1, charged(81)).is_err());
        let windowed = |windowed| Checks { charged: 0, windowed };
        let most = 4 * 16 + 64;
        assert!(work().on_checks(start, R0, R1, windowed(most)).is_ok());
        assert!(work().on_checks(start, R0, R1, windowed(most + 1)).is_err());
        let mut further = work();
        further.on_view(R0);
        further.on_committed(R0, 5);
        further.on_closed(R0, R1);
        let most = 4 * (5 + 32) + 128;
        assert!(further.on_checks(start, R0, R1, windowed(most)).is_ok());
        assert!(further.on_checks(start, R0, R1, windowed(most + 1)).is_err());
        further.on_restart(R0);
        assert!(further.on_checks(start, R0, R1, windowed(0)).is_ok());
    }
}
