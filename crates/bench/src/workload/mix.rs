//! Which kinds of operations a workload has, and in which shares.

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const WEIGHT_MAX: u32 = 1_000_000;
/// So many APPENDs to a key may come for each SET or DEL that makes its value short again. Then thousands
/// between two of those, which a value cannot take, practically never happen.
const APPENDS_PER_RESET_MAX: u64 = 10;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperationKind {
    /// Writes a value.
    Set,
    /// Reads a value.
    Get,
    /// Adds one to a counter; counters have keys of their own.
    Increment,
    /// Appends a few bytes to a value.
    Append,
    /// Removes a key.
    Delete,
    /// Reads a few keys in order.
    Scan,
}

impl OperationKind {
    pub(crate) const COUNT: usize = 6;
    pub(crate) const ALL: [Self; Self::COUNT] =
        [Self::Set, Self::Get, Self::Increment, Self::Append, Self::Delete, Self::Scan];

    fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Get => "get",
            Self::Increment => "incr",
            Self::Append => "append",
            Self::Delete => "del",
            Self::Scan => "scan",
        }
    }
}

/// The weight of each kind, as in `set=50,get=50`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mix {
    weights: [u32; OperationKind::COUNT],
}

impl Mix {
    /// The share of a kind, from 0 to 1.
    pub(crate) fn share(&self, kind: OperationKind) -> f64 {
        f64::from(self.weights[kind as usize]) / self.total() as f64
    }

    fn total(&self) -> u64 {
        self.weights.iter().copied().map(u64::from).sum()
    }

    /// Whether values stay short although some operations append to them.
    pub(crate) fn check_appends(&self) -> anyhow::Result<()> {
        let weight = |kind: OperationKind| u64::from(self.weights[kind as usize]);
        let resets = weight(OperationKind::Set) + weight(OperationKind::Delete);
        ensure!(
            weight(OperationKind::Append) <= APPENDS_PER_RESET_MAX * resets,
            "--mix {self}: values would grow without bound; use at least one `set` or `del` for \
             {APPENDS_PER_RESET_MAX} `append`"
        );
        Ok(())
    }

    /// The upper ends of the kinds' ranges when the numbers below 2^32 are shared out by weight.
    pub(crate) fn thresholds(&self) -> [u64; OperationKind::COUNT] {
        let total = self.total();
        let mut sum = 0;
        self.weights.map(|weight| {
            sum += u64::from(weight);
            (sum << 32) / total
        })
    }
}

impl Default for Mix {
    fn default() -> Self {
        Self { weights: [100, 0, 0, 0, 0, 0] }
    }
}

impl FromStr for Mix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut weights: [Option<u32>; OperationKind::COUNT] = [None; OperationKind::COUNT];
        for part in text.split(',') {
            let (name, weight) = part
                .split_once('=')
                .with_context(|| format!("`{part}` is no NAME=WEIGHT; use one as set=100"))?;
            let Some(kind) = OperationKind::ALL.into_iter().find(|kind| kind.name() == name.trim()) else {
                let names = OperationKind::ALL.map(OperationKind::name).join(", ");
                bail!("there is no kind `{name}`; use {names}");
            };
            let weight = weight.trim().parse::<u32>();
            let weight =
                weight.ok().with_context(|| format!("`{part}`: use a whole number as the weight"))?;
            ensure!(weight <= WEIGHT_MAX, "`{part}`: use weights up to {WEIGHT_MAX}");
            ensure!(weights[kind as usize].replace(weight).is_none(), "`{name}` is there twice");
        }
        let weights = weights.map(Option::unwrap_or_default);
        ensure!(weights.iter().any(|weight| *weight > 0), "give one kind a weight above 0");
        Ok(Self { weights })
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = OperationKind::ALL.into_iter().filter(|kind| self.weights[*kind as usize] > 0);
        let parts: Vec<_> =
            used.map(|kind| format!("{}={}", kind.name(), self.weights[kind as usize])).collect();
        f.write_str(&parts.join(","))
    }
}

impl TryFrom<String> for Mix {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<Mix> for String {
    fn from(mix: Mix) -> Self {
        mix.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_become_shares_and_ranges() {
        let mix: Mix = "get=25, set=50,scan=25,del=0".parse().unwrap();
        assert_eq!(mix.to_string(), "set=50,get=25,scan=25");
        assert!((mix.share(OperationKind::Set) - 0.5).abs() < 1e-12);
        let (half, most) = (1 << 31, 3 << 30);
        assert_eq!(mix.thresholds(), [half, most, most, most, most, 1 << 32]);
        let json = serde_json::to_string(&mix).unwrap();
        assert_eq!(json, "\"set=50,get=25,scan=25\"");
        assert_eq!(serde_json::from_str::<Mix>(&json).unwrap(), mix);
    }

    #[test]
    fn what_is_no_mix_is_refused_with_the_part_that_is_wrong() {
        let error = |text: &str| format!("{:#}", text.parse::<Mix>().unwrap_err());
        assert!(error("").contains("is no NAME=WEIGHT"));
        assert!(error("set").contains("`set` is no NAME=WEIGHT"));
        assert!(error("put=1").contains("there is no kind `put`; use set, get, incr, append, del, scan"));
        assert!(error("set=x").contains("`set=x`: use a whole number as the weight"));
        assert!(error("set=1,set=2").contains("twice"));
        assert!(error("set=0").contains("above 0"));
        assert!(error("set=1000001").contains("up to 1000000"));
    }

    #[test]
    fn appends_alone_would_make_values_grow_for_ever() {
        let check = |text: &str| text.parse::<Mix>().unwrap().check_appends();
        assert!(check("append=10,set=1").is_ok());
        assert!(check("append=20,set=1,del=1").is_ok());
        assert!(check("append=11,set=1").unwrap_err().to_string().contains("without bound"));
        assert!(check("append=1,get=5").is_err());
    }
}
