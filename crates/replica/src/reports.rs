//! Reports that clients ask for (DESIGN section 7): each is built once for everybody who asked before it began, and no
//! more often than its pace allows, however many ask.
//!
//! Whoever asks while one is built waits for the next one, as what is asked for after a write must show it.

use crate::interface::ClientConnection;
use crate::report::Extras;
use quorate_types::{Credit, Nanoseconds, limits};
use std::collections::{BTreeMap, VecDeque};

/// Those who ask for the same.
#[derive(Debug, Default)]
struct List {
    extras: Extras,
    pace: u64,
    credit: Credit,
    /// Who waits for the next one, by their keys.
    waiting: BTreeMap<[u8; 32], VecDeque<ClientConnection>>,
    /// Who gets the one that is being built.
    building: Option<Vec<ClientConnection>>,
}

impl List {
    fn due(&self) -> Option<Nanoseconds> {
        (!self.waiting.is_empty() && self.building.is_none()).then(|| self.credit.due(0))
    }

    /// The next one begins. The connections of one key do not have all of a core's time for sending it to them.
    fn begin(&mut self, now: Nanoseconds) {
        self.credit.spend(now, self.pace);
        let mut served = Vec::new();
        self.waiting.retain(|_, of_key| {
            served.extend(of_key.drain(..of_key.len().min(limits::KEY_REPORTS_MAX)));
            !of_key.is_empty()
        });
        self.building = Some(served);
    }
}

/// The reports of one core.
#[derive(Debug)]
pub(crate) struct Reports([List; 4]);

impl Reports {
    /// Those of one of `cores` cores, which share the pace.
    pub(crate) fn new(cores: usize) -> Self {
        let list = |root: bool, histograms: bool| {
            let pace = if root || histograms { limits::REPORT_LONG_PACE } else { limits::REPORT_PACE };
            let extras = Extras { root, histograms };
            // With many cores the replica builds more of them: who asks does not wait for ever.
            let pace = pace.0.saturating_mul(cores as u64).min(limits::REPORT_WAIT_MAX.0);
            List { extras, pace, ..List::default() }
        };
        Self([list(false, false), list(false, true), list(true, false), list(true, true)])
    }

    fn list(&mut self, Extras { root, histograms }: Extras) -> &mut List {
        &mut self.0[2 * usize::from(root) + usize::from(histograms)]
    }

    /// A client asks.
    pub(crate) fn ask(&mut self, extras: Extras, connection: ClientConnection, key: [u8; 32]) {
        self.list(extras).waiting.entry(key).or_default().push_back(connection);
    }

    /// A client is gone, and with it what it waits for.
    pub(crate) fn forget(&mut self, connection: ClientConnection, key: &[u8; 32]) {
        for list in &mut self.0 {
            if let Some(of_key) = list.waiting.get_mut(key) {
                of_key.retain(|waiting| *waiting != connection);
                if of_key.is_empty() {
                    list.waiting.remove(key);
                }
            }
        }
    }

    /// Begins those that are due, which are to be built now.
    pub(crate) fn begin(&mut self, now: Nanoseconds) -> impl Iterator<Item = Extras> + use<> {
        let due = |list: &mut List| {
            let is_due = list.due().is_some_and(|due| due <= now);
            is_due.then(|| {
                list.begin(now);
                list.extras
            })
        };
        self.0.each_mut().map(due).into_iter().flatten()
    }

    /// One is built: who gets it.
    pub(crate) fn built(&mut self, extras: Extras) -> Vec<ClientConnection> {
        self.list(extras).building.take().unwrap_or_default()
    }

    /// When the next one is due.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        self.0.iter().filter_map(List::due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::CoreId;

    const PLAIN: Extras = Extras { root: false, histograms: false };
    const ROOT: Extras = Extras { root: true, histograms: false };
    const A: [u8; 32] = [1; 32];
    const B: [u8; 32] = [2; 32];
    const START: Nanoseconds = Nanoseconds(1_000_000_000);

    fn connection(number: u64) -> ClientConnection {
        ClientConnection { core: CoreId(0), number }
    }

    fn begin(reports: &mut Reports, now: Nanoseconds) -> Vec<Extras> {
        reports.begin(now).collect()
    }

    #[test]
    fn who_asks_while_one_is_built_gets_the_next_which_waits_for_its_pace() {
        let mut reports = Reports::new(1);
        assert_eq!(reports.deadline(), None);
        reports.ask(PLAIN, connection(1), A);
        reports.ask(PLAIN, connection(2), B);
        assert!(reports.deadline().is_some_and(|due| due <= START), "at once");
        assert_eq!(begin(&mut reports, START), [PLAIN]);
        reports.ask(PLAIN, connection(3), A);
        let due = START.plus(limits::REPORT_PACE.0);
        assert_eq!((begin(&mut reports, due), reports.deadline()), (vec![], None), "one at a time");
        assert_eq!(reports.built(PLAIN), [connection(1), connection(2)]);
        assert_eq!(reports.deadline(), Some(due));
        assert_eq!(begin(&mut reports, Nanoseconds(due.0 - 1)), []);
        assert_eq!(begin(&mut reports, due), [PLAIN]);
        assert_eq!(reports.built(PLAIN), [connection(3)]);
        assert_eq!((reports.deadline(), reports.built(PLAIN)), (None, vec![]));
    }

    #[test]
    fn what_costs_more_is_built_less_often_and_holds_nothing_else_up() {
        assert!(Reports::new(255).0.iter().all(|list| list.pace <= limits::REPORT_WAIT_MAX.0));
        let (mut reports, mut now) = (Reports::new(2), START);
        let mut built = [0, 0];
        let end = START.plus(2_000_000_000);
        while now < end {
            reports.ask(ROOT, connection(1), A);
            reports.ask(PLAIN, connection(2), A);
            for extras in begin(&mut reports, now) {
                built[usize::from(extras.root)] += 1;
                reports.built(extras);
            }
            now = now.plus(1_000_000);
        }
        assert_eq!(built, [50, 5], "two cores share the pace");
    }

    #[test]
    fn no_key_has_all_of_it_and_what_is_over_waits() {
        let mut reports = Reports::new(1);
        let many = limits::KEY_REPORTS_MAX as u64 + 3;
        (0..many).for_each(|number| reports.ask(PLAIN, connection(number), A));
        reports.ask(PLAIN, connection(many), B);
        assert_eq!(begin(&mut reports, START), [PLAIN]);
        let served = reports.built(PLAIN);
        assert_eq!(served.len(), limits::KEY_REPORTS_MAX + 1);
        assert!(served.contains(&connection(many)), "the other key's");
        let due = reports.deadline().expect("some are over");
        reports.forget(connection(many - 1), &A);
        assert_eq!(begin(&mut reports, due), [PLAIN]);
        assert_eq!(reports.built(PLAIN), [connection(many - 3), connection(many - 2)]);
        reports.ask(ROOT, connection(1), A);
        reports.forget(connection(1), &A);
        assert_eq!((reports.deadline(), begin(&mut reports, due)), (None, vec![]), "nobody waits");
    }
}
