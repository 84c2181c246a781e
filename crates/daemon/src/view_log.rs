//! What the log says of views.

use quorate_types::{ClusterConfig, ReplicaId, View};
use quorate_wire::SuspectReason;
use std::collections::BTreeMap;
use std::fmt::Write;

/// That a view begins.
pub(crate) fn entered(
    config: &ClusterConfig,
    view: View,
    from: View,
    why: &[(ReplicaId, SuspectReason)],
) -> String {
    let (primary, before) = (config.primary(view), config.primary(from));
    format!(
        "view {view} begins with primary {primary}; view {from} with primary {before} was left: {}",
        reasons(why)
    )
}

/// That a view is given up and another one waited for.
pub(crate) fn left(
    config: &ClusterConfig,
    view: View,
    target: View,
    why: &[(ReplicaId, SuspectReason)],
) -> String {
    let (primary, next) = (config.primary(view), config.primary(target));
    format!(
        "view {view} with primary {primary} is left for view {target} with primary {next}: {}",
        reasons(why)
    )
}

fn reasons(why: &[(ReplicaId, SuspectReason)]) -> String {
    let mut by_reason: BTreeMap<u8, (SuspectReason, String)> = BTreeMap::new();
    for (replica, reason) in why {
        let (_, replicas) = by_reason.entry(*reason as u8).or_insert((*reason, String::new()));
        let comma = if replicas.is_empty() { "" } else { ", " };
        let _ = write!(replicas, "{comma}{replica}");
    }
    let said = by_reason.into_values().map(|(reason, replicas)| format!("{reason} (replicas {replicas})"));
    match said.collect::<Vec<_>>() {
        said if said.is_empty() => "others have done so, and have not said why here".to_owned(),
        said => said.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_wire::testing;

    #[test]
    fn who_has_left_a_view_and_why_is_said_with_both_views_and_primaries() {
        let config = testing::config(4);
        let why = [
            (ReplicaId(1), SuspectReason::Joined),
            (ReplicaId(2), SuspectReason::Uncommitted),
            (ReplicaId(3), SuspectReason::Uncommitted),
        ];
        assert_eq!(
            entered(&config, View(2), View(1), &why),
            "view 2 begins with primary 2; view 1 with primary 1 was left: a header stays uncommitted (replicas 2, 3); \
             so many others want it, or its primary is proven at fault (replicas 1)"
        );
        let text = left(&config, View(4), View(5), &[]);
        assert!(
            text.starts_with("view 4 with primary 0 is left for view 5 with primary 1: others"),
            "{text}"
        );
    }
}
