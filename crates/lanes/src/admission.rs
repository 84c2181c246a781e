//! What each client key has open in one own lane, and how much of it is on its way (DESIGN section 7, "after somebody is
//! known").
//!
//! Two bounds, both without counting who is active. *Bytes open*: a key is admitted as long as it has at most twice what is
//! left of the lane. One alone has two thirds, two that want all have two fifths each, and whoever has nothing open finds
//! room. *Units flying*: what is taken up to be sealed and is not executed delays everybody, as execution has one order. So of
//! each key only so much flies; the rest waits here, behind nobody else's. Of one key's sessions each has its turns, as many
//! people may stand behind a key; a session's bundles keep their order.
//!
//! Beside a key that uses far less, and beside other sessions of its own, a key has less in flight: of its small bundles so
//! many together, and of large ones one at a time, with a rest after each. It may do the same at every home: so it rests for
//! twice as long as all homes might need for such a piece, less its own, and large pieces take half of the time of execution,
//! from however many homes they come. Small ones of other sessions pass them by.

use crate::own::{Owner, Pending};
use quorate_types::mistakes::is_made;
use quorate_types::{KeyIndex, Mistake, Nanoseconds, SessionId, Tuning, limits};
use quorate_wire::BundleHead;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Whose a bundle is and what it costs, from its admission until it is executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) owner: Owner,
    pub(crate) key: KeyIndex,
    bytes: u32,
    units: u32,
}

impl Seat {
    pub(crate) fn new(owner: Owner, key: KeyIndex, bytes: usize, units: u32) -> Self {
        Self { owner, key, bytes: u32::try_from(bytes).unwrap_or(u32::MAX), units }
    }

    /// Whether it costs more than all that a key may have in flight beside a light one.
    fn is_large(self, at: Moment<'_>) -> bool {
        u64::from(self.units) > at.tuning.key_units_beside_max
    }
}

/// A bundle that waits until its key may have more in flight.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) pending: Pending,
    pub(crate) bytes: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Account {
    /// What is admitted and not executed.
    bytes: usize,
    bundles: usize,
    /// The part of it that does not wait.
    flying: u64,
    /// The part of that which is large bundles, their number, and since when there are any.
    large_units: u64,
    large: usize,
    since: Nanoseconds,
    /// No large one takes off before, beside others.
    rests_until: Nanoseconds,
    /// Those who have brought what is open.
    owners: usize,
    waiting: Turns,
}

/// What waits of one key.
#[derive(Debug, Default)]
struct Turns {
    sessions: BTreeMap<SessionId, Turn>,
    /// Each session of which something waits, in the order of their turns.
    ring: VecDeque<SessionId>,
}

/// What waits of one session, in order, and what it may take off before the others have their turns.
#[derive(Debug, Default)]
struct Turn {
    bundles: VecDeque<Waiting>,
    units: u64,
}

impl Turns {
    fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    fn push(&mut self, waiting: Waiting) {
        let session = waiting.pending.head.session;
        let turn = self.sessions.entry(session).or_default();
        if turn.bundles.is_empty() {
            self.ring.push_back(session);
        }
        turn.bundles.push_back(waiting);
    }

    /// Whose next bundle goes first, of those that may. Deficit round robin: a turn adds so many units to what its session has
    /// saved for large bundles, and who waits for no more has saved nothing.
    fn next(&mut self, may_go: impl Fn(Seat) -> bool) -> Option<Seat> {
        let mut held_back = 0;
        while held_back < self.ring.len() {
            let session = *self.ring.front()?;
            let turn = self.sessions.get_mut(&session)?;
            let seat = turn.bundles.front()?.pending.seat?;
            if turn.units < u64::from(seat.units) {
                turn.units += limits::SESSION_TURN_UNITS;
                held_back = 0;
            } else if may_go(seat) {
                return Some(seat);
            } else {
                held_back += 1;
            }
            self.ring.rotate_left(1);
        }
        None
    }

    /// Whether the same bundle waits already: a client sends again what is long in coming.
    fn has(&self, head: &BundleHead) -> bool {
        let turn = self.sessions.get(&head.session);
        turn.is_some_and(|turn| turn.bundles.iter().any(|waiting| waiting.pending.head == *head))
    }

    /// Takes out what [`Turns::next`] has returned.
    fn pop(&mut self) -> Option<Waiting> {
        let session = *self.ring.front()?;
        let turn = self.sessions.get_mut(&session)?;
        let waiting = turn.bundles.pop_front()?;
        turn.units -= waiting.pending.seat.map_or(0, |seat| u64::from(seat.units));
        if turn.bundles.is_empty() {
            self.sessions.remove(&session);
            self.ring.pop_front();
        }
        Some(waiting)
    }

    /// What goes next of each session.
    fn fronts(&self) -> impl Iterator<Item = Seat> {
        self.sessions.values().filter_map(|turn| turn.bundles.front()?.pending.seat)
    }

