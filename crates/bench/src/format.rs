//! Numbers for people.

/// A number with a comma between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive and far below 2^64; the cast saturates"
)]
pub(crate) fn grouped_f64(number: f64) -> String {
    grouped(number.round() as u64)
}

/// Three significant digits, without an exponent.
pub(crate) fn short(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 => grouped_f64(number),
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 1.0 => format!("{number:.2}"),
        size if size >= 0.1 => format!("{number:.3}"),
        _ => format!("{number:.4}"),
    }
}

/// Microseconds in the unit that reads best.
pub(crate) fn duration(microseconds: f64) -> String {
    match microseconds {
        time if time >= 1e6 => format!("{} s", short(time / 1e6)),
        time if time >= 1000.0 => milliseconds(time),
        time => format!("{} µs", short(time)),
    }
}

/// The same without digits that say nothing, for the marks of an axis.
pub(crate) fn round_duration(microseconds: f64) -> String {
    let (number, unit) = match microseconds {
        time if time >= 1e6 => (time / 1e6, "s"),
        time if time >= 1000.0 => (time / 1000.0, "ms"),
        time => (time, "µs"),
    };
    format!("{} {unit}", trimmed(number))
}

/// At most three digits behind the point.
pub(crate) fn trimmed(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Microseconds as milliseconds.
pub(crate) fn milliseconds(microseconds: f64) -> String {
    format!("{} ms", short(microseconds / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(grouped_f64(12_345.6), "12,346");
    }

    #[test]
    fn three_digits_are_enough() {
        let numbers = [0.0, 0.00123, 0.123_45, 1.234_5, 12.345, 123.45, 12_345.0];
        assert_eq!(numbers.map(short), ["0", "0.0012", "0.123", "1.23", "12.3", "123", "12,345"]);
    }

    #[test]
    fn times_have_the_unit_that_reads_best() {
        let times = [0.5, 250.0, 1500.0, 2_500_000.0];
        assert_eq!(times.map(duration), ["0.500 µs", "250 µs", "1.50 ms", "2.50 s"]);
        assert_eq!(times.map(round_duration), ["0.5 µs", "250 µs", "1.5 ms", "2.5 s"]);
    }
}
