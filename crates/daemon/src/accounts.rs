//! What the connections of clients make one core keep in memory, by client key (DESIGN section 7, "after somebody is known"):
//! replies that they do not take, and frames that they do not end.
//!
//! There is a bound for each key and one for all keys together; over it, connections end: of the key itself, or of the
//! key with most. So no key is cut off for what others hold. Whoever takes nothing of what waits for it, or does not end
//! a frame, ends after a time. Nothing is lost: replies are kept in the state, and a frame that was not whole is sent
//! again.
//!
//! Pure: whoever has the connections says what they hold and what time it is.

use quorate_types::{Credit, Nanoseconds, limits};
use std::time::{Duration, Instant};

/// How often all clients are looked at for those whose time is up.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What one connection of a client holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// The place of its key among all.
    key: usize,
    /// The bytes that waited for it when that was booked last.
    unread: usize,
    /// Whether it has taken any since it was looked at, and since when it has not.
    took: bool,
    stuck: Option<Instant>,
    /// The memory of a frame that is not whole and of what waits here, and since when the other side lets that frame wait.
    half_sent: usize,
    began: Option<Instant>,
    /// Its questions about states that are open.
    questions: usize,
}

impl Held {
    pub(crate) fn new(key: usize) -> Self {
        Self { key, ..Self::default() }
    }

    /// A frame is whole; what comes behind it is another one.
    pub(crate) fn end_frame(&mut self) {
        self.began = None;
    }

    fn of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Unread => self.unread,
            Kind::HalfSent => self.half_sent,
        }
    }
}

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unread,
    HalfSent,
}

/// Who holds too much of a kind: one key, or all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) kind: Kind,
    key: Option<usize>,
}

/// The time of a connection is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late(pub(crate) Kind);

#[derive(Clone, Debug, Default)]
struct Sum {
    unread: usize,
    half_sent: usize,
    questions: usize,
    /// What ticks have taken of connections that are held back; it outlasts them.
    credit: Credit,
    /// The last tick in which frames came, and how many.
    tick: Option<Instant>,
    frames: usize,
    /// Replies that were taken meanwhile are counted still: above this, they are counted anew.
    recount_above: usize,
}

/// The accounts of one core.
#[derive(Debug)]
pub(crate) struct Accounts {
    keys: Vec<Sum>,
    all: Sum,
    next_look: Option<Instant>,
}

impl Accounts {
    /// Nobody holds anything.
    pub(crate) fn new(keys: usize) -> Self {
        let sum = |recount_above| Sum { recount_above, ..Sum::default() };
        let (of_key, of_all) = (sum(limits::KEY_UNREAD_BYTES_MAX), sum(limits::UNREAD_BYTES_MAX));
        Self { keys: vec![of_key; keys], all: of_all, next_look: None }
    }

    /// The bytes of replies that wait in all, and of frames that are not whole.
    pub(crate) fn held_bytes(&self) -> (usize, usize) {
        (self.all.unread, self.all.half_sent)
    }

    /// So many bytes wait for a connection, and more are added. What is over may be so only by the last count.
    pub(crate) fn queue(&mut self, held: &mut Held, waiting: usize, added: usize) -> Option<Excess> {
        held.took |= waiting < held.unread;
        let key = &mut self.keys[held.key];
        for sum in [&mut *key, &mut self.all] {
            sum.unread = sum.unread - held.unread + waiting + added;
        }
        held.unread = waiting + added;
        let of = |key| Excess { kind: Kind::Unread, key };
        if key.unread > key.recount_above {
            return Some(of(Some(held.key)));
        }
        (self.all.unread > self.all.recount_above).then(|| of(None))
    }

    /// A connection has so much memory of a frame that is not whole, and so much has come that this core lets wait: that is
    /// held too, but no time that the connection takes.
    pub(crate) fn half_sent(
        &mut self,
        held: &mut Held,
        partial: usize,
        backlog: usize,
        now: Instant,
    ) -> Option<Excess> {
        let bytes = partial + backlog;
        if partial == 0 || backlog > 0 {
            held.began = None;
        } else {
            held.began.get_or_insert(now);
        }
        if bytes == held.half_sent {
            return None;
        }
        let key = &mut self.keys[held.key];
        for sum in [&mut *key, &mut self.all] {
            sum.half_sent = sum.half_sent - held.half_sent + bytes;
        }
        held.half_sent = bytes;
        let of = |key| Excess { kind: Kind::HalfSent, key };
        if key.half_sent > limits::KEY_HALF_SENT_BYTES_MAX {
            return Some(of(Some(held.key)));
        }
        (self.all.half_sent > limits::HALF_SENT_BYTES_MAX).then(|| of(None))
    }

