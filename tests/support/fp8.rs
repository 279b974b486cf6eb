//! FP8 checkpoints made of BF16 ones, and the same numbers written out in f32.
//!
//! A weight is `code * scale` with E4M3FN codes. The scale of a group of weights, a row or a
//! block, is `max(max|w| / 448, 1e-12)`, rounded to its stored type before the division; codes
//! are rounded to the nearest, ties to even, and saturate. This is written again, apart from the
//! code that loads, so that one can be wrong without the other.

use glm_backends::fp8;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, Stored};
use super::oracle::{self, floats, relative_l2};

/// The largest number of E4M3FN.
const MAX: f32 = 448.0;
/// A code that is not a number.
pub(crate) const NAN: u8 = 0x7f;

/// How an FP8 checkpoint is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) scales: Scales,
    /// Type of the scales: BF16, F16 or F32.
    pub(crate) dtype: Dtype,
    /// Whether the draft head of the MTP layer is FP8, as on the hub, or as it was.
    pub(crate) draft_head: DraftHead,
}

/// Which weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scales {
    /// Those of a row: `weight_scale [out, 1]`, compressed-tensors.
    Column,
    /// The same as `[out]`.
    Flat,
    /// Those of a block `[out, in]`, cut at the edges: `weight_scale`, compressed-tensors.
    Blocks([usize; 2]),
    /// The same as `weight_scale_inv`, quantisation method `fp8`.
    InverseBlocks([usize; 2]),
}

/// What becomes of `shared_head.head`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum DraftHead {
    Kept,
    Quantised,
}

impl Layout {
    /// What the hub's FP8 repositories look like.
    pub(crate) const HUB: Self =
        Self { scales: Scales::Column, dtype: Dtype::BF16, draft_head: DraftHead::Quantised };

    /// What the reference checkpoints look like.
    pub(crate) fn reference(dtype: Dtype) -> Self {
        Self { scales: Scales::Column, dtype, draft_head: DraftHead::Kept }
    }

    /// Name of the scale beside `weight`.
    pub(crate) fn scale_name(&self) -> &'static str {
        match self.scales {
            Scales::InverseBlocks(_) => "weight_scale_inv",
            _ => "weight_scale",
        }
    }

    /// Projections of attention and MLPs; not router, embeddings, heads, `eh_proj`.
    fn quantises(&self, name: &str) -> bool {
        let Some(module) = name.strip_suffix(".weight") else { return false };
        let projection = module.rsplit('.').next().is_some_and(|leaf| leaf.contains("_proj"));
        let head = self.draft_head == DraftHead::Quantised && module.ends_with("shared_head.head");
        head || (projection && !module.ends_with(".eh_proj"))
    }

    /// Rows and columns of a group of weights.
    fn group(&self, [out, input]: [usize; 2]) -> [usize; 2] {
        match self.scales {
            Scales::Column | Scales::Flat => [1, input],
            Scales::Blocks([rows, columns]) | Scales::InverseBlocks([rows, columns]) => {
                [rows.min(out), columns.min(input)]
            }
        }
    }

    fn quantization_config(&self, ignore: &[String]) -> Value {
        let argument = |dynamic: bool, strategy: &str, observer: Option<&str>| {
            json!({
                "actorder": null, "block_structure": null, "group_size": null, "num_bits": 8,
                "observer_kwargs": {}, "symmetric": true, "type": "float", "dynamic": dynamic,
                "observer": observer, "strategy": strategy
            })
        };
        let mut weights = argument(false, "channel", Some("minmax"));
        let mut activations = argument(true, "token", None);
        match self.scales {
            Scales::Column | Scales::Flat => {}
            Scales::Blocks([rows, columns]) => {
                weights["strategy"] = json!("block");
                weights["block_structure"] = json!([rows, columns]);
                activations["strategy"] = json!("group");
                activations["group_size"] = json!(columns);
            }
            Scales::InverseBlocks(block) => {
                return json!({
                    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                    "weight_block_size": block, "modules_to_not_convert": ignore
                });
            }
        }
        json!({
            "config_groups": {"group_0": {
                "input_activations": activations, "output_activations": null,
                "targets": ["Linear"], "weights": weights
            }},
            "format": "float-quantized", "global_compression_ratio": null, "ignore": ignore,
            "kv_cache_scheme": null, "quant_method": "compressed-tensors",
            "quantization_status": "compressed"
        })
    }
}

