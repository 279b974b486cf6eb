//! Proof of kernels without a GPU: the ops launch theirs on devices that are not there, and what
//! was launched is compiled for each of them.
//!
//! - `rows`, `attention`: the ops, on the shapes of the models
//! - `server`: a server of CubeCL that keeps launches and runs none
//! - `described`, `hip`, `targets`: what the devices can do, as CubeCL would find out
//! - `lower`, `compile`: from a launch to the text or the words that a driver would get
//! - `nvrtc`: from CUDA C++ to machine code, its registers and spills
//!
//! The feature `offline` shows the part of it that AMD's devices take to `backends/offline-rocm`.

mod attention;
#[cfg(test)]
mod compile;
mod described;
mod hip;
#[cfg(test)]
mod layers;
mod lower;
#[cfg(test)]
mod nvrtc;
mod rows;
mod server;
#[cfg(test)]
mod targets;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, Ordering};

use burn::tensor::{DType, Int, Shape, Tensor};
use burn_cubecl::CubeDevice;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::device::CudaDevice;
use cubecl_core::device::DeviceId;

use crate::cube;
pub use described::{Described, Rows};
pub use hip::{hip_device, hip_options};
pub use lower::{shares_at_most, unless_it_panics};
use rows::{MODELS, Model, ROWS, Row};
pub use server::Launch;
use server::{Launches, OfflineServer};

/// A kernel that an op launched.
#[expect(missing_debug_implementations, reason = "kernels have none")]
pub struct Launched {
    /// The op.
    pub op: &'static str,
    /// Whether it runs for every token.
    pub hot: bool,
    /// What its activations are kept in.
    pub dtype: DType,
    /// The kernel, and how it was launched.
    pub launch: Launch,
}

/// What all ops launch on a device, each kernel once, in an order that stays.
pub fn kernels(device: Described) -> Vec<Launched> {
    launched(&Offline::new(device), ROWS)
}

/// What rows launch on a device, each kernel once.
fn launched(device: &Offline, rows: &[Row]) -> Vec<Launched> {
    let mut kernels = HashMap::new();
    for Row { op, hot, launch } in rows {
        for dtype in device.dtypes() {
            for model in device.models(dtype) {
                launch(device, dtype, model);
            }
            let launches = device.take();
            assert!(!launches.is_empty(), "{op} launches no kernel of ours on {}", device.name);
            for launch in launches {
                let id = launch.id.clone();
                kernels.entry(id).or_insert(Launched { op, hot: *hot, dtype, launch });
            }
        }
    }
    let mut kernels: Vec<_> = kernels.into_values().collect();
    kernels.sort_by_cached_key(|kernel| kernel.launch.id.to_string());
    kernels
}

/// A device that is not there.
pub(crate) struct Offline {
    name: &'static str,
    thorough: bool,
    client: Client,
    launches: Launches,
}

impl Offline {
    fn new(device: impl Into<Described>) -> Self {
        // Each server is registered once; the type keeps them apart from devices that are there.
        static OPENED: AtomicU16 = AtomicU16::new(0);
        let id = DeviceId::new(u16::MAX, OPENED.fetch_add(1, Ordering::Relaxed));
        let device = device.into();
        let (name, thorough) = (device.name, device.thorough);
        let launches = Launches::default();
        let server = OfflineServer::new(id, device, launches.clone());
        let client = Client::init(id, server);
        Offline { name, thorough, client, launches }
    }

    /// A buffer without memory.
    pub(crate) fn buffer<const D: usize>(&self, shape: [usize; D], dtype: DType) -> CubeTensor {
        // Burn wants the name of a device of its own; nothing looks it up.
        let device = CubeDevice::Cuda(CudaDevice::new(usize::from(u16::MAX)));
        empty_device_contiguous_dtype(self.client.clone(), device, Shape::from(shape), dtype)
    }

    /// A tensor of floats.
    pub(crate) fn floats<const D: usize>(&self, shape: [usize; D], dtype: DType) -> Tensor<D> {
        cube::tensor(self.buffer(shape, dtype))
    }

    /// A tensor of integers of 32 bits.
    pub(crate) fn ints<const D: usize>(&self, shape: [usize; D]) -> Tensor<D, Int> {
        cube::int_tensor(self.buffer(shape, DType::I32))
    }

    /// Dtypes that buffers may hold, the one that models are kept in first.
    fn dtypes(&self) -> Vec<DType> {
        let holds = |dtype: &DType| self.client.properties().supports_type(cube::elem(*dtype));
        [DType::BF16, DType::F16, DType::F32].into_iter().filter(holds).collect()
    }

    /// Whether every shape of every model is launched, and not the few that show whether a kernel
    /// compiles at all.
    fn is_thorough(&self, dtype: DType) -> bool {
        self.thorough && dtype == DType::BF16
    }

    /// Whether models are kept in a dtype where there is a choice.
    fn is_usual(&self, dtype: DType) -> bool {
        self.dtypes()[0] == dtype
    }

    /// Models whose shapes are launched. Each attention is in the first two.
    fn models(&self, dtype: DType) -> &'static [Model] {
        match dtype {
            _ if self.is_thorough(dtype) => MODELS,
            _ if self.is_usual(dtype) => &MODELS[..2],
            DType::F32 => &MODELS[..1],
            _ => &MODELS[1..2],
        }
    }

    /// The most that a buffer may hold.
    fn most_bytes(&self) -> usize {
        self.client.properties().memory.max_page_size as usize
    }

    /// All that was launched since this was last asked.
    fn take_all(&self) -> Vec<Launch> {
        let flushed = self.client.flush();
        flushed.expect("a server that does nothing");
        let launches = std::mem::take(&mut *self.launches.lock().expect("launches"));
        launches.into_values().collect()
    }

    /// Our kernels that were launched since this was last asked.
    fn take(&self) -> Vec<Launch> {
        let ours = module_path!().split("::").next().expect("a crate");
        let mut launches: Vec<_> = self
            .take_all()
            .into_iter()
            .filter(|launch| launch.kernel.name().starts_with(ours))
            .collect();
        launches.sort_by_key(|launch| launch.id.to_string());
        launches
    }
}
