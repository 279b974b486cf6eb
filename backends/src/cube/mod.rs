//! What the CubeCL kernels share: from Burn's tensors to buffers and back, what a device can do,
//! and the pieces that kernels are made of.
//!
//! Only `ops/*/launch.rs` launches kernels. Every kernel takes plain slices, with row strides and
//! widths as compile-time constants where they belong to the model, and reads what changes from
//! step to step from buffers, so that a captured step can be replayed.

mod codes;
mod matrix;
mod mma;
mod pages;
mod rotation;
mod rows;
mod sums;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::backend::{
    BackendTensor, DispatchAutodiffContext, DispatchDevice, DispatchTensor, DispatchTensorKind,
};
use burn::tensor::{DType, Device, Int, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::ir::features::{MmaConfig, Plane};
use cubecl::prelude::*;

pub(crate) use codes::*;
pub(crate) use matrix::{MatrixBuffers, NO_GROUPS};
pub(crate) use mma::multiply;
pub(crate) use pages::*;
pub(crate) use rotation::*;
pub(crate) use rows::*;
pub(crate) use sums::*;

/// Most tokens of a step in which reading weights is most of the work: rows of a weight are then read
/// by lanes, once for all tokens, and not in tiles.
pub(crate) const FEW_TOKENS: usize = 16;

/// Launches of kernels of ours by this process.
static LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// The client of a launch, which is counted.
pub(crate) fn counted(client: &Client) -> &Client {
    LAUNCHES.fetch_add(1, Ordering::Relaxed);
    client
}

/// What was counted so far.
pub(crate) fn launches() -> u64 {
    LAUNCHES.load(Ordering::Relaxed)
}

/// Whether tensors of the device are CubeCL's.
pub(crate) fn computes_on(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Cube(_))
}

/// The largest buffer of weights on a device of CubeCL's: at most 8 GiB, and what the device binds.
pub(crate) fn most_bytes_of_buffer(device: &Device) -> Option<usize> {
    let DispatchDevice::Cube(device) = device.as_dispatch() else { return None };
    let most = device.client().properties().memory.max_page_size;
    Some(most.min(8 << 30) as usize)
}

/// A tensor's buffer, its rows one after the other.
pub(crate) fn floats<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    into_contiguous(strided(tensor))
}

/// A tensor's buffer, whatever its strides are.
pub(crate) fn strided<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    match tensor.into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Float(tensor)) => tensor,
        other => panic!("a tensor of floats on a GPU, not {other:?}"),
    }
}

/// A matrix's buffer, whose rows may lie apart, as those of some columns of a wider one do.
pub(crate) fn rows(matrix: Tensor<2>) -> CubeTensor {
    let matrix = strided(matrix);
    match matrix.meta.strides()[1] {
        1 => matrix,
        _ => into_contiguous(matrix),
    }
}

/// Columns of a matrix where they lie; `None` where no buffer can begin there.
pub(crate) fn columns(matrix: &Tensor<2>, columns: Range<usize>) -> Option<Tensor<2>> {
    let mut matrix = strided(matrix.clone());
    let start = (columns.start * matrix.dtype.size()) as u64;
    if matrix.meta.strides()[1] != 1
        || !start.is_multiple_of(matrix.client.properties().memory.alignment)
    {
        return None;
    }
    matrix.handle = matrix.handle.offset_start(start);
    matrix.meta.shape = Shape::from([matrix.meta.shape()[0], columns.len()]);
    Some(tensor(matrix))
}

/// Integers of 32 bits, one after the other.
pub(crate) fn ints<const D: usize>(tensor: Tensor<D, Int>) -> CubeTensor {
    into_contiguous(strided_ints(tensor))
}

/// Integers of 32 bits, whatever their strides are.
pub(crate) fn strided_ints<const D: usize>(tensor: Tensor<D, Int>) -> CubeTensor {
    let tensor = match tensor.dtype() {
        DType::I32 | DType::U32 => tensor,
        _ => tensor.cast(DType::I32),
    };
    match tensor.into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Int(tensor)) => tensor,
        other => panic!("a tensor of integers on a GPU, not {other:?}"),
    }
}

/// The tensor of a buffer of floats.
pub(crate) fn tensor<const D: usize>(buffer: CubeTensor) -> Tensor<D> {
    from_kind(BackendTensor::Float(buffer))
}

/// The tensor of a buffer of integers.
pub(crate) fn int_tensor<const D: usize>(buffer: CubeTensor) -> Tensor<D, Int> {
    Tensor::from_dispatch(DispatchTensor {
        kind: DispatchTensorKind::Cube(BackendTensor::Int(buffer)),
        autodiff: DispatchAutodiffContext::Disabled,
    })
}

fn from_kind<const D: usize>(tensor: BackendTensor<burn::backend::Cube>) -> Tensor<D> {
    Tensor::from_dispatch(DispatchTensor {
        kind: DispatchTensorKind::Cube(tensor),
        autodiff: DispatchAutodiffContext::Disabled,
    })
}

/// An uninitialised buffer on the device of `like`, its rows one after the other.
pub(crate) fn empty<const D: usize>(
    like: &CubeTensor,
    shape: [usize; D],
    dtype: DType,
) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        Shape::from(shape),
        dtype,
    )
}

/// What kernels call a dtype.
pub(crate) fn elem(dtype: DType) -> ElemType {
    burn::backend::cubecl::dtype_to_storage_type(dtype)
}