/// `model` as an FP8 checkpoint, and the same numbers with every weight written out in f32.
pub(crate) fn quantised(model: &Checkpoint, layout: Layout) -> (Checkpoint, Checkpoint) {
    let (mut packed, mut plain) = (model.clone(), model.clone());
    let mut ignore = Vec::new();
    for (name, tensor) in &model.tensors {
        if !layout.quantises(name) {
            ignore.push(name.strip_suffix(".weight").unwrap_or(name).to_owned());
            continue;
        }
        let parts = quantise(tensor, layout);
        plain.tensors.insert(name.clone(), parts.plain);
        packed.tensors.insert(name.clone(), parts.codes);
        let module = name.strip_suffix("weight").expect("a weight");
        packed.tensors.insert(format!("{module}{}", layout.scale_name()), parts.scales);
    }
    ignore.sort();
    packed.config["quantization_config"] = layout.quantization_config(&ignore);
    (packed, plain)
}

/// A weight in FP8, and written out in f32.
struct Quantised {
    codes: Stored,
    scales: Stored,
    plain: Stored,
}

fn quantise(tensor: &Stored, layout: Layout) -> Quantised {
    let &[out, input] = tensor.shape.as_slice() else { panic!("no matrix: {:?}", tensor.shape) };
    let [rows, columns] = layout.group([out, input]);
    let (down, across) = (out.div_ceil(rows), input.div_ceil(columns));
    let group = |element: usize| (element / input / rows) * across + element % input / columns;

    let weights = tensor.floats();
    let mut largest = vec![0.0f32; down * across];
    for (element, weight) in weights.iter().enumerate() {
        let largest = &mut largest[group(element)];
        *largest = largest.max(weight.abs());
    }
    let shape: &[usize] = if layout.scales == Scales::Flat { &[out] } else { &[down, across] };
    let least = match layout.dtype {
        // f16 has nothing below that but zero.
        Dtype::F16 => 2.0f32.powi(-24),
        _ => 1e-12,
    };
    let scales: Vec<f32> = largest.iter().map(|largest| (largest / MAX).max(least)).collect();
    let scales = Stored::of(layout.dtype, shape, &scales);
    let stored = scales.floats();
    let scale = |element: usize| stored[group(element)];

    let codes: Vec<u8> =
        weights.iter().enumerate().map(|(at, weight)| encode(weight / scale(at))).collect();
    let plain: Vec<f32> =
        codes.iter().enumerate().map(|(at, code)| decode(*code) * scale(at)).collect();
    Quantised {
        plain: Stored::of(Dtype::F32, &tensor.shape, &plain),
        codes: Stored::new(Dtype::F8_E4M3, &tensor.shape, codes),
        scales,
    }
}

