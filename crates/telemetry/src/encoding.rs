//! Histograms as text: base64 of HdrHistogram's V2 serialisation, compressed, as its logs contain it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::errors::SubtractionError;
use hdrhistogram::serialization::{DeserializeError, Deserializer, Serializer, V2DeflateSerializer};
use thiserror::Error;

/// Why a text is no histogram, or one histogram is no later state of another.
#[derive(Debug, Error)]
pub enum HistogramError {
    /// The text is not base64.
    #[error("a histogram that is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
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

/// Reads what [`encode`] or another implementation of HdrHistogram has written.
pub fn decode(text: &str) -> Result<Histogram<u64>, HistogramError> {
    let bytes = BASE64_STANDARD.decode(text)?;
    Ok(Deserializer::new().deserialize(&mut bytes.as_slice())?)
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

    #[test]
    fn what_is_no_histogram_or_no_later_one_is_named() {
        assert!(matches!(decode("%"), Err(HistogramError::Base64(_))));
        assert!(matches!(decode("AAAA"), Err(HistogramError::Malformed(_))));
        let whole = encode(&histogram(0..1000));
        assert!(matches!(decode(&whole[..whole.len() / 8 * 4]), Err(HistogramError::Malformed(_))));
        let error = difference(&histogram([1]), &histogram([1, 2])).unwrap_err();
        assert!(error.to_string().contains("restarted"), "{error}");
    }
}
