//! Which float dtype to compute in.

use burn::tensor::{DType, Device};

use super::{BackendKind, OpenDevice};

impl OpenDevice {
    /// Names of the floats that it computes in: of `f32`, `bf16`, `f16`.
    pub fn floats(&self) -> Vec<&'static str> {
        floats(&self.device)
    }

    /// `wanted` where the device has it, otherwise the nearest float that it has, with a note
    /// for the user. What is missing becomes f32: f16 would overflow where bf16 does not.
    pub fn nearest_float(&self, wanted: DType) -> (DType, Option<String>) {
        nearest(&self.label(), wanted, self.supports(wanted))
    }

    /// What to compute in when the user leaves it open, with a note where that is not the
    /// checkpoint's dtype.
    ///
    /// That is [`OpenDevice::nearest_float`], except on the CPU, which takes f32: there a
    /// product with bf16 weights converts all of them each time (57 to 157 ms for one row
    /// through a 4096 x 4096 matrix, against 3.8 ms in f32), so f32 pays with twice the memory.
    pub fn auto_float(&self, checkpoint: DType) -> (DType, Option<String>) {
        match self.kind {
            BackendKind::Cpu => on_cpu(checkpoint),
            _ => self.nearest_float(checkpoint),
        }
    }
}

/// Names of the floats that `device` computes in.
pub(super) fn floats(device: &Device) -> Vec<&'static str> {
    let known = [(DType::F32, "f32"), (DType::BF16, "bf16"), (DType::F16, "f16")];
    let usable = known.into_iter().filter(|(dtype, _)| device.supports_dtype(*dtype));
    usable.map(|(_, name)| name).collect()
}

fn nearest(device: &str, wanted: DType, supported: bool) -> (DType, Option<String>) {
    if supported {
        return (wanted, None);
    }
    let note = format!("{device} has no {}: computing in f32", wanted.name());
    (DType::F32, Some(note))
}

fn on_cpu(checkpoint: DType) -> (DType, Option<String>) {
    if checkpoint == DType::F32 {
        return (DType::F32, None);
    }
    let name = checkpoint.name();
    let note = format!("the CPU is slow in {name}: computing in f32");
    (DType::F32, Some(note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_device_has_is_kept() {
        assert_eq!(nearest("cuda:0 (G)", DType::BF16, true), (DType::BF16, None));
    }

    #[test]
    fn what_it_lacks_becomes_f32_with_a_note() {
        for (wanted, name) in [(DType::BF16, "bf16"), (DType::F16, "f16")] {
            let (dtype, note) = nearest("gl:0 (G)", wanted, false);
            assert_eq!(dtype, DType::F32);
            assert_eq!(note, Some(format!("gl:0 (G) has no {name}: computing in f32")));
        }
    }

    #[test]
    fn the_cpu_takes_f32_and_says_so_when_that_is_a_change() {
        assert_eq!(on_cpu(DType::F32), (DType::F32, None));
        let (dtype, note) = on_cpu(DType::BF16);
        assert_eq!(dtype, DType::F32);
        assert_eq!(note.unwrap(), "the CPU is slow in bf16: computing in f32");
    }
}
