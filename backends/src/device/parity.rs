//! Whether a device computes what the CPU computes.

use burn::tensor::{DType, Device, Tensor};

use super::{OpenDevice, probe};
use crate::ops::case::{Case, Inputs, Kernel};

impl OpenDevice {
    /// Dtypes in which ops are compared: f32, and bf16 where the device computes it.
    pub fn compared_dtypes(&self) -> impl Iterator<Item = DType> {
        let supported = |dtype: &DType| self.device.supports_dtype(*dtype);
        [DType::F32, DType::BF16].into_iter().filter(supported)
    }

    /// Computes a case here in `dtype` and on the CPU in f32, whose references are the
    /// specification; says how far apart they are, as a relative L2 distance. That is too far where
    /// it is not at most [`Kernel::tolerance_in`].
    ///
    /// # Errors
    /// What the device said, on one line, where it does not compute the case.
    pub fn compare(&self, kernel: &Kernel, case: &Case, dtype: DType) -> Result<f32, String> {
        let run = |device: &Device, held: DType| {
            probe::guarded(|| {
                (kernel.run)(case, &mut Inputs::in_dtype(case.seed, device, held, dtype))
            })
        };
        let Some(cpu) = cpu() else { return Err("this binary has no CPU to compare with".into()) };
        let want = run(&cpu, DType::F32)?;
        probe::guarded(|| poison(&self.device))?;
        let got = run(&self.device, dtype)?;
        match want.len() == got.len() {
            true => Ok(relative_l2(&got, &want)),
            false => Err(format!("{} values, wanted {}", got.len(), want.len())),
        }
    }
}

/// Leaves NaN in memory that the next buffers of a device are made of, so that what a kernel does not
/// write is seen.
fn poison(device: &Device) {
    const COPIES: usize = 4;
    let sizes = [1 << 8, 1 << 12, 1 << 16, 1 << 20];
    let filled = sizes.into_iter().flat_map(|size| [size; COPIES]);
    let filled: Vec<Tensor<1>> =
        filled.map(|size| Tensor::full([size], f32::NAN, (device, DType::F32))).collect();
    // Read, so that all of it is written before it is given back.
    drop(filled.into_iter().map(Tensor::into_data).collect::<Vec<_>>());
}

fn cpu() -> Option<Device> {
    #[cfg(feature = "cpu")]
    return Some(Device::flex());
    #[cfg(not(feature = "cpu"))]
    return None;
}

/// NaN where a value of either is.
fn relative_l2(got: &[f32], want: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
    };
    let distance = norm(&mut got.iter().zip(want).map(|(got, want)| got - want));
    (distance / norm(&mut want.iter().copied()).max(1e-30)) as f32
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    #[test]
    fn distance_is_relative_and_nan_stays() {
        assert_eq!(relative_l2(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative_l2(&[0.0, 0.0], &[3.0, 4.0]), 1.0);
        assert!(relative_l2(&[f32::NAN, 4.0], &[3.0, 4.0]).is_nan());
    }

    #[test]
    fn a_case_that_panics_is_an_error_of_one_line() {
        let device = super::super::open(&"cpu".parse().unwrap()).unwrap();
        let kernel = Kernel {
            name: "none",
            cases: &[],
            tolerance: 0.0,
            bf16_tolerance: 0.0,
            run: |_, _| panic!("no\nkernel"),
        };
        let case = Case { label: "any", shape: &[], seed: 1 };
        assert_eq!(device.compare(&kernel, &case, DType::F32), Err("no kernel".into()));
    }
}
