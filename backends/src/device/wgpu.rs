//! What wgpu sees: the adapters of one graphics API, in the order that `glm devices` prints.
//!
//! CubeCL names an adapter by its kind and its place among those of that kind, and settles on an
//! API by the same rule as [`settle`]; the two have to agree.

use burn::tensor::Device;
use cubecl::future::block_on;
use cubecl::wgpu::wgpu::{AdapterInfo, Backend, DeviceType, Instance, InstanceDescriptor};
use cubecl::wgpu::{AutoGraphicsApi, WgpuBackend, WgpuDevice, WgpuDeviceKind};

use super::probe::guarded;
use super::{BackendKind, Candidate, DeviceError};

/// The adapters for `kind`: those of Vulkan, of OpenGL, or of the API that wgpu settles on.
pub(super) fn candidates(kind: BackendKind) -> Result<Vec<Candidate>, DeviceError> {
    let (backend, apis) = match kind {
        BackendKind::Vulkan => (WgpuBackend::Vulkan, vec![Backend::Vulkan]),
        BackendKind::Gl => (WgpuBackend::Gl, vec![Backend::Gl]),
        _ => (WgpuBackend::Auto, AutoGraphicsApi::chain()),
    };
    let adapters = guarded(|| settle(&apis)).map_err(|reason| absent(kind, Some(reason)))?;
    let kinds = number(adapters.iter().map(|adapter| adapter.device_type));
    let mut found: Vec<_> = adapters.iter().zip(kinds).filter_map(|(a, k)| Some((a, k?))).collect();
    found.sort_by_key(|(adapter, _)| rank(adapter.device_type));
    if found.is_empty() {
        return Err(absent(kind, None));
    }
    let candidates = found.into_iter().enumerate().map(|(index, (adapter, device_kind))| {
        let software = is_software(adapter);
        Candidate {
            kind,
            index,
            name: Some(match kind {
                BackendKind::Wgpu => format!("{} through {}", adapter.name, adapter.backend),
                _ => adapter.name.clone(),
            }),
            software,
            automatic: !software && adapter.backend != Backend::Gl,
            caution: caution(adapter.backend, software),
            device: Device::new(WgpuDevice::new(device_kind).on(backend)),
        }
    });
    Ok(candidates.collect())
}

/// The adapters of the first API with a GPU, otherwise of the first with anything.
fn settle(apis: &[Backend]) -> Vec<AdapterInfo> {
    let mut software = Vec::new();
    for api in apis {
        let adapters = adapters(*api);
        if adapters.iter().any(|adapter| adapter.device_type != DeviceType::Cpu) {
            return adapters;
        }
        if software.is_empty() {
            software = adapters;
        }
    }
    software
}

/// What `api` enumerates. No device is created.
fn adapters(api: Backend) -> Vec<AdapterInfo> {
    let instance = Instance::new(InstanceDescriptor {
        backends: api.into(),
        ..InstanceDescriptor::new_without_display_handle()
    });
    let adapters = block_on(instance.enumerate_adapters(api.into()));
    adapters.iter().map(|adapter| adapter.get_info()).collect()
}

/// CubeCL's name for each adapter of an enumeration. Of the software ones it can reach the first.
fn number(types: impl Iterator<Item = DeviceType>) -> Vec<Option<WgpuDeviceKind>> {
    let mut seen = [0; 5];
    let kinds = types.map(|device_type| {
        let nth = seen[rank(device_type)];
        seen[rank(device_type)] += 1;
        match device_type {
            DeviceType::DiscreteGpu => Some(WgpuDeviceKind::DiscreteGpu(nth)),
            DeviceType::IntegratedGpu => Some(WgpuDeviceKind::IntegratedGpu(nth)),
            DeviceType::VirtualGpu => Some(WgpuDeviceKind::VirtualGpu(nth)),
            DeviceType::Other => Some(WgpuDeviceKind::Other(nth)),
            DeviceType::Cpu => (nth == 0).then_some(WgpuDeviceKind::Cpu),
        }
    });
    kinds.collect()
}

/// Best first: device 0 is what a user without a wish should get.
fn rank(device_type: DeviceType) -> usize {
    match device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

/// By type, and by name for the drivers that report another type.
fn is_software(adapter: &AdapterInfo) -> bool {
    const NAMES: [&str; 5] = ["llvmpipe", "lavapipe", "softpipe", "swiftshader", "basic render"];
    let text = format!("{} {}", adapter.name, adapter.driver).to_lowercase();
    adapter.device_type == DeviceType::Cpu || NAMES.iter().any(|name| text.contains(name))
}

fn caution(api: Backend, software: bool) -> Option<&'static str> {
    match (api, software) {
        (Backend::Gl, true) => Some("a software adapter on OpenGL: slow, f32 only, for tests"),
        (Backend::Gl, false) => Some("OpenGL computes in f32 only"),
        (Backend::Vulkan, true) => Some(
            "a software adapter: slow, and Mesa's software Vulkan is known to crash (`gl` is \
             better for tests, `cpu` for speed)",
        ),
        (_, true) => Some("a software adapter: slow (`cpu` is better)"),
        (_, false) => None,
    }
}

fn absent(kind: BackendKind, panic: Option<String>) -> DeviceError {
    let (found, remedy) = match kind {
        BackendKind::Vulkan => (
            "no Vulkan adapter",
            "install the GPU's Vulkan driver and the loader (Debian: libvulkan1, \
             mesa-vulkan-drivers; NVIDIA's driver has its own)",
        ),
        BackendKind::Gl => {
            ("no OpenGL adapter through EGL", "install Mesa (Debian: libegl1, libgl1-mesa-dri)")
        }
        _ => (
            "no adapter for wgpu (Vulkan, Metal, DirectX 12, OpenGL)",
            "install the GPU's graphics driver",
        ),
    };
    let found = match panic {
        Some(panic) => format!("{found}: {panic}"),
        None => found.into(),
    };
    DeviceError::Absent { kind, found, remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_numbered_among_their_kind() {
        use DeviceType::{Cpu, DiscreteGpu, IntegratedGpu, Other};
        let kinds = number([Cpu, DiscreteGpu, IntegratedGpu, DiscreteGpu, Other, Cpu].into_iter());
        assert_eq!(
            kinds,
            [
                Some(WgpuDeviceKind::Cpu),
                Some(WgpuDeviceKind::DiscreteGpu(0)),
                Some(WgpuDeviceKind::IntegratedGpu(0)),
                Some(WgpuDeviceKind::DiscreteGpu(1)),
                Some(WgpuDeviceKind::Other(0)),
                None,
            ]
        );
    }

    #[test]
    fn software_is_known_by_type_and_by_name() {
        let adapter = |device_type, name: &str| {
            let mut info = AdapterInfo::new(device_type, Backend::Vulkan);
            info.name = name.into();
            info
        };
        assert!(is_software(&adapter(DeviceType::Cpu, "anything")));
        assert!(is_software(&adapter(DeviceType::Other, "SwiftShader Device (LLVM 16)")));
        assert!(!is_software(&adapter(DeviceType::DiscreteGpu, "AMD Radeon RX 7900 XTX")));
    }

    #[test]
    fn a_discrete_gpu_comes_first_and_software_last() {
        let mut types = [DeviceType::Cpu, DeviceType::IntegratedGpu, DeviceType::DiscreteGpu];
        types.sort_by_key(|device_type| rank(*device_type));
        assert_eq!(types[0], DeviceType::DiscreteGpu);
        assert_eq!(types[2], DeviceType::Cpu);
    }
}
