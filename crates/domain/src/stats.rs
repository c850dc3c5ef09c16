//! Statistics of one endpoint over some days.

use std::collections::HashMap;

use crate::delivery::{DeliveryStatus, is_answered};

/// Days that statistics span unless the caller says otherwise.
pub const STATS_DAYS_DEFAULT: u32 = 7;
/// Most days that statistics may span.
pub const STATS_DAYS_MAX: u32 = 90;

/// What became of an endpoint's deliveries created in a span of time, and how its attempts went.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EndpointStats {
    /// Deliveries not attempted yet.
    pub pending: u64,
    /// Deliveries to be attempted again.
    pub retrying: u64,
    /// Deliveries that arrived.
    pub success: u64,
    /// Deliveries that ended without success.
    pub failed: u64,
    /// Deliveries that were cancelled.
    pub cancelled: u64,
    /// Attempts in all.
    pub attempts: u64,
    /// Response times of the attempts that were answered; `None` if none was.
    pub response_times: Option<ResponseTimes>,
    /// The error code seen most often, with its count.
    pub most_common_error: Option<(String, u64)>,
}

impl EndpointStats {
    /// Share of ended deliveries that arrived, 0…1; `None` if none ended.
    pub fn success_rate(&self) -> Option<f64> {
        let ended = self.success + self.failed;
        #[expect(clippy::cast_precision_loss, reason = "a share of counts far below 2^53")]
        (ended > 0).then(|| self.success as f64 / ended as f64)
    }
}

/// Milliseconds from the beginning of attempts to the end of their answers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ResponseTimes {
    /// Mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: u64,
    /// 95 of 100 took no longer.
    pub p95_ms: u64,
    /// 99 of 100 took no longer.
    pub p99_ms: u64,
}

/// Counts of attempts, from which statistics are made.
#[derive(Debug, Clone, Default)]
pub struct AttemptTally {
    attempts: u64,
    response_times: ResponseTimeHistogram,
    /// There are as many codes as there are HTTP statuses, and a few more.
    errors: HashMap<String, u64>,
}

impl AttemptTally {
    /// Counts so many attempts that took as long and ended alike.
    pub fn add(&mut self, response_time_ms: u64, error_code: Option<&str>, count: u64) {
        self.attempts += count;
        if is_answered(error_code) {
            for _ in 0..count {
                self.response_times.add(response_time_ms);
            }
        }
        if let Some(code) = error_code {
            *self.errors.entry(code.to_owned()).or_default() += count;
        }
    }

    /// With the numbers of deliveries in each state, in the order of [`DeliveryStatus::ALL`].
    pub fn into_stats(self, deliveries: [u64; DeliveryStatus::ALL.len()]) -> EndpointStats {
        let [pending, retrying, success, failed, cancelled] = deliveries;
        EndpointStats {
            pending,
            retrying,
            success,
            failed,
            cancelled,
            attempts: self.attempts,
            response_times: self.response_times.summary(),
            most_common_error: self.most_common_error(),
        }
    }

    /// Of several that were seen as often, the first by name.
    fn most_common_error(self) -> Option<(String, u64)> {
        self.errors.into_iter().max_by(|(a, x), (b, y)| x.cmp(y).then_with(|| b.cmp(a)))
    }
}

/// Counts whole milliseconds, in memory that the number of attempts does not change: exact below one second, within
/// 1 % above.
#[derive(Debug, Clone)]
pub struct ResponseTimeHistogram {
    buckets: Vec<u64>,
    count: u64,
    sum_ms: u64,
}

const EXACT_BELOW_MS: u64 = 1000;
const STEP_MS: u64 = 10;
const HISTOGRAM_MS_MAX: u64 = 310_000;

impl Default for ResponseTimeHistogram {
    fn default() -> Self {
        Self { buckets: vec![0; bucket_of(HISTOGRAM_MS_MAX) + 1], count: 0, sum_ms: 0 }
    }
}

impl ResponseTimeHistogram {
    /// Counts one attempt.
    pub fn add(&mut self, ms: u64) {
        self.buckets[bucket_of(ms.min(HISTOGRAM_MS_MAX))] += 1;
        self.count += 1;
        self.sum_ms += ms;
    }

    /// Mean and percentiles so far, if anything was counted.
    pub fn summary(&self) -> Option<ResponseTimes> {
        if self.count == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let mean_ms = self.sum_ms as f64 / self.count as f64;
        let [p50_ms, p95_ms, p99_ms] = [50, 95, 99].map(|percent| self.percentile(percent));
        Some(ResponseTimes { mean_ms, p50_ms, p95_ms, p99_ms })
    }

    fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        let reached = |counted: &u64| {
            seen += counted;
            seen >= rank
        };
        self.buckets.iter().position(reached).map_or(0, lower_bound_of)
    }
}

fn bucket_of(ms: u64) -> usize {
    let bucket = if ms < EXACT_BELOW_MS { ms } else { EXACT_BELOW_MS + (ms - EXACT_BELOW_MS) / STEP_MS };
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

fn lower_bound_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < EXACT_BELOW_MS { bucket } else { EXACT_BELOW_MS + (bucket - EXACT_BELOW_MS) * STEP_MS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_rank() {
        let mut histogram = ResponseTimeHistogram::default();
        assert_eq!(histogram.summary(), None);
        for ms in 1..=100 {
            histogram.add(ms);
        }
        let ResponseTimes { mean_ms, p50_ms, p95_ms, p99_ms } = histogram.summary().unwrap();
        assert!((mean_ms - 50.5).abs() < 1e-9);
        assert_eq!((p50_ms, p95_ms, p99_ms), (50, 95, 99));
        let mut slow = ResponseTimeHistogram::default();
        slow.add(12_345);
        slow.add(10_000_000);
        assert_eq!(slow.summary().unwrap().p50_ms, 12_340);
        assert_eq!(slow.summary().unwrap().p99_ms, HISTOGRAM_MS_MAX);
    }
}
