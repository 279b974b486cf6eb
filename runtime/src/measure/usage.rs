//! What the steps of an engine had to read and multiply, and where their time went.

use glm_backends::device::DeviceSpeed;
use glm_models::plan::{Plan, StepLoad, StepWork};

use crate::stats::{Stats, StepSizes};

/// What was to be read and multiplied in some time, beside what the device can do. Draft layers
/// are not counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Bytes and operations.
    pub work: StepWork,
    /// In how many seconds.
    pub seconds: f64,
    /// What the device was measured to reach.
    pub speed: DeviceSpeed,
    /// The least seconds that it could have taken: in each step, whichever of memory and arithmetic
    /// is slower.
    pub bound_seconds: f64,
}

/// Where the time of an engine went, as shares of it that sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Parts {
    /// Reading the weights at the speed of the memory.
    pub weights: f64,
    /// Reading the cache at the speed of the memory.
    pub kv: f64,
    /// What computing hidden states takes beyond that.
    pub kernels: f64,
    /// Logits, choosing tokens, accepting drafts.
    pub sampling: f64,
    /// Making drafts.
    pub drafting: f64,
    /// The host, where nothing of the above went on: planning, text, events.
    pub host: f64,
    /// The rest: nothing to compute, or waiting for the device.
    pub waiting: f64,
}

impl Usage {
    /// The work of all steps in `stats`, done in `seconds`.
    pub fn of(plan: &Plan, stats: &Stats, seconds: f64, speed: DeviceSpeed) -> Self {
        let (mut work, mut bound_seconds) = (StepWork::default(), 0.0);
        for size in stats.sizes.iter().filter(|size| size.steps > 0) {
            let steps = size.steps as f64;
            let StepWork { weight_bytes, kv_bytes, flops } = plan.step_work(&mean(size));
            work.weight_bytes += steps * weight_bytes;
            work.kv_bytes += steps * kv_bytes;
            work.flops += steps * flops;
            let reading = (weight_bytes + kv_bytes) / speed.bytes_per_second;
            bound_seconds += steps * reading.max(flops / speed.flops_per_second);
        }
        Usage { work, seconds, speed, bound_seconds }
    }

    /// Bytes that had to be read, as a share of what the memory could have given.
    pub fn bandwidth_share(&self) -> f64 {
        (self.work.weight_bytes + self.work.kv_bytes) / self.speed.bytes_per_second / self.seconds
    }

    /// Operations that had to be done, as a share of what the device could have done.
    pub fn flop_share(&self) -> f64 {
        self.work.flops / self.speed.flops_per_second / self.seconds
    }

    /// The least seconds that it could have taken, as a share of those that it took.
    pub fn bound_share(&self) -> f64 {
        self.bound_seconds / self.seconds
    }

    /// Where the time went, by what the engine's thread counted meanwhile.
    pub fn parts(&self, stats: &Stats) -> Parts {
        let seconds = &stats.seconds;
        let forward = seconds.forward;
        let weights = self.work.weight_bytes / self.speed.bytes_per_second;
        let kv = self.work.kv_bytes / self.speed.bytes_per_second;
        // A cache that is faster than the memory may read more than the memory could.
        let scale = (forward / (weights + kv).max(f64::MIN_POSITIVE)).min(1.0);
        let (weights, kv) = (weights * scale, kv * scale);
        let host = seconds.schedule + seconds.emit;
        let counted = forward + seconds.sampling + seconds.drafting + host;
        // Steps in flight when the time began or ended were counted as a whole.
        let whole = self.seconds.max(counted).max(f64::MIN_POSITIVE);
        let share = |part: f64| part / whole;
        Parts {
            weights: share(weights),
            kv: share(kv),
            kernels: share(forward - weights - kv),
            sampling: share(seconds.sampling),
            drafting: share(seconds.drafting),
            host: share(host),
            waiting: share(whole - counted),
        }
    }
}

/// One step like those.
fn mean(size: &StepSizes) -> StepLoad {
    let each = |count: u64| count as f64 / size.steps as f64;
    StepLoad {
        rows: each(size.rows),
        sampled: each(size.sampled),
        cached: each(size.cached),
        attended: each(size.attended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Seconds;

    #[test]
    fn parts_of_the_time_are_all_of_it() {
        let work = StepWork { weight_bytes: 30.0, kv_bytes: 10.0, flops: 50.0 };
        let speed = DeviceSpeed { bytes_per_second: 10.0, flops_per_second: 100.0 };
        let usage = Usage { work, seconds: 10.0, speed, bound_seconds: 4.0 };
        assert_eq!((usage.bandwidth_share(), usage.flop_share()), (0.4, 0.05));
        assert_eq!(usage.bound_share(), 0.4);
        let seconds =
            Seconds { forward: 6.0, sampling: 1.0, schedule: 0.5, emit: 0.5, ..Seconds::default() };
        let stats = Stats { seconds, ..Stats::default() };
        let parts = usage.parts(&stats);
        let wanted = Parts {
            weights: 0.3,
            kv: 0.1,
            kernels: 0.2,
            sampling: 0.1,
            drafting: 0.0,
            host: 0.1,
            waiting: 0.2,
        };
        for (found, wanted) in [
            (parts.weights, wanted.weights),
            (parts.kv, wanted.kv),
            (parts.kernels, wanted.kernels),
            (parts.sampling, wanted.sampling),
            (parts.host, wanted.host),
            (parts.waiting, wanted.waiting),
        ] {
            assert!((found - wanted).abs() < 1e-9, "{parts:?}");
        }
        // Weights that lie in the CPU's cache.
        let fast = Usage { seconds: 3.0, ..usage };
        let stats =
            Stats { seconds: Seconds { forward: 3.0, ..Seconds::default() }, ..Stats::default() };
        let parts = fast.parts(&stats);
        assert!((parts.weights - 0.75).abs() < 1e-9 && parts.kernels < 1e-9, "{parts:?}");
    }
}
