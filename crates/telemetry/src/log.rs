//! Files that others read: HdrHistogram logs (`.hlog`) and percentile distributions (`.hgrm`).

use crate::{Measure, encode};
use hdrhistogram::Histogram;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Steps between two halvings of what is above, as the other implementations of HdrHistogram print them.
const STEPS_PER_HALF_DISTANCE: u32 = 5;
/// What a reader of a replica's log should know; goes into its head.
pub const LOG_COMMENTS: [&str; 2] = [
    "Histograms of times are in nanoseconds, those of other things in what their tags say",
    "Interval_Max of times is in milliseconds",
];
const BASE_TIME: &str = "#[BaseTime: ";

/// The name of a replica's log.
#[must_use]
pub fn log_name(replica: u8) -> String {
    format!("replica-{replica}.hlog")
}

/// The name of the file with the percentiles of one measure of a replica.
#[must_use]
pub fn percentiles_name(replica: u8, measure: Measure) -> String {
    format!("replica-{replica}-{}.hgrm", measure.name())
}

/// Writes an HdrHistogram log, format version 1.3: intervals with tags, values in nanoseconds or whatever the
/// caller has recorded.
#[derive(Debug)]
pub struct HistogramLog<W> {
    out: W,
    base: SystemTime,
}

impl<W: Write> HistogramLog<W> {
    /// Begins a log whose times count from `base`; `comments` go first, a line each.
    pub fn start(mut out: W, base: SystemTime, comments: &[&str]) -> io::Result<Self> {
        for comment in comments {
            writeln!(out, "#[{comment}]")?;
        }
        let seconds = base.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        writeln!(out, "#[Histogram log format version 1.3]")?;
        writeln!(out, "#[StartTime: {seconds:.3} (seconds since epoch)]")?;
        writeln!(out, "{BASE_TIME}{seconds:.3} (seconds since epoch)]")?;
        writeln!(
            out,
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
        )?;
        Ok(Self { out, base })
    }

    /// Goes on with a log that was begun before; `base` is what [`base_time`] found in it.
    pub fn resume(out: W, base: SystemTime) -> Self {
        Self { out, base }
    }

    /// Writes what was recorded from `from` on for `length`. The greatest value is printed divided by `divisor`;
    /// the histogram itself stays as it is.
    ///
    /// # Panics
    /// When `tag` contains a comma, white space or a control character, which would break the line.
    pub fn write(
        &mut self,
        tag: &str,
        from: SystemTime,
        length: Duration,
        divisor: f64,
        histogram: &Histogram<u64>,
    ) -> io::Result<()> {
        let breaks = |letter: char| letter == ',' || letter.is_whitespace() || letter.is_control();
        assert!(!tag.is_empty() && !tag.contains(breaks), "a tag is one word: {tag:?}");
        let start = from.duration_since(self.base).unwrap_or_default().as_secs_f64();
        let (length, text) = (length.as_secs_f64(), encode(histogram));
        writeln!(self.out, "Tag={tag},{start:.3},{length:.3},{:.3},{text}", real(histogram.max()) / divisor)
    }
}

/// The time from which a log's times count, out of its first lines.
#[must_use]
pub fn base_time(log: &str) -> Option<SystemTime> {
    let line = log.lines().find_map(|line| line.strip_prefix(BASE_TIME))?;
    let seconds: f64 = line.split(' ').next()?.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// Writes the percentiles of a histogram in the form that HdrHistogram's plotting tools read, values divided by
/// `divisor`.
pub fn percentiles(histogram: &Histogram<u64>, divisor: f64, mut out: impl Write) -> io::Result<()> {
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut count = 0;
    for step in histogram.iter_quantiles(STEPS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let (value, quantile) = (real(step.value_iterated_to()) / divisor, step.quantile_iterated_to());
        write!(out, "{value:12.3} {quantile:2.12} {count:10}")?;
        match quantile < 1.0 {
            true => writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))?,
            false => writeln!(out)?,
        }
    }
    let (mean, deviation) = (histogram.mean() / divisor, histogram.stdev() / divisor);
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    let max = real(histogram.max()) / divisor;
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {:12}]", histogram.len())?;
    let sub_buckets = (2 * 10u64.pow(u32::from(histogram.sigfig()))).next_power_of_two();
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {sub_buckets:12}]", histogram.buckets())
}

#[allow(clippy::cast_precision_loss, reason = "printed with few digits")]
fn real(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;
    use expect_test::expect;

    fn histogram() -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000_000, 2).unwrap();
        (1..=1000).for_each(|value| histogram.record(value * 1_000_000 / 10).unwrap());
        histogram
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_log_has_a_legend_and_its_intervals_give_the_histograms_back() {
        let base = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let log = text(|out| {
            let mut log = HistogramLog::start(out, base, &["replica 0", "ms"]).unwrap();
            let second = Duration::from_secs(1);
            log.write("sealed", base + second, second, 1e6, &histogram()).unwrap();
        });
        let (head, line) = log.trim_end().rsplit_once('\n').unwrap();
        expect![[r##"
            #[replica 0]
            #[ms]
            #[Histogram log format version 1.3]
            #[StartTime: 1700000000.250 (seconds since epoch)]
            #[BaseTime: 1700000000.250 (seconds since epoch)]
            "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""##]]
        .assert_eq(head);
        let payload = line.strip_prefix("Tag=sealed,1.000,1.000,100.139,").expect(line);
        assert_eq!(decode(payload).unwrap(), histogram());
        assert_eq!(base_time(&log), Some(base));
        assert_eq!(base_time("1 2 3"), None);
    }

    #[test]
    fn percentiles_are_in_the_classic_form() {
        let text = text(|out| percentiles(&histogram(), 1e6, out).unwrap());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[2], "       0.100 0.000000000000          1           1.00");
        assert!(lines.iter().any(|line| line.contains(" 0.500000000000        50")), "{text}");
        assert!(lines[lines.len() - 4].ends_with(" 1.000000000000       1000"), "{text}");
        expect![[r#"
            #[Mean    =       50.050, StdDeviation   =       28.868]
            #[Max     =      100.139, Total count    =         1000]
            #[Buckets =           23, SubBuckets     =          256]"#]]
        .assert_eq(&lines[lines.len() - 3..].join("\n"));
    }

    #[test]
    fn an_empty_histogram_has_a_footer_alone() {
        let empty = Histogram::new_with_bounds(1, 1000, 2).unwrap();
        let text = text(|out| percentiles(&empty, 1.0, out).unwrap());
        assert!(text.contains("Total count    =            0"), "{text}");
    }

    #[test]
    #[should_panic(expected = "a tag is one word")]
    fn a_tag_that_would_break_the_line_is_refused() {
        let mut log = HistogramLog::resume(Vec::new(), UNIX_EPOCH);
        let _ = log.write("a,b", UNIX_EPOCH, Duration::ZERO, 1.0, &histogram());
    }
}
