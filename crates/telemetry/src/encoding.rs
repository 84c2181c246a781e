//! Histograms as text: base64 of HdrHistogram's V2 serialisation, compressed, as its logs contain it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::errors::SubtractionError;
use hdrhistogram::serialization::{DeserializeError, Deserializer, Serializer, V2DeflateSerializer};
use std::io::Read;
use thiserror::Error;

/// How the second version of the serialisation begins, compressed and not.
const COMPRESSED_COOKIE: [u8; 4] = 0x1c84_9314_u32.to_be_bytes();
const PLAIN_COOKIE: [u8; 4] = 0x1c84_9313_u32.to_be_bytes();
/// The bytes before the compressed ones: the cookie and their number.
const COMPRESSED_HEAD_BYTES: usize = 8;
/// The bytes before the counts, and where among them their number stands.
const HEAD_BYTES: usize = 40;
const COUNTS_BYTES_AT: usize = 4;
/// What a histogram may take uncompressed: more than any with three digits over 64 bits.
const BYTES_MAX: u64 = 1024 * 1024;

/// Why a text is no histogram, or one histogram is no later state of another.
#[derive(Debug, Error)]
pub enum HistogramError {
    /// The text is not base64.
    #[error("a histogram that is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// The bytes are not one compressed histogram of a sane length.
    #[error("a histogram that is cut off, too long or not compressed")]
    Length,
    /// The bytes cannot be uncompressed.
    #[error("a histogram that cannot be uncompressed: {0}")]
    Compression(#[from] std::io::Error),
    /// The bytes are not a histogram.
    #[error("a histogram that is malformed: {0}")]
    Malformed(#[from] DeserializeError),
    /// The later histogram lacks what the earlier one has: whoever recorded them has started anew in between.
    #[error("a histogram that has lost values since the one before: {0}; was the process restarted?")]
    Shrunk(#[from] SubtractionError),
}

/// The histogram as text. Allocates; not for the path of a request.
///
/// # Panics
/// With 2⁶³ or more values in one bucket.
#[must_use]
pub fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    written.expect("invariant: writing to memory does not fail, and no bucket has 2^63 values");
    BASE64_STANDARD.encode(bytes)
}

/// Reads what [`encode`] or another implementation of HdrHistogram has written, up to 1 MiB uncompressed. The text
/// may come from a replica that lies: the library would allocate whatever length it is told, so that is checked first.
pub fn decode(text: &str) -> Result<Histogram<u64>, HistogramError> {
    let bytes = BASE64_STANDARD.decode(text)?;
    let Some(compressed) = bytes.strip_prefix(&COMPRESSED_COOKIE).and(bytes.get(COMPRESSED_HEAD_BYTES..))
    else {
        return Err(HistogramError::Length);
    };
    let mut plain = Vec::new();
    ZlibDecoder::new(compressed).take(BYTES_MAX).read_to_end(&mut plain)?;
    let said =
        plain.get(COUNTS_BYTES_AT..).and_then(|rest| rest.first_chunk()).copied().map(u32::from_be_bytes);
    let there = plain.len().checked_sub(HEAD_BYTES).and_then(|length| u32::try_from(length).ok());
    if !plain.starts_with(&PLAIN_COOKIE) || said != there {
        return Err(HistogramError::Length);
    }
    Ok(Deserializer::new().deserialize(&mut plain.as_slice())?)
}

/// What was recorded between two states of one growing histogram.
pub fn difference(after: &Histogram<u64>, before: &Histogram<u64>) -> Result<Histogram<u64>, HistogramError> {
    let mut recorded = after.clone();
    recorded.subtract(before)?;
    Ok(recorded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000_000, 2).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        histogram
    }

    #[test]
    fn a_histogram_survives_its_text() {
        for values in [0..0, 7..8, 0..100_000] {
            let histogram = histogram(values);
            let read = decode(&encode(&histogram)).unwrap();
            assert_eq!(read, histogram);
            assert_eq!(read.value_at_quantile(0.99), histogram.value_at_quantile(0.99));
        }
    }

    #[test]
    fn a_difference_has_what_was_recorded_in_between() {
        let (before, after) = (histogram(0..1000), histogram((0..1000).chain([5_000_000, 7])));
        let recorded = difference(&after, &before).unwrap();
        assert_eq!(recorded.len(), 2);
        assert_eq!((recorded.min(), recorded.max()), (7, after.max()));
        assert!(difference(&after, &after).unwrap().is_empty());
    }

    /// A compressed text of any bytes.
    fn compressed(plain: &[u8]) -> String {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        let body = encoder.finish().unwrap();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        BASE64_STANDARD.encode([&COMPRESSED_COOKIE[..], &length, &body].concat())
    }

    #[test]
    fn lengths_are_checked_before_memory_is_taken() {
        let mut plain = Vec::new();
        hdrhistogram::serialization::V2Serializer::new().serialize(&histogram([5]), &mut plain).unwrap();
        assert_eq!(decode(&compressed(&plain)).unwrap(), histogram([5]));
        let mut liar = plain.clone();
        liar[COUNTS_BYTES_AT..COUNTS_BYTES_AT + 4].copy_from_slice(&[0xff; 4]);
        let bomb = vec![0; 64 * 1024 * 1024];
        for bytes in [&liar[..], &bomb, &plain[..HEAD_BYTES - 1], &plain[..3], &[]] {
            assert!(matches!(decode(&compressed(bytes)), Err(HistogramError::Length)), "{}", bytes.len());
        }
        let mut wide = plain.clone();
        wide[12..16].copy_from_slice(&9u32.to_be_bytes());
        assert!(matches!(decode(&compressed(&wide)), Err(HistogramError::Malformed(_))));
    }

    #[test]
    fn what_is_no_histogram_or_no_later_one_is_named() {
        assert!(matches!(decode("%"), Err(HistogramError::Base64(_))));
        assert!(matches!(decode("AAAA"), Err(HistogramError::Length)));
        let whole = encode(&histogram(0..1000));
        assert!(matches!(decode(&whole[..whole.len() / 8 * 4]), Err(HistogramError::Compression(_))));
        let error = difference(&histogram([1]), &histogram([1, 2])).unwrap_err();
        assert!(error.to_string().contains("restarted"), "{error}");
    }
}