    /// A tick has taken frames of a connection.
    pub(crate) fn note_frames(&mut self, held: &Held, tick: Instant, frames: usize) {
        let key = &mut self.keys[held.key];
        if key.tick.replace(tick) != Some(tick) {
            key.frames = 0;
        }
        key.frames += frames;
    }

    /// Whether a tick takes no more frames of the key of a connection.
    pub(crate) fn has_enough(&self, held: &Held, tick: Instant) -> bool {
        let key = &self.keys[held.key];
        key.tick == Some(tick) && key.frames >= limits::KEY_TICK_FRAMES_MAX
    }

    /// What the connections of a key pay with that are held back.
    pub(crate) fn credit(&mut self, held: &Held) -> &mut Credit {
        &mut self.keys[held.key].credit
    }

    /// Whether a connection may ask about states, which is then counted until it is answered.
    pub(crate) fn ask(&mut self, held: &mut Held) -> bool {
        let of_key = &mut self.keys[held.key].questions;
        let may = held.questions < limits::QUESTIONS_OPEN_MAX && *of_key < limits::KEY_QUESTIONS_MAX;
        held.questions += usize::from(may);
        *of_key += usize::from(may);
        may
    }

    pub(crate) fn answered(&mut self, held: &mut Held) {
        if let Some(left) = held.questions.checked_sub(1) {
            held.questions = left;
            self.keys[held.key].questions -= 1;
        }
    }

    /// A connection is gone.
    pub(crate) fn forget(&mut self, held: &Held) {
        let key = &mut self.keys[held.key];
        for sum in [&mut *key, &mut self.all] {
            sum.unread -= held.unread;
            sum.half_sent -= held.half_sent;
        }
        key.questions -= held.questions;
    }

    /// Who has to go for an excess, if it is one still: of all that is counted, the frame that began last, or the
    /// connection with most replies. For replies, all were counted anew before.
    pub(crate) fn victim<'h, I>(
        &mut self,
        excess: Excess,
        clients: impl Iterator<Item = (I, &'h Held)>,
    ) -> Option<I> {
        let Excess { kind, key } = excess;
        let of = |sum: &Sum| match kind {
            Kind::Unread => sum.unread,
            Kind::HalfSent => sum.half_sent,
        };
        let (sum, max) = match (key, kind) {
            (Some(key), Kind::Unread) => (&mut self.keys[key], limits::KEY_UNREAD_BYTES_MAX),
            (Some(key), Kind::HalfSent) => (&mut self.keys[key], limits::KEY_HALF_SENT_BYTES_MAX),
            (None, Kind::Unread) => (&mut self.all, limits::UNREAD_BYTES_MAX),
            (None, Kind::HalfSent) => (&mut self.all, limits::HALF_SENT_BYTES_MAX),
        };
        if of(sum) <= max {
            if kind == Kind::Unread {
                // Not again at once for what is taken and comes anew, as all are looked at for it.
                sum.recount_above = max.max(sum.unread + max / 4);
            }
            return None;
        }
        let most = (0..self.keys.len()).max_by_key(|key| of(&self.keys[*key]));
        let may_go = |(_, held): &(I, &Held)| Some(held.key) == key.or(most) && held.of(kind) > 0;
        let candidates = clients.filter(may_go);
        let victim = match kind {
            Kind::Unread => candidates.max_by_key(|(_, held)| held.unread),
            // The youngest, as the oldest is nearest to its end: so frames of a key with too many of them end all the same.
            Kind::HalfSent => candidates.max_by_key(|(_, held)| held.began),
        };
        victim.map(|(id, _)| id)
    }

    /// A client has come: it is to be looked at.
    pub(crate) fn expect_look(&mut self, now: Instant) {
        self.next_look.get_or_insert(now + LOOK_INTERVAL);
    }

    /// When all clients are to be looked at.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// Whether all clients are to be looked at now. A core that stood still gives them time first: what they have sent or
    /// taken meanwhile it may not know yet.
    pub(crate) fn begin_look(&mut self, now: Instant, clients: usize) -> bool {
        let Some(due) = self.next_look.filter(|due| *due <= now) else { return false };
        self.next_look = (clients > 0).then_some(now + LOOK_INTERVAL);
        now < due + LOOK_INTERVAL
    }

