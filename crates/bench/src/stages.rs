//! Where the time of a bundle goes inside the replicas, from the histograms that they report.

use crate::control::Answer;
use crate::cost::pairs;
use hdrhistogram::Histogram;
use quorate_telemetry::{HistogramError, Measure, decode, difference};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One stage of bundles, over all replicas that reported; each bundle counts at its home.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageFigures {
    /// The name of the stage.
    pub name: String,
    /// How many bundles passed it.
    pub bundles: u64,
    /// The average time.
    pub mean_us: f64,
    /// Half of the bundles were faster.
    pub p50_us: f64,
    /// Nine in ten were faster.
    pub p90_us: f64,
    /// All but one in 100 were faster.
    pub p99_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// The stages between two series of reports, in the order in which a bundle passes them.
pub(crate) fn between(start: &[Answer], end: &[Answer]) -> Result<Vec<StageFigures>, HistogramError> {
    let mut merged: BTreeMap<&str, Histogram<u64>> = BTreeMap::new();
    for (before, after) in pairs(start, end) {
        let restarted = after.costs.restarted_since(&before.costs);
        for (name, text) in &after.stages {
            let mut recorded = decode(text)?;
            if let Some(earlier) = before.stages.get(name).filter(|_| !restarted) {
                recorded = difference(&recorded, &decode(earlier)?)?;
            }
            match merged.get_mut(name.as_str()) {
                Some(sum) => sum.add(&recorded).expect("invariant: decoded histograms grow as they need"),
                None => {
                    recorded.auto(true);
                    merged.insert(name, recorded);
                }
            }
        }
    }
    let position = |name: &str| Measure::STAGES.iter().position(|stage| stage.name() == name);
    let mut stages: Vec<_> = merged.into_iter().collect();
    stages.sort_by_key(|(name, _)| position(name).unwrap_or(usize::MAX));
    Ok(stages.into_iter().map(|(name, histogram)| figures(name, &histogram)).collect())
}

fn figures(name: &str, histogram: &Histogram<u64>) -> StageFigures {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    StageFigures {
        name: name.to_owned(),
        bundles: histogram.len(),
        mean_us: histogram.mean() / 1000.0,
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        max_us: at(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::NoAnswer;
    use quorate_telemetry::{Costs, ReplicaReport, encode};
    use quorate_types::ReplicaId;

    fn report(replica: u8, started_ns: u64, stages: &[(&str, &[u64])]) -> Answer {
        let stages = stages.iter().map(|(name, values)| {
            let mut histogram = Histogram::new_with_bounds(1, 1 << 37, 2).unwrap();
            values.iter().for_each(|value| histogram.record(*value).unwrap());
            ((*name).to_owned(), encode(&histogram))
        });
        let costs = Costs { started_ns, ..Costs::default() };
        Ok(ReplicaReport { replica, stages: stages.collect(), costs, ..ReplicaReport::default() })
    }

    #[test]
    fn stages_come_in_their_order_with_what_was_recorded_in_between() {
        let start = [report(0, 1, &[("sealed", &[1000])]), report(1, 1, &[])];
        let end = [
            report(0, 1, &[("sealed", &[1000, 5000, 5000]), ("admitted", &[100, 200])]),
            report(1, 1, &[("sealed", &[7000]), ("admitted", &[])]),
            Err(NoAnswer::Silent(ReplicaId(2))),
        ];
        let stages = between(&start, &end).unwrap();
        let found: Vec<_> = stages.iter().map(|stage| (stage.name.as_str(), stage.bundles)).collect();
        assert_eq!(found, [("admitted", 2), ("sealed", 3)]);
        assert!((stages[1].max_us - 7.0).abs() < 0.1 && (stages[1].p50_us - 5.0).abs() < 0.1, "{stages:?}");
    }

    /// However long it has run since then, and whatever it did meanwhile.
    #[test]
    fn a_replica_that_started_anew_counts_from_zero() {
        let start = [report(0, 5, &[("sealed", &[1000, 1000, 1000])])];
        for times in [&[2000][..], &[2000; 1000], &[1000; 4]] {
            let end = [report(0, 9, &[("sealed", times)])];
            assert_eq!(between(&start, &end).unwrap()[0].bundles, times.len() as u64);
        }
        assert!(between(&[], &start).unwrap().is_empty());
    }
}
