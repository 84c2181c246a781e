//! Whether replicas hold the same state: roots are compared after the same header alone.

use crate::report::Answer;
use quorate_types::ReplicaId;
use std::collections::BTreeMap;

/// What the roots of all replicas say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// So many, all that were told of so many that answer, are equal after this header.
    Equal { count: usize, answering: usize, seq: u64 },
    /// These two differ after this header.
    Differ {
        first: ReplicaId,
        second: ReplicaId,
        seq: u64,
        /// All that are not with the most after their header.
        deviating: Vec<ReplicaId>,
    },
    /// No two differ, and not all are comparable: so many were told after the highest header.
    Unknown { count: usize, seq: u64 },
}

impl Roots {
    /// Compares the answers of all replicas, in the order of their ids.
    pub(crate) fn of(answers: &[Answer]) -> Self {
        let mut told: BTreeMap<u64, Vec<(ReplicaId, &str)>> = BTreeMap::new();
        for (index, report) in answers.iter().enumerate() {
            if let Ok(report) = report
                && let (Some(seq), Some(root)) = (report.root_seq, report.root.as_deref())
            {
                let id = ReplicaId(u8::try_from(index).unwrap_or(u8::MAX));
                told.entry(seq).or_default().push((id, root));
            }
        }
        for (seq, roots) in &told {
            let [(first, root), others @ ..] = roots.as_slice() else { continue };
            if let Some((second, _)) = others.iter().find(|(_, other)| other != root) {
                let (first, second, seq) = (*first, *second, *seq);
                return Self::Differ { first, second, seq, deviating: deviating(&told) };
            }
        }
        let count = told.values().map(Vec::len).sum::<usize>();
        match told.last_key_value() {
            Some((seq, roots)) if roots.len() == count && count > 1 => {
                Self::Equal { count, answering: answers.iter().flatten().count(), seq: *seq }
            }
            Some((seq, roots)) => Self::Unknown { count: roots.len(), seq: *seq },
            None => Self::Unknown { count: 0, seq: 0 },
        }
    }

    /// As JSON has it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Equal { .. } => "equal",
            Self::Differ { .. } => "different",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Two that differ, and after which header.
    pub(crate) fn difference(&self) -> Option<(ReplicaId, ReplicaId, u64)> {
        match self {
            Self::Differ { first, second, seq, .. } => Some((*first, *second, *seq)),
            _ => None,
        }
    }

    /// Whether a replica is not with the most.
    pub(crate) fn deviates(&self, replica: ReplicaId) -> bool {
        matches!(self, Self::Differ { deviating, .. } if deviating.contains(&replica))
    }

    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Equal { count, answering, seq } if count == answering => {
                format!("The roots of all {count} replicas that answer are equal at seq {seq}.")
            }
            Self::Equal { count, seq, .. } => {
                format!("The roots of the {count} replicas that tell theirs are equal at seq {seq}.")
            }
            Self::Differ { first, second, seq, .. } => format!(
                "The roots of replicas {first} and {second} DIFFER at seq {seq}: one of them is faulty. Keep their logs and \
                 compare with the others before anything is restarted."
            ),
            Self::Unknown { count: 0, .. } => "No replica told its root.".to_owned(),
            Self::Unknown { count: 1, seq } => {
                format!(
                    "Only one root was told at the highest seq, {seq}, so there is nothing to compare it with."
                )
            }
            Self::Unknown { count, seq } => format!(
                "Replicas were asked at different seqs, so not all roots are comparable; {count} are equal at seq {seq}, and no \
                 roots at the same seq differ."
            ),
        }
    }
}

/// Of those that told their root after the same header, the ones that are not with the most.
fn deviating(told: &BTreeMap<u64, Vec<(ReplicaId, &str)>>) -> Vec<ReplicaId> {
    let mut found = Vec::new();
    for roots in told.values() {
        let with = |root: &str| roots.iter().filter(|(_, other)| *other == root).count();
        let most = roots.iter().rev().max_by_key(|(_, root)| with(root)).map(|(_, root)| *root);
        found.extend(roots.iter().filter(|(_, root)| Some(*root) != most).map(|(id, _)| *id));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_telemetry::ReplicaReport;

    fn at(seq: u64, root: &str) -> Answer {
        let root = Some(root.to_owned());
        Ok(ReplicaReport { root, root_seq: Some(seq), ..ReplicaReport::default() })
    }

    fn none() -> Answer {
        Ok(ReplicaReport::default())
    }

    #[test]
    fn they_are_compared_at_the_same_seq_alone() {
        let equal = Roots::of(&[at(5, "a"), at(5, "a"), none()]);
        assert_eq!(equal, Roots::Equal { count: 2, answering: 3, seq: 5 });
        assert!(equal.sentence().starts_with("The roots of the 2 replicas that tell"), "{equal:?}");
        let unknown = Roots::of(&[at(5, "a"), at(6, "b")]);
        assert_eq!((unknown.name(), unknown.deviates(ReplicaId(1))), ("unknown", false));
        assert!(unknown.sentence().starts_with("Only one root"), "{}", unknown.sentence());
        assert_eq!(Roots::of(&[none(), none()]).sentence(), "No replica told its root.");
        let later = Roots::of(&[at(5, "a"), at(6, "b"), at(6, "b")]).sentence();
        assert!(later.contains("2 are equal at seq 6"), "{later}");
    }

    #[test]
    fn who_differs_is_named_and_who_is_not_with_the_most_deviates() {
        let different = Roots::of(&[at(5, "a"), at(6, "b"), at(5, "a"), at(5, "c")]);
        assert_eq!(different.difference(), Some((ReplicaId(0), ReplicaId(3), 5)));
        assert!(different.sentence().contains("replicas 0 and 3 DIFFER at seq 5"), "{different:?}");
        let deviates = |roots: &Roots| -> Vec<u8> {
            (0..4).filter(|replica| roots.deviates(ReplicaId(*replica))).collect()
        };
        assert_eq!(deviates(&different), [3]);
        assert_eq!(deviates(&Roots::of(&[at(5, "c"), at(5, "a"), at(5, "a")])), [0]);
        // Half and half: as many are faulty, whoever they are.
        assert_eq!(deviates(&Roots::of(&[at(5, "a"), at(5, "a"), at(5, "b"), at(5, "b")])).len(), 2);
    }
}
