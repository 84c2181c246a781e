//! What each replica has answered to each open bundle.
//!
//! One table of fixed size, indexed by bundle number modulo the window, so nothing is allocated per bundle.

use quorate_types::{BundleNumber, Digest, ReplicaId, Seq, limits};

/// What replicas agree about: where the bundle was executed, and what came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The results have this digest.
    Results(Seq, Digest),
    /// The bundle was executed and its results are no longer kept.
    Gone(Seq),
}

/// Which of the bundles that were signed with one number an answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The bundle itself.
    Bundle,
    /// The empty one in its place.
    Void,
}

/// The latest answers of one replica to one bundle. An honest replica that first sent results may later say
/// that they are gone, and both stay true, so both are kept; each counts once.
#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    results: Option<(Seq, Digest)>,
    gone: Option<Seq>,
}

impl Answer {
    fn says(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Results(seq, digest) => self.results == Some((seq, digest)),
            Verdict::Gone(seq) => self.gone == Some(seq),
        }
    }
}

/// The answers to all open bundles.
#[derive(Debug)]
pub(crate) struct Answers {
    replicas: usize,
    /// The number of bundles that may be open.
    window: usize,
    /// To each bundle, and then to the one in its place.
    cells: Vec<[Answer; 2]>,
}

impl Answers {
    /// An empty table for `replicas` replicas.
    pub(crate) fn new(replicas: usize) -> Self {
        Self::of(replicas, limits::OPEN_BUNDLES_MAX)
    }

    /// An empty table of one bundle.
    pub(crate) fn of_one(replicas: usize) -> Self {
        Self::of(replicas, 1)
    }

    fn of(replicas: usize, window: usize) -> Self {
        Self { replicas, window, cells: vec![Default::default(); replicas * window] }
    }

    fn row(&mut self, number: BundleNumber) -> &mut [[Answer; 2]] {
        let row = usize::try_from(number.0 % self.window as u64).expect("invariant: below the window");
        &mut self.cells[row * self.replicas..][..self.replicas]
    }

    /// Forgets what was answered to the bundle that had this place before.
    pub(crate) fn clear(&mut self, number: BundleNumber) {
        self.row(number).fill(Default::default());
    }

    /// Notes what `replica` says about one of the bundles with this number; returns how many replicas say the same. A
    /// replica that does not exist is not counted.
    pub(crate) fn note(
        &mut self,
        number: BundleNumber,
        replica: ReplicaId,
        asked: Asked,
        verdict: Verdict,
    ) -> usize {
        let row = self.row(number);
        if let Some(answers) = row.get_mut(replica.index()) {
            let answer = &mut answers[asked as usize];
            match verdict {
                Verdict::Results(seq, digest) => answer.results = Some((seq, digest)),
                Verdict::Gone(seq) => answer.gone = Some(seq),
            }
        }
        row.iter().filter(|answers| answers[asked as usize].says(verdict)).count()
    }
}