/// Dimensions of a buffer.
///
/// # Panics
/// When it has another number of them.
pub(crate) fn dims<const D: usize>(buffer: &CubeTensor) -> [usize; D] {
    let shape: Vec<usize> = buffer.meta.shape().iter().copied().collect();
    shape.try_into().unwrap_or_else(|shape| panic!("{D} dimensions, not {shape:?}"))
}

/// Elements from one row of a matrix to the next.
///
/// # Panics
/// When the values of a row do not lie side by side.
pub(crate) fn row_stride(matrix: &CubeTensor) -> usize {
    let strides = matrix.meta.strides();
    assert!(strides.len() == 2 && (strides[1] == 1 || matrix.meta.shape()[1] == 1), "{matrix:?}");
    strides[0]
}

/// The most values that one load takes: of 16 bytes at most, so that all of `lengths` (widths and
/// strides in elements) are multiples of it.
pub(crate) fn vector_size(elem_size: usize, lengths: &[usize]) -> usize {
    let most = 16 / elem_size;
    let fits = |size: &usize| lengths.iter().all(|length| length.is_multiple_of(*size));
    [8, 4, 2, 1].into_iter().filter(|size| *size <= most).find(fits).unwrap_or(1)
}

/// Cubes for `count` of something, in two axes where one does not hold them. Kernels take
/// `CUBE_POS` and stop past the count.
pub(crate) fn cubes(count: usize) -> CubeCount {
    const MOST: usize = 65_535;
    let rows = count.div_ceil(MOST).max(1);
    CubeCount::Static(count.div_ceil(rows).max(1) as u32, rows as u32, 1)
}

/// What a device can do, as far as kernels choose by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// Units of a plane that sums among themselves, where the device has planes of one size.
    pub(crate) plane: Option<usize>,
    /// Bytes of shared memory that a cube may take.
    pub(crate) shared_memory: usize,
    /// Most units of a cube.
    pub(crate) units: usize,
    /// Multiprocessors, or a guess where the device does not tell.
    pub(crate) multiprocessors: usize,
    /// Whether E4M3 is converted in hardware.
    pub(crate) e4m3: bool,
    /// Whether planes of 32 multiply E4M3 codes, 16 rows of 32 by 8.
    pub(crate) codes: bool,
    /// Whether planes of 32 multiply 16 rows of 16 by 8 of bf16, and of f16.
    products: [bool; 2],
    /// Whether planes multiply matrices of 16 x 16 bf16, and of f16, with sums in f32.
    pub(crate) matrices: [bool; 2],
}

impl Abilities {
    /// Of a device of CubeCL's.
    ///
    /// # Panics
    /// For the CPU.
    pub(crate) fn of_device(device: &Device) -> Self {
        let DispatchDevice::Cube(device) = device.as_dispatch() else { panic!("a GPU") };
        Self::of(&device.client())
    }

    pub(crate) fn of(client: &Client) -> Self {
        let properties = client.properties();
        let hardware = &properties.hardware;
        let (least, most) = (hardware.plane_size_min, hardware.plane_size_max);
        let planes = properties.features.plane.contains(Plane::Ops) && least == most && least > 1;
        let e4m3 = ElemType::Float(cubecl::ir::FloatKind::E4M3);
        Abilities {
            plane: planes.then_some(least as usize),
            shared_memory: hardware.max_shared_memory_size,
            units: hardware.max_units_per_cube as usize,
            multiprocessors: hardware.num_streaming_multiprocessors.unwrap_or(64) as usize,
            e4m3: properties.features.types.elem.contains_key(&e4m3),
            codes: planes && least == 32 && {
                let (a_type, b_type) = (e4m3, e4m3);
                let cd_type = elem(DType::F32);
                let config = MmaConfig { a_type, b_type, cd_type, m: 16, n: 8, k: 32 };
                properties.features.matmul.mma.contains(&config)
            },
            products: [DType::BF16, DType::F16].map(|dtype| {
                let (a_type, cd_type) = (elem(dtype), elem(DType::F32));
                let config = MmaConfig { a_type, b_type: a_type, cd_type, m: 16, n: 8, k: 16 };
                planes && least == 32 && properties.features.matmul.mma.contains(&config)
            }),
            matrices: [DType::BF16, DType::F16].map(|dtype| {
                // CubeCL 0.11.3 writes matrices of a type for bf16 that rocWMMA does not know.
                if dtype == DType::BF16 && client.name() == "hip" {
                    return false;
                }
                let config = MmaConfig {
                    a_type: elem(dtype),
                    b_type: elem(dtype),
                    cd_type: elem(DType::F32),
                    m: 16,
                    n: 16,
                    k: 16,
                };
                properties.features.matmul.cmma.contains(&config)
            }),
        }
    }

    /// Whether planes multiply 16 rows of 16 by 8 of `dtype`, lane by lane as PTX says.
    pub(crate) fn products_of(self, dtype: DType) -> bool {
        match dtype {
            DType::BF16 => self.products[0],
            DType::F16 => self.products[1],
            _ => false,
        }
    }

    /// Whether planes multiply matrices of `dtype`.
    pub(crate) fn multiplies(self, dtype: DType) -> bool {
        match dtype {
            DType::BF16 => self.matrices[0],
            DType::F16 => self.matrices[1],
            _ => false,
        }
    }

    /// Units of a plane for kernels: 0 where sums go through shared memory.
    pub(crate) fn plane_size(self) -> usize {
        self.plane.unwrap_or(0)
    }
}
