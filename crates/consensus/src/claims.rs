//! Who wants which view (DESIGN section 4, view change 2).
//!
//! A SUSPECT of view w claims view w+1. A VIEW-CHANGE carries its sender's own SUSPECT and those that made it move,
//! so wishes alone are counted, and whoever follows can show why.

use quorate_types::{ReplicaId, Seq, View, nth_highest};
use quorate_wire::SuspectReason;
use quorate_wire::message::{PrePrepare, Suspect};

/// The highest wish of each replica, this one included, and proof against the primary of the present view.
#[derive(Debug)]
pub(crate) struct ViewClaims {
    suspects: Vec<Option<Suspect>>,
    /// Two proposals of one primary for one slot of one view.
    evidence: Option<Box<[PrePrepare; 2]>>,
}

/// Where the claims lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// What f+1 replicas claim, or the present view.
    pub(crate) claimed: View,
    /// That, or higher: views whose own primary wants no part of them, or is proven to be at fault, are passed over.
    pub(crate) view: View,
}

impl ViewClaims {
    pub(crate) fn new(replicas: usize) -> Self {
        Self { suspects: vec![None; replicas], evidence: None }
    }

    fn suspects(&self) -> impl Iterator<Item = (ReplicaId, &Suspect)> {
        let all = (0u8..).map(ReplicaId).zip(&self.suspects);
        all.filter_map(|(replica, suspect)| Some((replica, suspect.as_ref()?)))
    }

    pub(crate) fn suspect(&self, replica: ReplicaId) -> Option<&Suspect> {
        self.suspects.get(replica.index())?.as_ref()
    }

    /// The view that a replica claims; view 0 is everybody's.
    pub(crate) fn claim(&self, replica: ReplicaId) -> View {
        self.suspect(replica).map_or(View(0), |suspect| suspect.view.next())
    }

    /// Whether a wish is higher than what its signer wished before.
    pub(crate) fn is_news(&self, signer: ReplicaId, suspect: &Suspect) -> bool {
        signer.index() < self.suspects.len()
            && self.suspect(signer).is_none_or(|known| known.view < suspect.view)
    }

    /// Takes a wish whose signature was checked.
    pub(crate) fn note(&mut self, signer: ReplicaId, suspect: Suspect) {
        if self.is_news(signer, &suspect) {
            self.suspects[signer.index()] = Some(suspect);
        }
    }

    /// The number of replicas that claim `view` or a higher one.
    pub(crate) fn count(&self, view: View) -> usize {
        self.suspects().filter(|(_, suspect)| suspect.view.next() >= view).count()
    }

    /// Who wishes to leave `view` or a later one, and why.
    pub(crate) fn why_left(&self, view: View) -> Vec<(ReplicaId, SuspectReason)> {
        let late = self.suspects().filter(|(_, suspect)| suspect.view >= view);
        late.map(|(replica, suspect)| (replica, suspect.reason)).collect()
    }

    /// Proof against the primary of `view`, if there is some.
    pub(crate) fn evidence(&self, view: View) -> Option<&[PrePrepare; 2]> {
        self.evidence.as_deref().filter(|[first, _]| first.view == view)
    }

    /// Takes two proposals, signed by one primary for one slot. The caller sees to it that their view is the present
    /// one: proof against the primaries of views to come would let one liar drive all the others on for ever.
    pub(crate) fn convict(&mut self, first: PrePrepare, second: PrePrepare) {
        assert!(contradict(&first, &second), "evidence was checked");
        self.evidence = Some(Box::new([first, second]));
    }

    /// The view to go to from `present`: the (f+1)-th highest claim, so that one of those who claim at least so much
    /// is honest; and on from there while the primary of that view itself wants another, or is proven at fault.
    pub(crate) fn target(&self, present: View, weak: usize, primary: impl Fn(View) -> ReplicaId) -> Target {
        let claims = self.suspects().map(|(_, suspect)| suspect.view.next());
        let claimed = nth_highest(claims, weak).max(present);
        let mut view = claimed;
        while self.claim(primary(view)) > view || self.evidence(view).is_some() {
            view = view.next();
        }
        Target { claimed, view }
    }

    /// The wishes that lead to `target`, signers ascending: the f+1 highest, and those of the primaries that were
    /// passed over. `me` is among them, having wished the same.
    pub(crate) fn reasons(
        &self,
        target: Target,
        weak: usize,
        me: ReplicaId,
        primary: impl Fn(View) -> ReplicaId,
    ) -> Vec<(ReplicaId, Suspect)> {
        let mut highest: Vec<(View, ReplicaId)> =
            self.suspects().map(|(replica, suspect)| (suspect.view, replica)).collect();
        highest.sort_unstable_by(|left, right| right.cmp(left));
        let mut named: Vec<ReplicaId> = highest.into_iter().take(weak).map(|(_, replica)| replica).collect();
        named.push(me);
        let mut passed = target.claimed;
        while passed < target.view {
            named.push(primary(passed));
            passed = passed.next();
        }
        named.sort_unstable();
        named.dedup();
        named.into_iter().filter_map(|replica| Some((replica, self.suspect(replica)?.clone()))).collect()
    }
}

/// Whether two proposals name different headers for one slot of one view.
pub(crate) fn contradict(first: &PrePrepare, second: &PrePrepare) -> bool {
    let slot = |proposal: &PrePrepare| -> (View, Seq) { (proposal.view, proposal.header.seq) };
    slot(first) == slot(second) && first.header.digest() != second.header.digest()
}
