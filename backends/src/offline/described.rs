//! What a device that is not there says of itself.

use cubecl::ir::{
    DeviceIdentity, DeviceProperties, HardwareProperties, MemoryDeviceProperties, TargetProperties,
};
use cubecl::profile::TimingMethod;

/// A device, as ops and CubeCL see it.
#[derive(Debug, Clone)]
pub struct Described {
    /// What CubeCL calls its runtime.
    pub name: &'static str,
    /// What it can do, and its limits.
    pub properties: DeviceProperties,
    /// How it multiplies matrices.
    pub mma: TargetProperties,
    /// How CubeCL lays out the rows of new tensors.
    pub rows: Rows,
    /// Whether every shape of every model is launched in the usual dtype, and not the few that show
    /// whether a kernel compiles at all.
    pub thorough: bool,
}

/// Where the rows of a tensor begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// At multiples of the alignment.
    Pitched,
    /// One after the other.
    Contiguous,
}

pub(super) fn hardware() -> HardwareProperties {
    HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: 64 << 10,
        max_cube_count: (i32::MAX as u32, 65_535, 65_535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: None,
        num_cpu_cores: None,
        last_level_cache_size: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        max_vector_size: usize::MAX,
        cube_mma_reserved_shared_memory: 0,
    }
}

pub(super) fn properties(
    name: &str,
    memory: u64,
    alignment: u64,
    hardware: HardwareProperties,
) -> DeviceProperties {
    DeviceProperties::new(
        Default::default(),
        MemoryDeviceProperties::new(memory / 4, alignment).with_max_memory(memory),
        hardware,
        TimingMethod::Device,
        DeviceIdentity { name: name.into(), fingerprint: name.into(), physical: None },
    )
}
