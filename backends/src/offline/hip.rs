//! AMD's devices, described as cubecl-hip describes them.

use cubecl::hip::{HipCompilationOptions, HipRuntime};
use cubecl::ir::amd::GfxArch;
use cubecl::ir::features::Plane;
use cubecl::ir::{DeviceProperties, HardwareProperties};
use cubecl_cpp::hip::mma::HipCmmaCompiler;
use cubecl_cpp::shared::{
    CompilationOptions, CppSupportedFeatures, register_mma_features, register_scaled_mma_features,
    register_wmma_features,
};
use cubecl_cpp::{hip, register_supported_types};
use cubecl_server::runtime::Runtime;

use super::described::{Described, Rows, hardware, properties};

/// A device by the name of its architecture, as kernels in C++ find it. With kernels in LLVM,
/// cubecl-hip takes away of its features what those do not have.
pub fn hip_device(name: &'static str) -> Described {
    Described {
        name: "hip",
        properties: hip_properties(&GfxArch::parse(name)),
        mma: HipRuntime::target_properties(),
        rows: Rows::Pitched,
        thorough: false,
    }
}

/// How cubecl-hip asks for C++ and for LLVM.
pub fn hip_options(name: &str) -> HipCompilationOptions {
    let gfx = GfxArch::parse(name);
    let plane = gfx.plane_dim().expect("an architecture that CubeCL knows");
    HipCompilationOptions {
        cpp: CompilationOptions {
            warp_size: plane as usize,
            supports_features: CppSupportedFeatures { fast_math: true, ..Default::default() },
            amd_wmma: gfx.wmma(),
        },
        arch: Some(gfx),
    }
}

/// What cubecl-hip registers.
fn hip_properties(gfx: &GfxArch) -> DeviceProperties {
    let arch = gfx.family();
    let plane = gfx.plane_dim().expect("an architecture that CubeCL knows");
    let wmma = HipCmmaCompiler::RocWmma.supported_cmma_combinations(&arch);
    let hardware = HardwareProperties {
        plane_size_min: plane,
        plane_size_max: plane,
        max_cube_dim: (1024, 1024, 1024),
        num_streaming_multiprocessors: Some(if plane == 64 { 304 } else { 48 }),
        min_tensor_cores_dim: (!wmma.is_empty()).then_some(16),
        ..hardware()
    };
    let memory = if plane == 64 { 192 << 30 } else { 24 << 30 };
    let mut device = properties("hip", memory, 256, hardware);
    register_supported_types(&mut device);
    device.features.memory_reinterpret = true;
    device.features.alignment = true;
    device.features.device_memory_scope = true;
    device.features.plane.insert(Plane::Ops);
    device.features.plane.insert(Plane::NonUniformControlFlow);
    register_wmma_features(wmma, &mut device);
    register_mma_features(hip::supported_mma_combinations(&arch), &mut device);
    register_scaled_mma_features(hip::supported_scaled_mma_combinations(&arch), &mut device);
    device
}
