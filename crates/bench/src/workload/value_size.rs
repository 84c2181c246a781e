//! How long the values are that a workload writes.

use anyhow::{Context, ensure};
use quorate_types::ByteCount;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One length, or a range of which all are equally likely, as in `64..1024`; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ValueSize {
    /// The shortest, in bytes.
    pub least: usize,
    /// The longest, in bytes.
    pub most: usize,
}

impl ValueSize {
    /// A length from a 16-bit random number.
    pub(crate) fn pick(self, random: u16) -> usize {
        let choices = self.most - self.least + 1;
        self.least + ((usize::from(random) * choices) >> 16)
    }
}

impl FromStr for ValueSize {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parse = |part: &str| -> anyhow::Result<usize> {
            let ByteCount(bytes) = part.trim().parse()?;
            usize::try_from(bytes).with_context(|| format!("`{part}` is more than there is memory"))
        };
        let (least, most) = match text.split_once("..") {
            Some((least, most)) => (parse(least)?, parse(most)?),
            None => (parse(text)?, parse(text)?),
        };
        ensure!(least <= most, "`{text}`: the first number must not be above the second");
        Ok(Self { least, most })
    }
}

impl fmt::Display for ValueSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.least == self.most {
            write!(f, "{}", self.least)
        } else {
            write!(f, "{}..{}", self.least, self.most)
        }
    }
}

impl TryFrom<String> for ValueSize {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<ValueSize> for String {
    fn from(size: ValueSize) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_or_a_range_survives_its_text() {
        for (text, least, most) in
            [("100", 100, 100), ("64..1024", 64, 1024), ("0..0", 0, 0), ("1K..2 KiB", 1024, 2048)]
        {
            let size: ValueSize = text.parse().unwrap();
            assert_eq!(size, ValueSize { least, most });
            assert_eq!(size.to_string().parse::<ValueSize>().unwrap(), size);
        }
        for wrong in ["", "a", "-1", "5..4", "1..", "..2", "2 KB"] {
            assert!(wrong.parse::<ValueSize>().is_err(), "{wrong}");
        }
        let error = "2 KB".parse::<ValueSize>().unwrap_err().to_string();
        assert!(error.contains("`2 KB` is no number of bytes") && error.contains("512 MiB"), "{error}");
    }

    #[test]
    fn all_lengths_of_a_range_and_no_others_are_picked() {
        let size = ValueSize { least: 3, most: 6 };
        let picked: std::collections::BTreeSet<_> = (0..=u16::MAX).map(|random| size.pick(random)).collect();
        assert_eq!(picked.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        let wide = ValueSize { least: 0, most: 262_144 };
        assert!(wide.pick(u16::MAX) <= wide.most);
    }
}
