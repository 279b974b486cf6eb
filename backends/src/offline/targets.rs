//! The devices kernels are compiled for, described as CubeCL's runtimes describe them.

use cubecl::WgpuCompilationOptions;
use cubecl::cuda::CudaRuntime;
use cubecl::ir::features::{AtomicUsage, EnumSet, Plane, Tma, TypeUsage};
use cubecl::ir::{
    AddressType, DeviceProperties, ElemType, FloatKind, HardwareProperties, IntKind, OpaqueType,
    TargetProperties, Type, UIntKind,
};
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::CudaCmmaCompiler;
use cubecl_cpp::shared::{
    CompilationOptions, CppSupportedFeatures, register_mma_features, register_scaled_mma_features,
    register_wmma_features,
};
use cubecl_cpp::{cuda, register_supported_types};
use cubecl_server::runtime::Runtime;

use super::described::{self, Described, Rows, hardware};
use super::hip::hip_device;

/// A device kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// NVIDIA, by compute capability.
    Cuda(u32),
    /// AMD, by the name of its architecture.
    Hip(&'static str),
    /// The backend `gl`, on a driver of OpenGL without extensions.
    Wgsl,
    /// The backend `vulkan`.
    SpirV(Vulkan),
}

/// What a Vulkan driver has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Vulkan {
    /// Planes, f16 and small integers.
    Most,
    /// No extensions that CubeCL can do without, small cubes.
    Least,
}

/// The targets of the tests: H100, Ada, MI300X, RDNA3, WebGPU and Vulkan.
pub(super) const TARGETS: [Target; 7] = [
    Target::Cuda(90),
    Target::Cuda(89),
    Target::Hip("gfx942"),
    Target::Hip("gfx1100"),
    Target::Wgsl,
    Target::SpirV(Vulkan::Most),
    Target::SpirV(Vulkan::Least),
];

impl Target {
    pub(super) fn name(self) -> &'static str {
        match self {
            Target::Cuda(90) => "sm_90",
            Target::Cuda(89) => "sm_89",
            Target::Cuda(_) => "sm",
            Target::Hip(name) => name,
            Target::Wgsl => "wgsl",
            Target::SpirV(Vulkan::Most) => "spirv",
            Target::SpirV(Vulkan::Least) => "spirv-least",
        }
    }

    pub(super) fn properties(self) -> DeviceProperties {
        Described::from(self).properties
    }
}

impl From<Target> for Described {
    fn from(target: Target) -> Self {
        let thorough = target == Target::Cuda(90);
        let (properties, mma) = match target {
            Target::Hip(name) => return hip_device(name),
            Target::Cuda(version) => {
                let properties = cuda_properties(&architecture(version));
                let mma = CudaRuntime::target_properties();
                return Described { name: "cuda", properties, mma, rows: Rows::Pitched, thorough };
            }
            Target::Wgsl => (wgsl_properties(), TargetProperties::default()),
            Target::SpirV(driver) => (vulkan_properties(driver), TargetProperties::default()),
        };
        Described { name: "wgpu", properties, mma, rows: Rows::Contiguous, thorough }
    }
}

fn architecture(version: u32) -> CudaArchitecture {
    CudaArchitecture { version, tensor_cores: CudaArchitecture::has_tensor_cores(version, "") }
}

/// How cubecl-cuda asks for C++.
pub(super) fn cuda_options(version: u32) -> CompilationOptions {
    CompilationOptions {
        warp_size: 32,
        supports_features: CppSupportedFeatures {
            grid_constants: true,
            clusters: version >= 90,
            fast_math: true,
            fast_tanh: true,
            elect_sync: version >= 90,
            dp4a: true,
        },
        amd_wmma: None,
    }
}

/// How cubecl-wgpu asks for SPIR-V.
pub(super) fn vulkan_options(driver: Vulkan) -> WgpuCompilationOptions {
    let most = driver == Vulkan::Most;
    let mut options = WgpuCompilationOptions {
        supports_u64: true,
        supports_vulkan_compiler: true,
        ..Default::default()
    };
    options.vulkan.max_spirv_version = if most { (1, 6) } else { (1, 5) };
    options.vulkan.max_vector_size = 4;
    options.vulkan.push_constant_size = if most { 256 } else { 128 };
    options.vulkan.supports_uniform_standard_layout = most;
    // Without it, cubecl-spirv 0.11.3 makes modules that are not valid of kernels with shared memory.
    options.vulkan.supports_explicit_smem = true;
    options.vulkan.supports_dp4a = most;
    options
}

fn float(kind: FloatKind) -> ElemType {
    ElemType::Float(kind)
}

