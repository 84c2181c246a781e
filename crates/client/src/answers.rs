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
    cells: Vec<Answer>,
}

impl Answers {
    /// An empty table for `replicas` replicas.
    pub(crate) fn new(replicas: usize) -> Self {
        Self { replicas, cells: vec![Answer::default(); replicas * limits::OPEN_BUNDLES_MAX] }
    }

    fn row(&mut self, number: BundleNumber) -> &mut [Answer] {
        let window = limits::OPEN_BUNDLES_MAX as u64;
        let row = usize::try_from(number.0 % window).expect("invariant: below the window");
        &mut self.cells[row * self.replicas..][..self.replicas]
    }

    /// Forgets what was answered to the bundle that had this place before.
    pub(crate) fn clear(&mut self, number: BundleNumber) {
        self.row(number).fill(Answer::default());
    }

    /// Notes what `replica` says about bundle `number`; returns how many replicas say the same. A replica
    /// that does not exist is not counted.
    pub(crate) fn note(&mut self, number: BundleNumber, replica: ReplicaId, verdict: Verdict) -> usize {
        let row = self.row(number);
        if let Some(answer) = row.get_mut(replica.index()) {
            match verdict {
                Verdict::Results(seq, digest) => answer.results = Some((seq, digest)),
                Verdict::Gone(seq) => answer.gone = Some(seq),
            }
        }
        row.iter().filter(|answer| answer.says(verdict)).count()
    }
}