    /// Looks at a connection for which so many bytes wait.
    pub(crate) fn look(&mut self, held: &mut Held, waiting: usize, now: Instant) -> Result<(), Late> {
        let is_over = |since: Instant, max: Nanoseconds| {
            now.saturating_duration_since(since) >= Duration::from_nanos(max.0)
        };
        let frame_time = limits::FRAME_TIME_MAX.plus(held.half_sent as u64 * limits::FRAME_BYTE_TIME.0);
        self.queue(held, waiting, 0);
        if held.unread == 0 {
            held.stuck = None;
        } else if held.took || held.stuck.is_none() {
            held.stuck = Some(now);
        }
        held.took = false;
        if held.stuck.is_some_and(|since| is_over(since, limits::UNREAD_TIME_MAX)) {
            return Err(Late(Kind::Unread));
        }
        if held.began.is_some_and(|since| is_over(since, frame_time)) {
            return Err(Late(Kind::HalfSent));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// Connections of two keys, by number: even ones of the first, odd ones of the second.
    struct Core {
        accounts: Accounts,
        clients: Vec<Option<Held>>,
    }

    impl Core {
        fn new(clients: usize) -> Self {
            let held = |number| Some(Held::new(number % 2));
            Self { accounts: Accounts::new(2), clients: (0..clients).map(held).collect() }
        }

        fn queue(&mut self, number: usize, waiting: usize, added: usize) -> Option<Excess> {
            self.accounts.queue(self.clients[number].as_mut().expect("it is there"), waiting, added)
        }

        fn half_sent(&mut self, number: usize, bytes: usize, now: Instant) -> Option<Excess> {
            self.accounts.half_sent(self.clients[number].as_mut().expect("it is there"), bytes, 0, now)
        }

        fn look(&mut self, number: usize, waiting: usize, now: Instant) -> Result<(), Late> {
            self.accounts.look(self.clients[number].as_mut().expect("it is there"), waiting, now)
        }

        /// Who goes until there is no excess any more.
        fn settle(&mut self, excess: Excess) -> Vec<usize> {
            let mut gone = Vec::new();
            loop {
                let clients = self.clients.iter().enumerate();
                let clients = clients.filter_map(|(number, held)| Some((number, held.as_ref()?)));
                let Some(victim) = self.accounts.victim(excess, clients) else { break gone };
                self.accounts.forget(&self.clients[victim].take().expect("who is gone is asked for no more"));
                gone.push(victim);
            }
        }
    }

    #[test]
    fn of_a_key_that_does_not_take_its_replies_the_connection_with_most_goes() {
        let mut core = Core::new(12);
        assert_eq!(core.queue(1, 0, 8 * MIB), None, "another key's");
        for number in [0, 2, 4, 6] {
            assert_eq!(core.queue(number, 0, 7 * MIB), None);
        }
        assert_eq!(core.queue(2, 7 * MIB, MIB), None);
        let excess = core.queue(8, 0, 4 * MIB).expect("a mebibyte too much");
        assert_eq!(core.settle(excess), [2]);
        assert_eq!(core.accounts.held_bytes(), (33 * MIB, 0));
        (0..12).filter(|number| *number != 2).for_each(|number| {
            core.queue(number, 0, 0);
        });
        assert_eq!(core.accounts.held_bytes(), (0, 0));
    }

    #[test]
    fn what_is_taken_is_found_by_counting_anew_and_not_each_time() {
        let mut core = Core::new(8);
        for number in [0, 2, 4, 6] {
            assert_eq!(core.queue(number, 0, 8 * MIB), None);
        }
        let excess = core.queue(0, 0, 9 * MIB).expect("by the last count");
        // All of it is taken but for a little.
        for number in [0, 2, 4, 6] {
            core.queue(number, 7 * MIB, 0);
        }
        assert!(core.settle(excess).is_empty());
        assert_eq!(core.queue(0, 7 * MIB, 7 * MIB), None, "the next count is after a quarter more");
        assert!(core.queue(2, 7 * MIB, 2 * MIB).is_some());
    }

    #[test]
    fn of_all_the_key_with_most_goes() {
        let mut core = Core::new(2);
        core.accounts = Accounts::new(10);
        core.clients = (0..40).map(|number| Some(Held::new(number % 10))).collect();
        let mut excess = None;
        for number in 0..40 {
            let bytes = if number % 10 == 7 { 8 * MIB } else { 7 * MIB };
            excess = excess.or(core.queue(number, 0, bytes));
        }
        let gone = core.settle(excess.expect("in all"));
        assert_eq!(gone[0] % 10, 7);
        assert!(core.accounts.held_bytes().0 <= limits::UNREAD_BYTES_MAX && gone.len() < 7, "{gone:?}");
    }

    #[test]
    fn the_youngest_of_too_many_frames_that_are_not_whole_goes() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut core = Core::new(80);
        assert_eq!(core.half_sent(1, MIB, start), None, "another key's");
        let mut excess = None;
        for number in 0..33u32 {
            assert_eq!(excess, None);
            excess = core.half_sent(2 * number as usize, MIB, start + second * (40 - number));
        }
        assert_eq!(core.settle(excess.expect("one too many")), [0]);
        assert_eq!(core.accounts.held_bytes(), (0, 33 * MIB));
        assert_eq!(core.half_sent(64, 0, start), None);
        assert_eq!(core.accounts.held_bytes(), (0, 32 * MIB));
    }

    #[test]
    fn who_takes_nothing_and_who_does_not_end_a_frame_has_so_much_time() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut core = Core::new(1);
        core.queue(0, 0, 3 * MIB);
        assert_eq!(core.look(0, 3 * MIB, start), Ok(()));
        assert_eq!(core.look(0, 3 * MIB, start + 29 * second), Ok(()));
        assert_eq!(core.look(0, 2 * MIB, start + 31 * second), Ok(()), "it has taken some");
        // What is added hides nothing of what is taken.
        core.queue(0, MIB, 2 * MIB);
        assert_eq!(core.look(0, 3 * MIB, start + 60 * second), Ok(()));
        assert_eq!(core.look(0, 3 * MIB, start + 89 * second), Ok(()));
        assert_eq!(core.look(0, 3 * MIB, start + 90 * second), Err(Late(Kind::Unread)));
        assert_eq!(core.look(0, 0, start + 91 * second), Ok(()));

        let start = start + 100 * second;
        core.half_sent(0, 1000, start);
        core.half_sent(0, 4000, start + 20 * second);
        assert_eq!(core.look(0, 0, start + 30 * second), Ok(()), "a second more for that much");
        assert_eq!(core.look(0, 0, start + 31 * second), Err(Late(Kind::HalfSent)), "from its first byte");
        core.clients[0].as_mut().expect("it is there").end_frame();
        core.half_sent(0, 2000, start + 29 * second);
        assert_eq!(core.look(0, 0, start + 30 * second), Ok(()), "another frame");
        let held = core.clients[0].as_mut().expect("it is there");
        core.accounts.half_sent(held, 2000, 3000, start + 40 * second);
        assert_eq!(core.accounts.held_bytes(), (0, 5000));
        assert_eq!(core.look(0, 0, start + 90 * second), Ok(()), "what waits here");
        core.half_sent(0, 0, start + 90 * second);
        assert_eq!(core.look(0, 0, start + 190 * second), Ok(()));
    }

