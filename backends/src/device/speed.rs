//! What a device reaches when it does nothing else: the measure for how well it is used.

use std::time::{Duration, Instant};

use burn::tensor::{DType, Device, Distribution, Tensor, s};

use super::{BackendKind, OpenDevice, probe};

/// Of how many rounds the best one counts. The first ones compile and tune.
const ROUNDS: usize = 6;

/// What a device was measured to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceSpeed {
    /// Bytes per second between the device and its memory: the better one of a copy, whose bytes
    /// are read and written, and of a product of a matrix with a vector, which reads the matrix.
    pub bytes_per_second: f64,
    /// Floating-point operations per second in a product of large square matrices.
    pub flops_per_second: f64,
}

/// Sizes for a device of which little is known but its kind.
struct Sizes {
    /// Bytes that are copied; more than what caches hold.
    copied: usize,
    /// Rows and columns of the matrices.
    width: usize,
    /// Runs of a round, so that it takes longer than what it takes to start one.
    runs: usize,
}

impl OpenDevice {
    /// Measures the device in `dtype`. Takes a second or two.
    ///
    /// # Errors
    /// What the device said, on one line, where it does not compute.
    pub fn measure_speed(&self, dtype: DType) -> Result<DeviceSpeed, String> {
        let (sizes, device) = (self.sizes(), &self.device);
        probe::guarded(|| DeviceSpeed {
            bytes_per_second: copied(device, &sizes, Duration::MAX)
                .max(read(device, dtype, &sizes)),
            flops_per_second: multiplied(device, dtype, &sizes),
        })
    }

    /// Bytes per second of a copy in the device's memory, from as many rounds as begin within
    /// `limit` and at least one. Takes less than a second beyond that.
    ///
    /// # Errors
    /// What the device said, on one line, where it does not compute.
    pub fn measure_copy(&self, limit: Duration) -> Result<f64, String> {
        probe::guarded(|| copied(&self.device, &self.sizes(), limit))
    }

    fn sizes(&self) -> Sizes {
        match (self.kind, self.software) {
            (_, true) => Sizes { copied: 1 << 26, width: 256, runs: 1 },
            (BackendKind::Cpu, _) => Sizes { copied: 1 << 28, width: 1024, runs: 1 },
            // Buffers of 128 MiB are what every GPU takes.
            _ => Sizes { copied: 1 << 27, width: 4096, runs: 8 },
        }
    }
}

/// Bytes per second of a copy in f32.
fn copied(device: &Device, sizes: &Sizes, limit: Duration) -> f64 {
    let count = sizes.copied / size_of::<f32>();
    let source = Tensor::<1>::ones([count], (device, DType::F32));
    let mut target = Tensor::<1>::zeros([count], (device, DType::F32));
    let seconds = best(device, sizes.runs, limit, || {
        target.inplace(|target| target.slice_assign(s![0..count], source.clone()));
    });
    read_back(target.narrow(0, 0, 1));
    2.0 * sizes.copied as f64 / seconds
}

/// Bytes per second of a matrix that is multiplied with a vector.
fn read(device: &Device, dtype: DType, sizes: &Sizes) -> f64 {
    let columns = 4096;
    let rows = sizes.copied / dtype.size() / columns;
    // A weight is `[out, in]`, so its rows lie in order.
    let matrix = Tensor::<2>::ones([rows, columns], (device, dtype)).transpose();
    let vector = Tensor::<2>::ones([1, columns], (device, dtype));
    let mut last = None;
    let seconds = best(device, sizes.runs, Duration::MAX, || {
        last = Some(vector.clone().matmul(matrix.clone()));
    });
    last.into_iter().for_each(|product| read_back(product.flatten::<1>(0, 1).narrow(0, 0, 1)));
    (rows * columns * dtype.size()) as f64 / seconds
}

/// Floating-point operations per second of a product of two matrices.
fn multiplied(device: &Device, dtype: DType, sizes: &Sizes) -> f64 {
    let width = sizes.width;
    let matrix = || {
        let values = Distribution::Uniform(-1.0, 1.0);
        Tensor::<2>::random([width, width], values, (device, DType::F32)).cast(dtype)
    };
    let (a, b) = (matrix(), matrix());
    let mut last = None;
    let seconds =
        best(device, sizes.runs, Duration::MAX, || last = Some(a.clone().matmul(b.clone())));
    last.into_iter().for_each(|product| read_back(product.flatten::<1>(0, 1).narrow(0, 0, 1)));
    2.0 * (width as f64).powi(3) / seconds
}

/// Seconds of one run in the best round of those that begin within `limit`.
fn best(device: &Device, runs: usize, limit: Duration, mut run: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        (0..runs).for_each(|_| run());
        device.sync().expect("a device that computes");
        best = best.min(started.elapsed().as_secs_f64() / runs as f64);
        if began.elapsed() >= limit {
            break;
        }
    }
    best
}

/// A kernel that failed says so only here.
fn read_back(value: Tensor<1>) {
    value.into_data().try_to_vec_as::<f32>().expect("a value of the device");
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_computes_has_a_speed() {
        let device = super::super::open(&"cpu".parse().unwrap()).unwrap();
        let sizes = Sizes { copied: 1 << 16, width: 64, runs: 2 };
        for dtype in [DType::F32, DType::BF16] {
            let read = read(&device.device, dtype, &sizes);
            let multiplied = multiplied(&device.device, dtype, &sizes);
            assert!(read.is_finite() && read > 0.0 && multiplied.is_finite() && multiplied > 0.0);
        }
        for limit in [Duration::MAX, Duration::ZERO] {
            let copied = copied(&device.device, &sizes, limit);
            assert!(copied.is_finite() && copied > 0.0);
        }
    }
}
