//! Every limit by name. What exceeds one is refused with a typed answer, never truncated.

use crate::Nanoseconds;

/// The largest number of replicas in a cluster.
pub const REPLICAS_MAX: usize = 100;
/// The largest number of links between two replicas, and so of lanes per origin.
pub const LINKS_MAX: usize = 64;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;
/// The largest bundle on the wire, in bytes, its head included.
pub const BUNDLE_BYTES_MAX: usize = 1024 * 1024;
/// The largest number of operations in one bundle.
pub const BUNDLE_OPERATIONS_MAX: usize = 10_000;
/// The largest results of one bundle, in bytes. Operations beyond it answer with an error.
pub const RESULTS_BYTES_MAX: usize = 1024 * 1024;
/// The largest number of entries that one SCAN returns.
pub const SCAN_ENTRIES_MAX: usize = 10_000;
/// The largest number of keys in one MGET or MSET.
pub const MULTI_KEYS_MAX: usize = 1024;
/// What users' entries may come to in all, unless the cluster file says otherwise: with what they take in memory
/// ([`STATE_MEMORY_TENTHS`]) and the rest of a replica a machine with 16 GiB.
pub const STATE_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// What an entry counts there besides its key and value, so that many small ones take no more memory for what they count
/// than few large ones.
pub const STATE_ENTRY_BYTES: u64 = 32;
/// What entries take in memory at the most, in tenths of what they count: of all sizes of keys and values, in all orders of
/// keys, from 1.2 to 1.7. What is changed beside a frozen copy comes to it while that is written.
pub const STATE_MEMORY_TENTHS: u64 = 17;
/// The least that the cluster file may say: any entry fits, and a bundle.
pub const STATE_BYTES_MIN: u64 = BUNDLE_BYTES_MAX as u64;
/// The number of bundles that a session may have open.
pub const OPEN_BUNDLES_MAX: usize = 64;
/// The number of replies that the state keeps for each session.
pub const REPLIES_KEPT_MAX: usize = 64;
/// The number of bytes of results that the state keeps for each session.
pub const REPLY_BYTES_KEPT_MAX: usize = 1024 * 1024;
/// The number of bytes of results that the state keeps for all sessions of one client key: over that the key's sessions
/// that are unused for longest lose theirs.
pub const REPLY_BYTES_KEPT_PER_CLIENT_MAX: u64 = 64 * 1024 * 1024;
/// The number of bytes of results that the state keeps for all keys together: over that no key may add to them that has
/// more than an equal part of it. So they end below twice as many, or 1 MiB a key if there are more than a thousand.
pub const REPLY_BYTES_KEPT_IN_ALL_MAX: u64 = 1024 * 1024 * 1024;
/// The number of sessions that the state keeps for each client key; the one unused for longest makes room. One
/// less may register within [`REGISTRATION_AGE_MAX`] headers, so that none in use is lost.
pub const SESSIONS_PER_CLIENT_MAX: usize = 4096;
/// A: how many headers after the seq that it names a registration may be executed.
pub const REGISTRATION_AGE_MAX: u64 = 1024;
/// T: how long after that seq, in the time of headers, however many there were. Longer than any way to a cluster and back.
pub const REGISTRATION_TIME_MAX: Nanoseconds = Nanoseconds::from_millis(10_000);
/// The size from which a batch is full, in bytes. A batch ends with the bundle that reaches it.
pub const BATCH_BYTES_FULL: usize = 512 * 1024;
/// The largest batch on the wire, in bytes: a full one may have been one byte short before its last bundle.
pub const BATCH_BYTES_MAX: usize = BATCH_BYTES_FULL + BUNDLE_BYTES_MAX + 64 * 1024;
/// The largest number of bundles in one batch.
pub const BATCH_BUNDLES_MAX: usize = 1024;
/// K: by how many batches one cut may advance one lane.
pub const CUT_BATCHES_MAX: u64 = 256;
/// B: by how many bytes one cut may advance one lane.
pub const CUT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// P: the number of headers that may be proposed and not yet committed; also the longest PREPARE range.
pub const PROPOSALS_MAX: u64 = 64;
/// The longest that a primary is waited for, however many views have failed; so long a delay of the network is
/// tolerated.
pub const VIEW_TIMEOUT_MAX: Nanoseconds = Nanoseconds::from_millis(60_000);
/// W: how far above the stable checkpoint headers are accepted.
pub const WINDOW: u64 = 8192;
/// After so many headers the state is checkpointed and voted on. Two fit into the window.
pub const CHECKPOINT_INTERVAL: u64 = 2048;
/// After so many bytes of batches, too.
pub const CHECKPOINT_BYTES: u64 = 128 * 1024 * 1024;
/// So long nothing must have been ordered before an empty header, after which a checkpoint is due.
pub const CHECKPOINT_IDLE: Nanoseconds = Nanoseconds::from_millis(10_000);
/// The largest frame payload on a link between replicas or from an authenticated client, in bytes.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The largest frame payload before a handshake is complete, in bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 1024;
/// The bytes of one lane that its origin seals and that are not yet executed.
pub const LANE_BYTES_OPEN_MAX: usize = 16 * 1024 * 1024;
/// The bundles of one client key in one lane that are not executed: what their heads take besides their bytes is bounded
/// by that. More than 128 sessions with all that each may have open.
pub const KEY_BUNDLES_OPEN_MAX: usize = 8192;
/// The bytes of registrations, and of bundles that do nothing in the place of others, that a key may have open in a lane
/// beyond its share: they end what is open.
pub const KEY_ENDINGS_BYTES_MAX: usize = 64 * 1024;
/// A bundle that is longer is no such ending: whether there is room for it is known before it is read.
pub const ENDING_BYTES_MAX: usize = 1024;
/// What a bundle costs besides its operations: its signature is checked by all. A unit is about a microsecond of each
/// replica, or one step of an operation (see [`crate::ArchivedOperation::steps`]).
pub const BUNDLE_UNITS: u32 = 16;
/// So many bytes of a bundle cost as much as a step: they are hashed, sent and written by all.
pub const UNIT_BYTES: usize = 128;
/// The most that a SCAN counts for; its results are bounded by [`RESULTS_BYTES_MAX`].
pub const SCAN_STEPS_MAX: u32 = 1024;
/// The units of one lane that are on their way to execution; what is admitted beyond waits at home, where that of one key
/// does not stand before that of another. A key has at most as much of it as is left, so one alone has half: about 30 ms.
pub const LANE_UNITS_FLYING_MAX: u64 = 64 * 1024;
/// The units of one key that are on their way from one home beside keys that use far less; a single bundle may cost more.
pub const KEY_UNITS_BESIDE_MAX: u64 = 4096;
/// A key that uses so many times as much as another that is active has its large bundles executed one by one.
pub const HEAVY_RATIO: u64 = 4;
/// The longest that such a key rests after a large bundle, however long that took.
pub const REST_MAX: Nanoseconds = Nanoseconds::from_millis(1_000);
/// What each key uses is told to its homes so often, as a sum in which all windows before count seven eighths of the one
/// after: whoever uses little is active for about two seconds.
pub const USE_WINDOW: Nanoseconds = Nanoseconds::from_millis(100);
/// What a turn adds to what a session may take off of the bundles of its key that wait: the largest needs three.
pub const SESSION_TURN_UNITS: u64 = 4096;
/// The signatures of own bundles that are checked in one tick: about 7 ms.
pub const OWN_CHECKS_PER_TICK: usize = 256;
/// The units after which a turn of execution ends, so that the core comes back to its links.
pub const TURN_UNITS_MAX: u64 = 8192;
/// The bytes of one lane that a receiver holds above the executed tip; over that it neither keeps nor
/// acknowledges. Larger than the origin's own bound, as executed tips differ between replicas.
pub const LANE_BYTES_HELD_MAX: usize = 4 * LANE_BYTES_OPEN_MAX;
/// The bytes of executed batches that each lane keeps for peers that lag.
pub const LANE_BYTES_KEPT_MAX: usize = 32 * 1024 * 1024;
/// The bytes of batches that a core has appended to its log and that are not durable: over that it takes no more until
/// the disk has caught up, as they are held in memory.
pub const UNDURABLE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The number of executed headers below the stable checkpoint that are kept for peers that lag.
pub const HEADERS_KEPT_MAX: u64 = 16 * 1024;
/// The number of headers in one answer to a fetch.
pub const FETCH_HEADERS_MAX: usize = 256;
/// The number of pages that one request of a state transfer names.
pub const FETCH_PAGES_MAX: usize = 256;
/// The requests of a state transfer that one replica has open with another.
pub const PAGE_REQUESTS_MAX: usize = 2;
/// The levels of the state's tree.
pub const TREE_HEIGHT_MAX: usize = 16;
/// The bytes of batches in one answer to a fetch.
pub const FETCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What a byte costs the peer that it answers, or to which it is sent again: about 64 MiB a second, on each core. Whoever
/// catches up has n - 1 servers.
pub const ANSWER_BYTE_TIME: Nanoseconds = Nanoseconds(15);
/// By how much a peer may be ahead with that: 16 MiB.
pub const ANSWER_BURST: Nanoseconds = Nanoseconds::from_millis(250);
/// The least that an answer counts for.
pub const ANSWER_BYTES_MIN: usize = 4096;
/// What an answer to a question for headers costs, which brings [`FETCH_HEADERS_MAX`]: far more of them than a cluster makes.
pub const HEADERS_ANSWER_TIME: Nanoseconds = Nanoseconds::from_millis(5);
/// By how much a peer may be ahead with that: by all headers that are kept for it.
pub const HEADERS_ANSWER_BURST: Nanoseconds = Nanoseconds::from_millis(320);
/// The parts of the time of retransmission: what a Status shows to be missing is sent again once in one of them.
pub const RESEND_PARTS: u64 = 5;
/// By how many of these parts a peer may be ahead with that.
pub const RESEND_BURST: u64 = 16;
/// A replica begins no report earlier after the one before that is alike; who asks meanwhile waits, and gets it with all others.
pub const REPORT_PACE: Nanoseconds = Nanoseconds::from_millis(20);
/// The same for one with the root of the state, which takes hashing what changed, or with histograms, which are long.
pub const REPORT_LONG_PACE: Nanoseconds = Nanoseconds::from_millis(200);
/// However many cores share that: the tools wait three seconds.
pub const REPORT_WAIT_MAX: Nanoseconds = Nanoseconds::from_millis(1_000);
/// So many get a report of all that have asked for it under one client key at one core; the rest get the next one.
pub const KEY_REPORTS_MAX: usize = 64;
/// The frames of one connection that one tick of a core takes: more than a client may have open, or a peer that is not behind
/// sends at once. What is over waits.
pub const TICK_FRAMES_MAX: usize = 256;
/// The bytes of one connection that one tick takes, more than a full batch. A frame that is longer is taken over several.
pub const TICK_BYTES_MAX: usize = 1024 * 1024;
/// The frames that a tick takes of all connections of one client key, and the backlogs of all that it goes on with, in turns.
pub const KEY_TICK_FRAMES_MAX: usize = 16 * TICK_FRAMES_MAX;
/// See there.
pub const TICK_BACKLOGS_MAX: usize = 16;
/// What a tick that has taken [`TICK_FRAMES_MAX`] frames of one connection costs its key or link. So 64,000 frames a second are taken
/// in at most, which is more than a replica sends, and takes a part of a core's time.
pub const BACKLOG_TIME: Nanoseconds = Nanoseconds::from_millis(4);
/// What each byte costs it then: 119 MiB a second are more than a replica sends, too.
pub const BACKLOG_BYTE_TIME: Nanoseconds = Nanoseconds(8);
/// By how much it may be ahead with that: whoever has not been heard for some 20 ms is taken in at once.
pub const BACKLOG_BURST: Nanoseconds = Nanoseconds::from_millis(16);
/// The requests for reports that one connection of a client may have open.
pub const REPORTS_OPEN_MAX: usize = 16;
/// The questions for certificates and pages of states that one connection of a client may have open: an answer is long, and the
/// execution core copies it.
pub const QUESTIONS_OPEN_MAX: usize = 1;
/// The same for all connections of one client key to one core.
pub const KEY_QUESTIONS_MAX: usize = 4;
/// What may wait for one connection of a client. One that does not read its replies is disconnected; they are kept in the state.
pub const CLIENT_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a connection of a client may cost that is idle, whatever it has done before.
pub const CLIENT_IDLE_BYTES_MAX: usize = 64 * 1024;
/// The same for all connections of one client key to one core: what four of them may have. By the last count, which is made
/// anew when it has grown by a quarter.
pub const KEY_UNREAD_BYTES_MAX: usize = 4 * CLIENT_QUEUE_BYTES_MAX;
/// The same for all clients of one core.
pub const UNREAD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long a client may take nothing of what waits for it. That is seen by each send, of 128 KiB: 35 kbit/s suffice.
pub const UNREAD_TIME_MAX: Nanoseconds = Nanoseconds::from_millis(30_000);
/// The memory of frames that are not whole, of all connections of one client key to one core. A gateway is one key, and 32 of
/// its sessions may have the largest bundles on their way at once.
pub const KEY_HALF_SENT_BYTES_MAX: usize = 32 * BUNDLE_BYTES_MAX;
/// The same for all clients of one core.
pub const HALF_SENT_BYTES_MAX: usize = 4 * KEY_HALF_SENT_BYTES_MAX;
/// How long a client may take to send one frame, and for each byte of memory that it has come to: 4 KiB a second suffice.
pub const FRAME_TIME_MAX: Nanoseconds = Nanoseconds::from_millis(30_000);
/// The time for each byte.
pub const FRAME_BYTE_TIME: Nanoseconds = Nanoseconds(250_000);

