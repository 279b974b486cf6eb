use super::{stored_in_fp8, sum, times};
use crate::config::{Config, ScaleLayout, narrow, wide};
use crate::inventory::{Form, Part, TensorGroup};

/// Bytes of a checkpoint's tensors in its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredSize {
    /// Bytes of all tensors; `metadata.total_size` of an index.
    pub bytes: u64,
    /// What of the prediction layer is there.
    pub prediction: Prediction,
    /// Bytes of one scale, which no configuration tells: 2 or 4. `None` without FP8.
    pub scale_bytes: Option<usize>,
}

/// What a checkpoint holds of its prediction layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// All, with copies of embedding and head.
    Whole,
    /// All but the copies, as in GLM-4.6.
    WithoutCopies,
    /// Nothing.
    Absent,
}

/// The sizes that a checkpoint of this configuration may have, the usual one first: the router and
/// whatever is not FP8 in the dtype that the configuration names (BF16 where it names none).
#[must_use]
pub fn stored_sizes(config: &Config) -> Vec<StoredSize> {
    let scale_bytes = match config.quantization() {
        None => vec![None],
        Some(_) => vec![Some(2), Some(4)],
    };
    let groups = config.tensor_groups();
    let mut sizes: Vec<StoredSize> = Vec::new();
    for prediction in [Prediction::Whole, Prediction::WithoutCopies, Prediction::Absent] {
        for &scale_bytes in &scale_bytes {
            let is_there = |group: &&TensorGroup| match (prediction, group.part) {
                _ if !group.mtp => true,
                (Prediction::Whole, _) => true,
                (Prediction::WithoutCopies, part) => !matches!(part, Part::Embedding | Part::Head),
                (Prediction::Absent, _) => false,
            };
            let groups = groups.iter().filter(is_there);
            let bytes = groups.map(|group| stored_bytes(group, config, scale_bytes.unwrap_or(0)));
            let bytes = narrow(sum(bytes));
            if sizes.iter().all(|size| size.bytes != bytes) {
                sizes.push(StoredSize { bytes, prediction, scale_bytes });
            }
        }
    }
    sizes
}

fn stored_bytes(group: &TensorGroup, config: &Config, scale_bytes: usize) -> u128 {
    let value_bytes = match (group.form, config.dtype()) {
        (Form::Wide, _) | (_, Some("float32")) => 4,
        _ => 2,
    };
    let scales = match (config.quantization().map(|found| found.scales), &group.shape[..]) {
        (Some(ScaleLayout::Channel), [out, _]) => wide(*out),
        (Some(ScaleLayout::Block([rows, columns])), [out, input]) => {
            wide(out.div_ceil(rows)) * wide(input.div_ceil(columns))
        }
        _ => 1,
    };
    let fp8 = stored_in_fp8(group, config);
    let elements = group.elements_of_one();
    sum([
        times(group.count() - fp8, times(elements, value_bytes)),
        times(fp8, elements.saturating_add(times(scales, wide(scale_bytes)))),
    ])
}
