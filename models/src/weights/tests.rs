use burn::tensor::{DType, Device, Tensor};

use super::*;

/// One matrix `w` of 4 x 6 values counting from 0, and a vector `v`.
struct Two {
    w: Vec<u8>,
    v: Vec<u8>,
    v_dtype: StoredDtype,
}

impl Two {
    fn new() -> Self {
        let bytes = |count: i32| (0..count).flat_map(|v| (v as f32).to_le_bytes()).collect();
        Two { w: bytes(24), v: bytes(3), v_dtype: StoredDtype::F32 }
    }
}

impl TensorSource for Two {
    fn names(&self) -> Vec<String> {
        vec!["a.v".into(), "a.w".into()]
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        match name {
            "a.w" => Some(TensorInfo { dtype: StoredDtype::F32, shape: vec![4, 6] }),
            "a.v" => Some(TensorInfo { dtype: self.v_dtype.clone(), shape: vec![3] }),
            _ => None,
        }
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        match name {
            "a.w" => Some(&self.w),
            "a.v" => Some(&self.v),
            _ => None,
        }
    }

    fn release(&self, _name: &str) {}
}

fn with<T>(source: &Two, rank: Rank, read: impl FnOnce(&Loader<'_>) -> T) -> (T, u64) {
    let done = std::cell::Cell::new(0);
    let progress = |bytes| done.set(done.get() + bytes);
    let device = Device::flex();
    let loader = Loader::new(source, &device, rank, Format::plain(DType::F32), &progress);
    let result = read(&loader);
    drop(loader);
    (result, done.get())
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_into_vec_as().unwrap()
}

#[test]
#[cfg(feature = "cpu")]
fn a_rank_reads_its_rows_or_columns_only() {
    let source = Two::new();
    let second = Rank::new(1, 2);
    let read = |split| {
        with(&source, second, |loader| {
            let w = loader.root().at("a");
            w.weight("w", [4, 6], split, OnLoad::Keep).unwrap().dense(DType::F32)
        })
    };
    let (column, bytes) = read(Split::Column);
    assert_eq!(values(column), (12..24).map(|v| v as f32).collect::<Vec<_>>());
    assert_eq!(bytes, 48);
    let (row, bytes) = read(Split::Row);
    assert_eq!(values(row), [3., 4., 5., 9., 10., 11., 15., 16., 17., 21., 22., 23.]);
    assert_eq!(bytes, 48);
    let (whole, bytes) = read(Split::Replicated);
    assert_eq!(values(whole).len(), 24);
    assert_eq!(bytes, 96);
}

#[test]
fn an_axis_that_does_not_divide_is_refused() {
    let source = Two::new();
    let (error, _) = with(&source, Rank::new(0, 5), |loader| {
        let w = loader.root().at("a");
        w.weight("w", [4, 6], Split::Row, OnLoad::Keep).unwrap_err().to_string()
    });
    assert_eq!(error, "tensor `a.w`: an axis of [4, 6] does not divide into 5 equal parts");
}

#[test]
fn errors_name_the_tensor_what_was_found_and_what_was_wanted() {
    let mut source = Two::new();
    source.v_dtype = StoredDtype::Other("I64".into());
    let message = |read: &dyn Fn(&Weights<'_>) -> LoadError| {
        with(&source, Rank::SINGLE, |loader| read(&loader.root().at("a")).to_string()).0
    };
    assert_eq!(
        message(&|w| w.tensor("w", [6, 4]).unwrap_err()),
        "tensor `a.w`: shape [4, 6] in the file, [6, 4] by config.json"
    );
    assert_eq!(
        message(&|w| w.tensor("x", [6, 4]).unwrap_err()),
        "tensor `a.x` is missing from the checkpoint"
    );
    assert_eq!(
        message(&|w| w.tensor("v", [3]).unwrap_err()),
        "tensor `a.v`: dtype I64 in the file, wanted BF16, F16 or F32"
    );
}

#[test]
fn what_nothing_read_is_refused_by_name_unless_ignored() {
    let source = Two::new();
    let device = Device::flex();
    let finish = |ignored: fn(&str) -> bool| {
        let progress = |_| ();
        let format = Format::plain(DType::F32);
        let loader = Loader::new(&source, &device, Rank::SINGLE, format, &progress);
        loader.root().at("a").tensor("w", [4, 6]).unwrap();
        loader.finish(ignored)
    };
    assert!(finish(|name| name == "a.v").is_ok());
    assert_eq!(
        finish(|_| false).unwrap_err().to_string(),
        "the checkpoint has 1 tensor more than config.json calls for: `a.v`"
    );
}

/// An FP8 matrix of 2 x 8 ones, with a scale for each row.
struct Quantised;

impl TensorSource for Quantised {
    fn names(&self) -> Vec<String> {
        vec!["weight".into(), "weight_scale".into()]
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        match name {
            "weight" => Some(TensorInfo { dtype: StoredDtype::F8E4M3, shape: vec![2, 8] }),
            "weight_scale" => Some(TensorInfo { dtype: StoredDtype::F32, shape: vec![2, 1] }),
            _ => None,
        }
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        match name {
            "weight" => Some(&[0x38; 16]),
            _ => Some(&[0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]),
        }
    }

    fn release(&self, _name: &str) {}
}

#[test]
#[cfg(feature = "cpu")]
fn a_rank_reads_its_part_of_an_fp8_matrix() {
    let config = serde_json::json!({"quantization_config": {
        "quant_method": "compressed-tensors", "format": "float-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
            "num_bits": 8, "type": "float", "strategy": "channel"}}}
    }});
    let fields = crate::config::Fields::new(config.as_object().unwrap(), "config.json".as_ref());
    let quantization = crate::config::Quantization::read(&fields).unwrap();
    let (device, progress) = (Device::flex(), |_| ());
    for (split, shape, wanted) in [
        (Split::Row, [2, 4], vec![1., 1., 1., 1., 2., 2., 2., 2.]),
        (Split::Column, [1, 8], vec![2.; 8]),
    ] {
        let format = Format { quantization: quantization.clone(), ..Format::plain(DType::F32) };
        let loader = Loader::new(&Quantised, &device, Rank::new(1, 2), format, &progress);
        let weight = loader.root().weight("weight", [2, 8], split, OnLoad::Quantise).unwrap();
        assert_eq!(weight.dims(), shape);
        assert_eq!(values(weight.dense(DType::F32)), wanted);
        loader.finish(|_| false).expect("both were read");
    }
}