/// The number that an E4M3FN code stands for: one sign bit, four of the exponent with bias 7,
/// three of the mantissa, no infinities.
pub(crate) fn decode(code: u8) -> f32 {
    let magnitude = match (code >> 3 & 0xf, code & 7) {
        (15, 7) => f32::NAN,
        (0, mantissa) => f32::from(mantissa) * 2.0f32.powi(-9),
        (exponent, mantissa) => f32::from(8 + mantissa) * 2.0f32.powi(i32::from(exponent) - 10),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The nearest E4M3FN code, ties to even, saturating.
pub(crate) fn encode(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    if value.is_nan() {
        return sign | NAN;
    }
    let magnitude = value.abs().min(MAX);
    // Codes of positive numbers are in the order of the numbers: halve the range of candidates.
    let (mut below, mut above) = (0u8, NAN - 1);
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        if decode(middle) <= magnitude { below = middle } else { above = middle }
    }
    let (to_below, to_above) = (magnitude - decode(below), decode(above) - magnitude);
    let nearest =
        if to_below < to_above || (to_below == to_above && below % 2 == 0) { below } else { above };
    sign | nearest
}

#[test]
fn codes_and_rounding_equal_the_references() {
    let Some(path) = oracle::reference("fp8_e4m3fn.safetensors") else { return };
    let bytes = std::fs::read(path).expect("readable");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let floats = |name: &str| {
        let view = file.tensor(name).expect(name);
        Stored::new(view.dtype(), view.shape(), view.data().to_vec()).floats()
    };
    for (code, want) in file.tensor("codes").expect("codes").data().iter().zip(floats("values")) {
        for found in [decode(*code), fp8::decode(*code)] {
            let both_nan = found.is_nan() && want.is_nan();
            assert!(found.to_bits() == want.to_bits() || both_nan, "{code:#x}: {found}");
        }
    }
    let wanted = file.tensor("encode_out").expect("encode_out").data();
    for (value, want) in floats("encode_in").into_iter().zip(wanted) {
        assert_eq!([encode(value), fp8::encode(value)], [*want; 2], "{value}");
    }
}

#[test]
fn every_code_encodes_itself_and_ties_go_to_even() {
    for code in 0..=0xffu8 {
        assert_eq!([encode(decode(code)), fp8::encode(decode(code))], [code; 2], "{code:#x}");
    }
    for code in 0..NAN - 1 {
        let tie = (decode(code) + decode(code + 1)) / 2.0;
        assert_eq!([encode(tie), fp8::encode(tie)], [code + code % 2; 2], "{code:#x}");
    }
    for (value, want) in [(1e9, 0x7e), (f32::NEG_INFINITY, 0xfe), (464.0, 0x7e), (-1e-9, 0x80)] {
        assert_eq!(encode(value), want, "{value}");
    }
}

#[test]
fn the_reference_checkpoints_are_what_this_makes() {
    for (name, dtype) in
        [("air-tiny", Dtype::BF16), ("m355-tiny", Dtype::F32), ("glm-tiny", Dtype::BF16)]
    {
        let (Some(from), Some(to)) =
            (oracle::reference(name), oracle::reference(&format!("{name}-fp8")))
        else {
            return;
        };
        let made = quantised(&Checkpoint::open(&from), Layout::reference(dtype)).0;
        let want = Checkpoint::open(&to);
        assert_eq!(made.config["quantization_config"], want.config["quantization_config"]);
        assert!(made.tensors.keys().eq(want.tensors.keys()), "{name}: names");
        for (tensor, made) in &made.tensors {
            assert!(*made == want.tensors[tensor], "{name}: {tensor}");
        }
    }
}

#[test]
fn every_layout_is_close_to_the_original() {
    let model = Checkpoint::built_in();
    let original = model.logits();
    for layout in layouts() {
        let (packed, plain) = quantised(&model, layout);
        let matrix = "model.layers.0.mlp.down_proj";
        let stored = &packed.tensors[&format!("{matrix}.weight")];
        assert_eq!((stored.dtype, &stored.shape[..]), (Dtype::F8_E4M3, &[128, 384][..]));
        let scale = &packed.tensors[&format!("{matrix}.{}", layout.scale_name())];
        let shape: &[usize] = match layout.scales {
            Scales::Column => &[128, 1],
            Scales::Flat => &[128],
            Scales::Blocks([128, 128]) | Scales::InverseBlocks([128, 128]) => &[1, 3],
            Scales::Blocks([48, 80]) => &[3, 5],
            Scales::InverseBlocks([16, 16]) => &[8, 24],
            other => panic!("{other:?}"),
        };
        assert_eq!((scale.dtype, &scale.shape[..]), (layout.dtype, shape));
        let head = "model.layers.4.shared_head.head.weight";
        let kept = layout.draft_head == DraftHead::Kept;
        assert_eq!(packed.tensors[head] == model.tensors[head], kept, "{layout:?}");

        // E4M3 keeps four significant bits: 2 to 3 % of noise in each weight.
        let distance = relative_l2(floats(&plain.logits(), "logits"), floats(&original, "logits"));
        assert!(distance > 1e-4 && distance < 0.1, "{layout:?}: {distance:.2e}");
    }
}

/// Every way in which FP8 checkpoints are written. glm-tiny's widths 192 and 384 divide into
/// blocks of neither kind without a rest in both directions.
pub(crate) fn layouts() -> Vec<Layout> {
    let layout = |scales, dtype, draft_head| Layout { scales, dtype, draft_head };
    vec![
        Layout::HUB,
        Layout::reference(Dtype::F32),
        layout(Scales::Column, Dtype::F16, DraftHead::Kept),
        layout(Scales::Flat, Dtype::BF16, DraftHead::Kept),
        layout(Scales::Flat, Dtype::F32, DraftHead::Quantised),
        layout(Scales::Blocks([128, 128]), Dtype::BF16, DraftHead::Quantised),
        layout(Scales::Blocks([48, 80]), Dtype::F32, DraftHead::Kept),
        layout(Scales::InverseBlocks([128, 128]), Dtype::F32, DraftHead::Kept),
        layout(Scales::InverseBlocks([16, 16]), Dtype::BF16, DraftHead::Quantised),
    ]
}