/// What cubecl-cuda registers from compute capability 8.9 on, short of Blackwell.
fn cuda_properties(arch: &CudaArchitecture) -> DeviceProperties {
    let hopper = arch.version >= 90;
    let hardware = HardwareProperties {
        max_shared_memory_size: if hopper { 227 << 10 } else { 99 << 10 },
        num_streaming_multiprocessors: Some(if hopper { 132 } else { 142 }),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        ..hardware()
    };
    let memory = if hopper { 80 << 30 } else { 48 << 30 };
    let mut device = described::properties("cuda", memory, 512, hardware);
    register_supported_types(&mut device);
    let adds = AtomicUsage::Add | AtomicUsage::LoadStore | AtomicUsage::Exchange;
    device.register_atomic_type_usage(Type::atomic(float(FloatKind::F64)), adds);
    device.register_atomic_type_usage(Type::atomic(float(FloatKind::F16)), AtomicUsage::Add);
    let pair = Type::new(float(FloatKind::F16)).with_vector_size(2);
    device.register_atomic_type_usage(Type::atomic(pair), adds);
    device.register_opaque_type(OpaqueType::Barrier);
    device.register_type_usage(float(FloatKind::TF32), TypeUsage::Conversion);

    let features = &mut device.features;
    features.plane.insert(Plane::Sync);
    features.plane.insert(Plane::Ops);
    features.plane.insert(Plane::NonUniformControlFlow);
    features.copy_async = true;
    features.memory_reinterpret = true;
    features.alignment = true;
    features.device_memory_scope = true;
    for kind in [FloatKind::F16, FloatKind::BF16] {
        features.matmul.ldmatrix.insert(float(kind));
        if hopper {
            features.matmul.stmatrix.insert(float(kind));
        }
    }
    if hopper {
        features.tma.insert(Tma::Base);
        features.cube_cluster = true;
        device.register_opaque_type(OpaqueType::TensorMap);
        for (kind, sizes) in [
            (FloatKind::F16, &[2, 4, 8][..]),
            (FloatKind::BF16, &[2, 4, 8]),
            (FloatKind::F32, &[2, 4]),
        ] {
            for size in sizes {
                let vector = Type::new(float(kind)).with_vector_size(*size);
                device.register_atomic_type_usage(Type::atomic(vector), adds);
            }
        }
    }
    register_wmma_features(CudaCmmaCompiler::Cpp.supported_cmma_combinations(arch), &mut device);
    register_mma_features(cuda::supported_mma_combinations(arch), &mut device);
    register_scaled_mma_features(cuda::supported_scaled_mma_combinations(arch), &mut device);
    device
}

/// Types of 32 bits, atomic integers.
fn register_words(device: &mut DeviceProperties, atomic: impl Into<EnumSet<AtomicUsage>>) {
    device.register_address_type(AddressType::U32);
    let integers = [ElemType::Int(IntKind::I32), ElemType::UInt(UIntKind::U32)];
    for elem in [ElemType::Index, ElemType::Bool, float(FloatKind::F32)].iter().chain(&integers) {
        device.register_type_usage(*elem, TypeUsage::all());
    }
    let atomic = atomic.into();
    for elem in integers {
        device.register_atomic_type_usage(Type::atomic(elem), atomic);
    }
}

/// What cubecl-wgpu registers without extensions.
fn wgsl_properties() -> DeviceProperties {
    let hardware = HardwareProperties {
        plane_size_min: 4,
        plane_size_max: 128,
        // Drivers of OpenGL have 16 at least, and CubeCL leaves one to wgpu.
        max_bindings: 15,
        max_shared_memory_size: 32 << 10,
        max_cube_count: (65_535, 65_535, 65_535),
        max_units_per_cube: 256,
        max_cube_dim: (256, 256, 64),
        max_vector_size: 4,
        ..hardware()
    };
    let mut device = described::properties("wgsl", 4 << 30, 256, hardware);
    register_words(&mut device, AtomicUsage::LoadStore | AtomicUsage::Exchange | AtomicUsage::Add);
    device.register_type_usage(float(FloatKind::Flex32), TypeUsage::all());
    for kind in [FloatKind::E4M3, FloatKind::E5M2, FloatKind::UE8M0] {
        device.register_type_usage(float(kind), TypeUsage::Conversion);
    }
    device
}

/// What cubecl-wgpu registers by the features of a Vulkan driver.
fn vulkan_properties(driver: Vulkan) -> DeviceProperties {
    let most = driver == Vulkan::Most;
    let hardware = HardwareProperties {
        plane_size_min: if most { 32 } else { 4 },
        plane_size_max: if most { 32 } else { 128 },
        max_shared_memory_size: if most { 48 << 10 } else { 32 << 10 },
        max_cube_count: (65_535, 65_535, 65_535),
        max_units_per_cube: if most { 1024 } else { 256 },
        max_cube_dim: if most { (1024, 1024, 64) } else { (256, 256, 64) },
        max_vector_size: 4,
        ..hardware()
    };
    let mut device = described::properties("vulkan", 8 << 30, 256, hardware);
    register_words(&mut device, AtomicUsage::all());
    device.features.plane.insert(Plane::Sync);
    device.features.plane.insert(Plane::NonUniformControlFlow);
    device.features.device_memory_scope = true;
    for elem in [ElemType::Int(IntKind::I64), ElemType::UInt(UIntKind::U64)] {
        device.register_type_usage(elem, TypeUsage::all());
    }
    if most {
        device.features.plane.insert(Plane::Ops);
        for elem in [
            ElemType::Int(IntKind::I8),
            ElemType::Int(IntKind::I16),
            ElemType::UInt(UIntKind::U8),
            ElemType::UInt(UIntKind::U16),
            float(FloatKind::F16),
        ] {
            device.register_type_usage(elem, TypeUsage::all());
        }
        for kind in [FloatKind::E4M3, FloatKind::E5M2, FloatKind::UE8M0] {
            device.register_type_usage(float(kind), TypeUsage::Conversion | TypeUsage::Buffer);
        }
    }
    device
}