const _: () = assert!(CLIENT_QUEUE_BYTES_MAX > 2 * RESULTS_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX + 4096 <= FRAME_BYTES_MAX);
const _: () = assert!(TICK_FRAMES_MAX > 2 * OPEN_BUNDLES_MAX);
const _: () = assert!(TICK_BYTES_MAX > BATCH_BYTES_FULL);
const _: () = assert!(FETCH_BYTES_MAX + RESULTS_BYTES_MAX + 64 * 1024 <= FRAME_BYTES_MAX);
const _: () = assert!(FETCH_BYTES_MAX + BATCH_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX as u64 <= CUT_BYTES_MAX);
const _: () = assert!(2 * CHECKPOINT_INTERVAL <= WINDOW);
const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX + 1024 <= BUNDLE_BYTES_MAX);
const _: () = assert!(LANE_BYTES_OPEN_MAX >= 2 * BATCH_BYTES_MAX);
const _: () = assert!(UNDURABLE_BYTES_MAX >= LANE_BYTES_HELD_MAX + LANE_BYTES_KEPT_MAX);
const _: () = assert!(REPLICAS_MAX <= 128);
const _: () = assert!(REPLY_BYTES_KEPT_MAX as u64 <= REPLY_BYTES_KEPT_PER_CLIENT_MAX);
const _: () = assert!(REPLY_BYTES_KEPT_PER_CLIENT_MAX <= REPLY_BYTES_KEPT_IN_ALL_MAX);
