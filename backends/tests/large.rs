//! Experts in a buffer of more than 2^31 elements, as a layer of the 355B models has them in BF16: all
//! but the last are memory that nobody touches, on the emulated GPU.

#![expect(clippy::disallowed_methods, reason = "this test starts itself again")]

mod emulator;

use burn::tensor::{DType, Device, Distribution, Int, Tensor, s};
use glm_backends::ops::{ExpertGroup, ExpertWeights, Routed, moe_experts};
use glm_backends::weight::Weight;

const HIDDEN: usize = 4096;
const WIDTH: usize = 4096;
/// So many that their gates and ups are 2.2e9 elements.
const EXPERTS: usize = 65;

#[test]
fn experts_may_be_past_two_to_the_31_elements() {
    // A buffer may take a quarter of the memory.
    emulator::run_again("the_last_expert_is_itself", &[("GLM_EMULATOR_GIB", "24")]);
}

#[test]
#[ignore = "the test above runs it on the emulated GPU"]
fn the_last_expert_is_itself() {
    if std::env::var("GLM_EMULATOR_GIB").is_err() {
        return;
    }
    let opened = glm_backends::device::open(&"cuda".parse().expect("a device"));
    let device = opened.expect("the emulated GPU").device;
    let random = |shape: [usize; 2], most: f64| -> Tensor<2> {
        Tensor::random(shape, Distribution::Uniform(-most, most), (&device, DType::BF16))
    };
    let gate_up = random([2 * WIDTH, HIDDEN], 0.05);
    let down = random([HIDDEN, WIDTH], 0.05);
    let among_many = weights(EXPERTS, gate_up.clone(), down.clone(), &device);
    let Weight::Dense(held) = &among_many.0 else { panic!("floats") };
    assert!(held.dims().iter().product::<usize>() > 1 << 31);
    let among_many = group(EXPERTS, among_many);
    let alone = group(1, (Weight::Dense(gate_up), Weight::Dense(down)));
    // By lanes, and in tiles.
    for tokens in [1, 20] {
        let x = random([tokens, HIDDEN], 1.0);
        let got = moe_experts(&x, &all_on(EXPERTS - 1, tokens, &device), &among_many);
        let want = moe_experts(&x, &all_on(0, tokens, &device), &alone);
        let [got, want] =
            [got, want].map(|y| y.into_data().try_into_vec_as::<f32>().expect("floats"));
        assert!(want.iter().any(|value| *value != 0.0), "{tokens} tokens");
        assert_eq!(got, want, "{tokens} tokens");
    }
}

/// Stacked weights of `experts`, of which the last one has values.
fn weights(
    experts: usize,
    gate_up: Tensor<2>,
    down: Tensor<2>,
    device: &Device,
) -> (Weight, Weight) {
    let stacked = |last: Tensor<2>| {
        let [rows, width] = last.dims();
        let all = Tensor::<2>::empty([experts * rows, width], (device, DType::BF16));
        Weight::Dense(all.slice_assign(s![(experts - 1) * rows.., ..], last))
    };
    (stacked(gate_up), stacked(down))
}

fn group(experts: usize, (gate_up, down): (Weight, Weight)) -> ExpertWeights {
    ExpertWeights::new(vec![ExpertGroup { experts, gate_up, down }], experts)
}

fn all_on(expert: usize, tokens: usize, device: &Device) -> Routed {
    let ids = vec![expert as i32; tokens];
    Routed {
        experts: Tensor::<1, Int>::from_data(ids.as_slice(), device).reshape([tokens, 1]),
        weights: Tensor::ones([tokens, 1], (device, DType::F32)),
        grouped: None,
    }
}
