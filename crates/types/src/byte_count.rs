//! Numbers of bytes as people write and read them.

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The units, each 1024 times the one before. Units of 1000 are none of them: whoever writes `GB` may mean either.
const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];

/// A number of bytes. As text it is digits with a unit or without one: `1048576`, `512 MiB`, `2G`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

/// A text that is no number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no number of bytes below 2^63; write it as 1048576, 512 MiB or 2G, where K, M, G and T are powers of 1024"
)]
pub struct NoByteCount(String);

impl FromStr for ByteCount {
    type Err = NoByteCount;

    fn from_str(text: &str) -> Result<Self, NoByteCount> {
        let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let (number, unit) = (&text[..digits], text[digits..].trim());
        let count = || {
            let number: u64 = number.parse().ok()?;
            let is_named = |name: &&str| {
                unit.eq_ignore_ascii_case(name)
                    || unit.eq_ignore_ascii_case(name.get(..1).unwrap_or_default())
            };
            let power = match unit {
                "" | "B" | "bytes" => 0,
                _ => UNITS.iter().position(is_named)? + 1,
            };
            // TOML's numbers end there.
            number.checked_mul(1 << (10 * power)).filter(|count| i64::try_from(*count).is_ok())
        };
        count().map(Self).ok_or_else(|| NoByteCount(text.to_owned()))
    }
}

impl fmt::Display for ByteCount {
    /// With the largest unit that leaves no rest, so that nothing is lost.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut number, mut unit) = (self.0, "bytes");
        for larger in UNITS {
            if number == 0 || !number.is_multiple_of(1024) {
                break;
            }
            (number, unit) = (number / 1024, larger);
        }
        write!(f, "{number} {unit}")
    }
}

impl Serialize for ByteCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText)
    }
}

struct NumberOrText;

impl Visitor<'_> for NumberOrText {
    type Value = ByteCount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, as 1048576, \"512 MiB\" or \"2G\"")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteCount, E> {
        Ok(ByteCount(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteCount, E> {
        let count = u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
        Ok(ByteCount(count))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteCount, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024_and_a_count_survives_its_text() {
        for (text, count, shown) in [
            ("0", 0, "0 bytes"),
            ("1000", 1000, "1000 bytes"),
            ("64K", 64 << 10, "64 KiB"),
            ("512 MiB", 512 << 20, "512 MiB"),
            ("512m", 512 << 20, "512 MiB"),
            ("2G", 2 << 30, "2 GiB"),
            ("1536 MiB", 1536 << 20, "1536 MiB"),
            ("3 TiB", 3 << 40, "3 TiB"),
            ("2048T", 2048 << 40, "2048 TiB"),
            ("17 bytes", 17, "17 bytes"),
        ] {
            let found: ByteCount = text.parse().unwrap();
            assert_eq!((found, found.to_string().as_str()), (ByteCount(count), shown), "{text}");
            assert_eq!(found.to_string().parse(), Ok(found));
        }
    }

    #[test]
    fn what_is_no_count_or_may_mean_two_is_refused_with_the_remedy() {
        for text in
            ["", "G", "2 GB", "2kB", "-1", "1.5G", "2 G B", "0x10", "8388608T", "18446744073709551615", "2Gé"]
        {
            let error = text.parse::<ByteCount>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("512 MiB"), "{error}");
        }
    }

    #[test]
    fn a_file_may_give_a_number_or_a_text() {
        #[derive(Deserialize, Serialize)]
        struct File {
            size: ByteCount,
        }
        let read = |text: &str| toml::from_str::<File>(text).map(|file| file.size);
        assert_eq!(read("size = 1024").unwrap(), ByteCount(1024));
        assert_eq!(read("size = \"2G\"").unwrap(), ByteCount(2 << 30));
        for (wrong, named) in [("size = -1", "-1"), ("size = \"2 GB\"", "`2 GB`"), ("size = true", "true")] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("2G"), "{error}");
        }
        let text = toml::to_string(&File { size: ByteCount(77) }).unwrap();
        assert_eq!(read(&text).unwrap(), ByteCount(77));
    }
}
