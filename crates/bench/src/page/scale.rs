//! Axes: where a value stands, and which values get a mark.

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// From zero, in equal steps.
    Linear,
    /// In equal steps per factor of ten; values are positive.
    Logarithmic,
    /// Quantiles, in equal steps per factor of ten of what is above: 0.9, 0.99, 0.999 …
    Quantile,
}

/// One axis with its ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Axis {
    /// An axis that holds all the values.
    pub(crate) fn around(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let placed = values.filter(|value| value.is_finite()).map(|value| place(scale, value));
        let (low, high) = placed
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        match scale {
            Scale::Linear => Self { scale, low: low.min(0.0), high: nice_end(high) },
            Scale::Logarithmic => {
                let (low, high) = ((low * 2.0).floor() / 2.0, (high * 2.0).ceil() / 2.0);
                Self { scale, low, high: high.max(low + 1.0) }
            }
            Scale::Quantile => Self { scale, low: 0.0, high: high.max(1.0) },
        }
    }

    /// An axis for time or another quantity that shall end where the values end.
    pub(crate) fn exact(values: impl Iterator<Item = f64>) -> Self {
        let high = values.fold(0.0, f64::max);
        Self { scale: Scale::Linear, low: 0.0, high: if high > 0.0 { high } else { 1.0 } }
    }

    /// From 0 at the low end to 1 at the high one.
    pub(crate) fn fraction(&self, value: f64) -> f64 {
        ((place(self.scale, value) - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// The values that get a mark, each at most once, from low to high.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = nice_step(self.high - self.low, 6.0);
                let count = (self.high / step + 1e-9).floor();
                (0u32..)
                    .map(f64::from)
                    .take_while(|index| *index <= count)
                    .map(|index| index * step)
                    .collect()
            }
            Scale::Logarithmic => self.decades(),
            Scale::Quantile => {
                let nines = (1i32..).map_while(|nines| {
                    (f64::from(nines) <= self.high + 1e-9).then(|| 1.0 - 10f64.powi(-nines))
                });
                [0.0, 0.5].into_iter().chain(nines).collect()
            }
        }
    }

    /// Powers of ten; with 2 and 5 in between when there are few of them.
    fn decades(&self) -> Vec<f64> {
        let factors: &[f64] = if self.high - self.low <= 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let mut exponent = self.low.floor();
        let mut ticks = Vec::new();
        while exponent <= self.high {
            ticks.extend(factors.iter().map(|factor| factor * 10f64.powf(exponent)));
            exponent += 1.0;
        }
        let inside = self.low - 1e-9..=self.high + 1e-9;
        ticks.retain(|tick| inside.contains(&tick.log10()));
        ticks
    }
}

fn place(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Logarithmic => value.max(1e-9).log10(),
        Scale::Quantile => -(1.0 - value).max(1e-12).log10(),
    }
}

/// 1, 2 or 5 times a power of ten, so that about `count` steps make `length`.
fn nice_step(length: f64, count: f64) -> f64 {
    let rough = (length / count).max(1e-12);
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

fn nice_end(high: f64) -> f64 {
    if high <= 0.0 {
        return 1.0;
    }
    let step = nice_step(high, 6.0);
    (high / step - 1e-9).ceil() * step
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(axis: &Axis) -> Vec<String> {
        axis.ticks().iter().map(|tick| format!("{tick:.4}").trim_end_matches('0').to_owned()).collect()
    }

    #[test]
    fn linear_axes_begin_at_zero_and_end_at_a_tick() {
        let axis = Axis::around(Scale::Linear, [3.0, 97.0].into_iter());
        assert_eq!(rounded(&axis), ["0.", "20.", "40.", "60.", "80.", "100."]);
        assert!((axis.fraction(50.0) - 0.5).abs() < 1e-12);
        assert_eq!(Axis::around(Scale::Linear, std::iter::empty()).fraction(0.0), 0.0);
        assert_eq!(rounded(&Axis::around(Scale::Linear, [0.0].into_iter())).last().unwrap(), "1.");
    }

    #[test]
    fn logarithmic_axes_mark_powers_of_ten() {
        let axis = Axis::around(Scale::Logarithmic, [120.0, 90_000.0].into_iter());
        assert_eq!(rounded(&axis)[..3], ["100.", "200.", "500."]);
        let wide = Axis::around(Scale::Logarithmic, [1.0, 1e6].into_iter());
        assert_eq!(rounded(&wide).len(), 7);
        assert!((wide.fraction(1000.0) - 0.5).abs() < 1e-9);
        let flat = Axis::around(Scale::Logarithmic, [50.0].into_iter());
        assert!(flat.fraction(50.0).is_finite() && !flat.ticks().is_empty());
    }

    #[test]
    fn quantile_axes_mark_the_nines() {
        let axis = Axis::around(Scale::Quantile, [0.0, 0.9995].into_iter());
        assert_eq!(rounded(&axis), ["0.", "0.5", "0.9", "0.99", "0.999"]);
        assert!(axis.fraction(0.99) > axis.fraction(0.9));
        assert_eq!(axis.fraction(1.0), 1.0);
    }
}