    fn last(&mut self, session: SessionId) -> Option<&mut Pending> {
        self.sessions.get_mut(&session)?.bundles.back_mut().map(|waiting| &mut waiting.pending)
    }

    fn drop_of(&mut self, owner: Owner) -> Vec<(Seat, usize)> {
        let mut dropped = Vec::new();
        for turn in self.sessions.values_mut() {
            turn.bundles.retain(|waiting| {
                let gone = waiting.pending.seat.filter(|seat| seat.owner == owner);
                dropped.extend(gone.map(|seat| (seat, waiting.bytes.len())));
                gone.is_none()
            });
        }
        self.sessions.retain(|_, turn| !turn.bundles.is_empty());
        self.ring.retain(|session| self.sessions.contains_key(session));
        dropped
    }
}

/// What keys have used of all execution lately (see [`limits::USE_WINDOW`]), by their places in the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Uses {
    keys: Arc<[u32]>,
    /// Of those that are active, the one that has used least.
    least: Option<u32>,
}

impl Default for Uses {
    fn default() -> Self {
        Self::new(Arc::new([]))
    }
}

impl Uses {
    pub(crate) fn new(keys: Arc<[u32]>) -> Self {
        let least = keys.iter().copied().filter(|used| *used > 0).min();
        Self { keys, least }
    }

    /// Whether somebody else is active who uses far less.
    fn has_lighter(&self, key: KeyIndex) -> bool {
        let used = self.keys.get(key.0 as usize).copied().unwrap_or(0);
        self.least.is_some_and(|least| u64::from(least) * limits::HEAVY_RATIO <= u64::from(used))
    }
}

/// The accounts of all keys in one own lane.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// By the places of keys in the configuration.
    keys: Vec<Account>,
    flying: u64,
    /// The keys of which something waits; of those that may go on, the first has most right to.
    ring: VecDeque<KeyIndex>,
    waiting_bytes: usize,
}

/// When something happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment<'u> {
    pub(crate) now: Nanoseconds,
    pub(crate) uses: &'u Uses,
    /// The homes besides this one.
    pub(crate) others: u64,
    pub(crate) tuning: &'u Tuning,
}

impl Admission {
    fn account(&mut self, key: KeyIndex) -> &mut Account {
        let index = key.0 as usize;
        if index >= self.keys.len() {
            self.keys.resize_with(index + 1, Account::default);
        }
        &mut self.keys[index]
    }

    /// The bytes of bundles that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether a key may have another bundle open of a lane of which so many bytes are left. `ends` says whether it opens a
    /// session, or ends what was not taken.
    pub(crate) fn has_room(
        &self,
        key: KeyIndex,
        bytes: usize,
        left: usize,
        ends: impl FnOnce() -> bool,
    ) -> bool {
        let nothing = Account::default();
        let account = self.keys.get(key.0 as usize).unwrap_or(&nothing);
        let is_within = |more: usize| {
            account.bytes + bytes <= 2 * left + more && account.bundles < limits::KEY_BUNDLES_OPEN_MAX
        };
        // Where nothing is open, what fits is within twice what is left.
        let is_admitted = is_within(0) || (ends() && is_within(limits::KEY_ENDINGS_BYTES_MAX));
        bytes <= left && (is_admitted || is_made(Mistake::AdmitsWhatFits))
    }

    /// How many bundles of a key are admitted that are not executed.
    pub(crate) fn open_bundles(&self, key: KeyIndex) -> usize {
        self.keys.get(key.0 as usize).map_or(0, |account| account.bundles)
    }

    /// A bundle is admitted.
    pub(crate) fn open(&mut self, seat: Seat) {
        let account = self.account(seat.key);
        account.bytes += seat.bytes as usize;
        account.bundles += 1;
    }

    /// Whether the same bundle waits already.
    pub(crate) fn has_waiting(&self, key: KeyIndex, head: &BundleHead) -> bool {
        self.keys.get(key.0 as usize).is_some_and(|account| account.waiting.has(head))
    }

    /// Somebody who had nothing open of this key has, or the other way round.
    pub(crate) fn note_owner(&mut self, key: KeyIndex, comes: bool) {
        let account = self.account(key);
        account.owners = if comes { account.owners + 1 } else { account.owners - 1 };
    }

    /// A bundle is dropped before it has taken off.
    fn close(&mut self, seat: Seat) {
        let account = self.account(seat.key);
        account.bytes -= seat.bytes as usize;
        account.bundles -= 1;
    }

