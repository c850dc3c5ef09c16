//! Times made into figures: percentiles of exact samples, rates, medians.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds that 50, 90, 95, 99 and 100 in 100 samples stayed within.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// Half of them.
    pub(crate) p50: f64,
    /// Nine in ten.
    pub(crate) p90: f64,
    /// 19 in 20.
    pub(crate) p95: f64,
    /// 99 in 100.
    pub(crate) p99: f64,
    /// All.
    pub(crate) max: f64,
}

impl Percentiles {
    /// By nearest rank, so that each is a time that was really taken; zeros without samples.
    pub(crate) fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100);
            samples.get(rank.saturating_sub(1)).map_or(0.0, |sample| sample.as_secs_f64() * 1000.0)
        };
        Self { p50: at(50), p90: at(90), p95: at(95), p99: at(99), max: at(100) }
    }

    /// Each for itself.
    pub(crate) fn median(all: &[Self]) -> Self {
        let of = |one: fn(&Self) -> f64| median(all.iter().map(one));
        Self {
            p50: of(|p| p.p50),
            p90: of(|p| p.p90),
            p95: of(|p| p.p95),
            p99: of(|p| p.p99),
            max: of(|p| p.max),
        }
    }
}

/// The middle one, or the mean of the two in the middle; zero of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => 0.0,
        Some(value) if values.len() % 2 == 1 => *value,
        Some(value) => f64::midpoint(values[middle - 1], *value),
    }
}

/// How many a second; zero of no time.
pub(crate) fn per_second(count: u64, elapsed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let count = count as f64;
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percentiles(milliseconds: impl IntoIterator<Item = u64>) -> Percentiles {
        Percentiles::of(milliseconds.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let expected = Percentiles { p50: 50.0, p90: 90.0, p95: 95.0, p99: 99.0, max: 100.0 };
        assert_eq!(percentiles((1..=100).rev()), expected);
        let expected = Percentiles { p50: 2.0, p90: 3.0, p95: 3.0, p99: 3.0, max: 3.0 };
        assert_eq!(percentiles([3, 1, 2]), expected);
        let expected = Percentiles { p50: 5.0, p90: 5.0, p95: 5.0, p99: 5.0, max: 5.0 };
        assert_eq!(percentiles([5]), expected);
        assert_eq!(percentiles([]), Percentiles::default());
    }

    #[test]
    fn medians_are_in_the_middle() {
        for (values, expected) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0], 2.5), (&[], 0.0)] {
            let found = median(values.iter().copied());
            assert!((found - expected).abs() < 1e-9, "{values:?}: {found}");
        }
        let medians = Percentiles::median(&[percentiles([1]), percentiles([9]), percentiles([2])]);
        assert_eq!(medians, percentiles([2]));
    }

    #[test]
    fn rates_are_per_second() {
        for (elapsed, expected) in [(Duration::from_millis(500), 20.0), (Duration::ZERO, 0.0)] {
            assert!((per_second(10, elapsed) - expected).abs() < 1e-9, "{elapsed:?}");
        }
    }
}