    #[test]
    fn a_core_that_stood_still_looks_at_nobody_at_once() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut accounts = Accounts::new(1);
        assert!(!accounts.begin_look(start, 0) && accounts.next_look().is_none());
        accounts.expect_look(start);
        accounts.expect_look(start + second);
        assert!(!accounts.begin_look(start + 4 * second, 1) && accounts.begin_look(start + 6 * second, 1));
        assert!(!accounts.begin_look(start + 60 * second, 1), "it stood still");
        assert!(!accounts.begin_look(start + 64 * second, 1) && accounts.begin_look(start + 65 * second, 0));
        assert_eq!(accounts.next_look(), None, "nobody is there");
    }

    #[test]
    fn frames_of_a_key_count_together_and_its_credit_outlasts_connections() {
        let tick = Instant::now();
        let mut core = Core::new(4);
        let held = |core: &mut Core, number: usize| core.clients[number].take().expect("it is there");
        let (first, second, other) = (held(&mut core, 0), held(&mut core, 2), held(&mut core, 1));
        core.accounts.note_frames(&first, tick, limits::KEY_TICK_FRAMES_MAX - 1);
        assert!(!core.accounts.has_enough(&second, tick));
        core.accounts.note_frames(&second, tick, 1);
        assert!(core.accounts.has_enough(&first, tick) && !core.accounts.has_enough(&other, tick));
        let next = tick + Duration::from_millis(1);
        assert!(!core.accounts.has_enough(&first, next), "in each tick anew");
        core.accounts.note_frames(&first, next, 1);
        assert!(!core.accounts.has_enough(&first, next));

        core.accounts.credit(&first).spend(Nanoseconds(1000), 500);
        core.accounts.forget(&first);
        assert_eq!(
            core.accounts.credit(&Held::new(0)).due(0),
            Nanoseconds(1500),
            "reconnecting earns nothing"
        );
        assert_eq!(core.accounts.credit(&other).due(0), Nanoseconds(0));
    }

    #[test]
    fn a_connection_has_one_question_and_a_key_four() {
        let mut core = Core::new(12);
        let ask = |core: &mut Core, number: usize| {
            core.accounts.ask(core.clients[number].as_mut().expect("it is there"))
        };
        assert!(ask(&mut core, 0) && !ask(&mut core, 0));
        assert!(ask(&mut core, 2) && ask(&mut core, 4) && ask(&mut core, 6));
        assert!(!ask(&mut core, 8) && ask(&mut core, 1), "of one key");
        core.accounts.answered(core.clients[0].as_mut().expect("it is there"));
        core.accounts.answered(core.clients[8].as_mut().expect("it is there"));
        assert!(ask(&mut core, 8) && !ask(&mut core, 0));
        let gone = core.clients[8].take().expect("it is there");
        core.accounts.forget(&gone);
        assert!(ask(&mut core, 0));
    }
}