    /// Whether a bundle takes off now.
    fn takes_off(account: &Account, flying: u64, seat: Seat, at: Moment<'_>) -> bool {
        let is_beside = at.uses.has_lighter(seat.key);
        let units = u64::from(seat.units);
        let may = if seat.is_large(at) && (is_beside || account.owners > 1) {
            account.large == 0 && at.now >= account.rests_until
        } else {
            let share = at.tuning.lane_units_flying_max.saturating_sub(flying);
            let small = account.flying - account.large_units + units;
            let is_within = !is_beside || small <= at.tuning.key_units_beside_max;
            account.flying == 0 || (account.flying + units <= share && is_within)
        };
        may || is_made(Mistake::TakesOffAtOnce)
    }

    /// Whether a bundle that was just admitted takes off at once.
    pub(crate) fn try_take_off(&mut self, seat: Seat, at: Moment<'_>) -> bool {
        let flying = self.flying;
        let account = self.account(seat.key);
        if !account.waiting.is_empty() || !Self::takes_off(account, flying, seat, at) {
            return false;
        }
        self.take_off(seat, at);
        true
    }

    fn take_off(&mut self, seat: Seat, at: Moment<'_>) {
        self.flying += u64::from(seat.units);
        let account = self.account(seat.key);
        account.flying += u64::from(seat.units);
        if seat.is_large(at) {
            if account.large == 0 {
                account.since = at.now;
            }
            account.large += 1;
            account.large_units += u64::from(seat.units);
        }
    }

    /// A bundle that has taken off is executed, or dropped.
    pub(crate) fn land(&mut self, seat: Seat, at: Moment<'_>) {
        self.flying -= u64::from(seat.units);
        self.close(seat);
        let account = self.account(seat.key);
        account.flying -= u64::from(seat.units);
        if seat.is_large(at) {
            account.large -= 1;
            account.large_units -= u64::from(seat.units);
            if account.large == 0 {
                let rest = at.now.since(account.since).saturating_mul(2 * at.others + 1);
                account.rests_until = at.now.plus(rest.min(limits::REST_MAX.0));
            }
        }
    }

    /// A bundle that was just admitted waits for its turn.
    pub(crate) fn wait(&mut self, seat: Seat, waiting: Waiting) {
        self.waiting_bytes += waiting.bytes.len();
        let account = self.account(seat.key);
        let is_first = account.waiting.is_empty();
        account.waiting.push(waiting);
        if is_first {
            self.ring.push_back(seat.key);
        }
    }

    /// The bundle of a session that came last, if it waits.
    pub(crate) fn last_waiting(&mut self, key: KeyIndex, session: SessionId) -> Option<&mut Pending> {
        self.keys.get_mut(key.0 as usize)?.waiting.last(session)
    }

    /// Gives out what takes off now.
    pub(crate) fn go_on(&mut self, at: Moment<'_>, mut give: impl FnMut(Waiting)) {
        let mut blocked = VecDeque::new();
        let mut moved = VecDeque::new();
        while let Some(key) = self.ring.pop_front() {
            let mut has_moved = false;
            while let Some(waiting) = self.next(key, at) {
                has_moved = true;
                give(waiting);
            }
            if !self.account(key).waiting.is_empty() {
                if has_moved { &mut moved } else { &mut blocked }.push_back(key);
            }
        }
        blocked.append(&mut moved);
        self.ring = blocked;
    }

    fn next(&mut self, key: KeyIndex, at: Moment<'_>) -> Option<Waiting> {
        let flying = self.flying;
        let mut turns = std::mem::take(&mut self.account(key).waiting);
        let account = self.account(key);
        let next = turns.next(|seat| Self::takes_off(account, flying, seat, at));
        account.waiting = turns;
        let seat = next?;
        let waiting = account.waiting.pop()?;
        self.waiting_bytes -= waiting.bytes.len();
        self.take_off(seat, at);
        Some(waiting)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// When something takes off without anything else that happens: a rest is over. What else is waited for is that something
    /// lands.
    pub(crate) fn deadline(&self, at: Moment<'_>) -> Option<Nanoseconds> {
        let accounts = self.ring.iter().filter_map(|key| self.keys.get(key.0 as usize));
        let fronts = accounts.flat_map(|account| account.waiting.fronts().map(move |seat| (account, seat)));
        let end = |(account, seat): (&Account, Seat)| {
            let then = Moment { now: at.now.max(account.rests_until), ..at };
            Self::takes_off(account, self.flying, seat, then).then_some(account.rests_until)
        };
        fronts.filter_map(end).min()
    }

    /// Drops what waits of an owner; says of which key it was, and how many bundles.
    pub(crate) fn drop_waiting(&mut self, owner: Owner) -> Option<(KeyIndex, usize)> {
        let dropped: Vec<(Seat, usize)> =
            self.keys.iter_mut().flat_map(|account| account.waiting.drop_of(owner)).collect();
        for (seat, bytes) in &dropped {
            self.waiting_bytes -= bytes;
            self.close(*seat);
        }
        let keys = &self.keys;
        self.ring.retain(|key| !keys[key.0 as usize].waiting.is_empty());
        dropped.first().map(|(seat, _)| (seat.key, dropped.len()))
    }
}
