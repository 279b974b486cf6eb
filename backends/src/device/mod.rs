//! Devices: which there are, which one to take, and what it can do.
//!
//! Burn starts a device on its first use and panics in a thread of its own where the driver is
//! missing. Everything here looks before that: each backend says what it sees (`cuda`, `rocm`,
//! `wgpu`, `host`), and the chosen device computes something tiny behind a guard (`probe`), so
//! that a device that is not there, or does not work, is an error of one line.

#[cfg(feature = "cuda")]
mod cuda;
mod dtype;
mod error;
#[cfg(feature = "cpu")]
mod host;
mod kept;
mod parity;
mod probe;
#[cfg(feature = "rocm")]
mod rocm;
mod selection;
mod speed;
#[cfg(feature = "wgpu")]
mod wgpu;

use burn::tensor::{DType, Device};

pub use error::DeviceError;
pub use kept::keep_in;
pub use selection::{BackendKind, Selection};
pub use speed::DeviceSpeed;

/// A device that has computed something and is ready for a model.
#[derive(Debug, Clone)]
pub struct OpenDevice {
    /// Which backend it belongs to.
    pub kind: BackendKind,
    /// Its place in [`list`] among the devices of that backend.
    pub index: usize,
    /// What the driver calls it.
    pub name: String,
    /// A software adapter: correct, slow, meant for tests.
    pub software: bool,
    /// The handle that tensors are made with. Its default dtypes are not settled yet.
    pub device: Device,
    /// One line: what was taken, and why.
    pub why: String,
}

/// Memory of a device in bytes, as far as it can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// What the device has.
    pub total: Option<u64>,
    /// What no program holds at this moment.
    pub free: Option<u64>,
}

/// A device as [`list`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Which backend it belongs to.
    pub backend: BackendKind,
    /// The number after the colon in a [`Selection`].
    pub index: usize,
    /// What the driver calls it.
    pub name: String,
    /// All its memory, where it says.
    pub memory_bytes: Option<u64>,
    /// Float dtypes it computes in: of `f32`, `bf16`, `f16`.
    pub dtypes: Vec<&'static str>,
    /// A software adapter.
    pub software: bool,
}

/// What [`list`] says of one device, or of one backend without any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// A device that starts.
    Found(DeviceInfo),
    /// A backend without a device, or a device that does not start.
    Absent {
        /// The backend that was asked.
        backend: BackendKind,
        /// One line: what was looked for, and how to install it.
        reason: String,
    },
}

/// What a backend sees before anything is started.
#[derive(Debug)]
struct Candidate {
    kind: BackendKind,
    index: usize,
    /// `None` where only the started device can tell.
    name: Option<String>,
    software: bool,
    /// Whether `auto` may take it: never a software adapter, never OpenGL.
    automatic: bool,
    /// What to say to who takes it by name.
    caution: Option<&'static str>,
    device: Device,
}

/// What `auto` tries, best first. After Vulkan, `wgpu` stands for Metal and DirectX 12.
const AUTOMATIC: [BackendKind; 5] = [
    BackendKind::Cuda,
    BackendKind::Rocm,
    BackendKind::Vulkan,
    BackendKind::Wgpu,
    BackendKind::Cpu,
];

/// Opens the device that `selection` names, or the best one for [`Selection::Auto`].
///
/// # Errors
/// One line each: the backend is not compiled in, not there, has no such index, or its device
/// does not compute. Never panics because of a driver.
pub fn open(selection: &Selection) -> Result<OpenDevice, DeviceError> {
    match *selection {
        Selection::Auto => open_best(),
        Selection::Named { kind, index } => open_named(kind, index),
    }
}

/// Every device of every backend, or why a backend has none. Starts each device that it finds.
pub fn list() -> Vec<Listing> {
    let mut listings = Vec::new();
    for backend in BackendKind::ALL {
        match candidates(backend) {
            Ok(found) => listings.extend(found.iter().map(describe)),
            Err(error) => listings.push(Listing::Absent { backend, reason: error.reason() }),
        }
    }
    listings
}

/// Opens every device of `kind`, software adapters too. Where there is none, the one error says why.
pub fn open_each(kind: BackendKind) -> Vec<Result<OpenDevice, DeviceError>> {
    match candidates(kind) {
        Ok(found) => {
            let why = "one of all of its backend";
            found.into_iter().map(|candidate| start(candidate, why.into())).collect()
        }
        Err(error) => vec![Err(error)],
    }
}

/// The folder of the CUDA toolkit, whose headers kernels include, where there is one.
pub fn cuda_toolkit() -> Option<std::path::PathBuf> {
    #[cfg(feature = "cuda")]
    return cubecl::cuda::install::cuda_path();
    #[cfg(not(feature = "cuda"))]
    return None;
}

fn open_named(kind: BackendKind, index: usize) -> Result<OpenDevice, DeviceError> {
    let mut found = candidates(kind)?;
    if index >= found.len() {
        let present = found.iter().map(Candidate::label).collect();
        return Err(DeviceError::NoSuchDevice { kind, index, present });
    }
    let candidate = found.swap_remove(index);
    let why = match candidate.caution {
        Some(caution) => format!("asked for by name; {caution}"),
        None => "asked for by name".into(),
    };
    start(candidate, why)
}

fn open_best() -> Result<OpenDevice, DeviceError> {
    let mut passed = Vec::new();
    for kind in AUTOMATIC {
        let attempt = best(kind).and_then(|candidate| {
            let taken = if kind == BackendKind::Cpu { "the CPU".into() } else { candidate.label() };
            let why = match passed.is_empty() {
                true => format!("using {taken}"),
                false => format!("{}: using {taken}", passed.join(", ")),
            };
            start(candidate, why)
        });
        match attempt {
            Ok(device) => return Ok(device),
            Err(error) => passed.push(error.short()),
        }
    }
    Err(DeviceError::Nothing { tried: passed.join(", ") })
}

/// The first device of `kind` that `auto` may take.
fn best(kind: BackendKind) -> Result<Candidate, DeviceError> {
    let (fit, unfit): (Vec<_>, Vec<_>) =
        candidates(kind)?.into_iter().partition(|candidate| candidate.automatic);
    fit.into_iter().next().ok_or_else(|| DeviceError::Absent {
        kind,
        found: match kind {
            BackendKind::Vulkan => "no hardware Vulkan adapter".into(),
            _ => format!("no other GPU through {kind}"),
        },
        remedy: format!(
            "`auto` does not take {}",
            unfit.iter().map(Candidate::label).collect::<Vec<_>>().join(", ")
        ),
    })
}

/// What `kind` sees, best first and never empty.
fn candidates(kind: BackendKind) -> Result<Vec<Candidate>, DeviceError> {
    match kind {
        #[cfg(feature = "cpu")]
        BackendKind::Cpu => Ok(vec![host::candidate()]),
        #[cfg(feature = "wgpu")]
        BackendKind::Wgpu | BackendKind::Gl => wgpu::candidates(kind),
        #[cfg(feature = "vulkan")]
        BackendKind::Vulkan => wgpu::candidates(kind),
        #[cfg(feature = "cuda")]
        BackendKind::Cuda => cuda::candidates(),
        #[cfg(feature = "rocm")]
        BackendKind::Rocm => rocm::candidates(),
        #[cfg(not(all(feature = "cpu", feature = "cuda", feature = "rocm", feature = "vulkan")))]
        kind => Err(DeviceError::NotCompiled { kind }),
    }
}

/// Starts the device and has it compute.
fn start(candidate: Candidate, why: String) -> Result<OpenDevice, DeviceError> {
    let name = probe::guarded(|| probe::compute(&candidate.device).map(|()| candidate.full_name()))
        .flatten()
        .map_err(|reason| DeviceError::Failed { device: candidate.label(), reason })?;
    let Candidate { kind, index, software, device, .. } = candidate;
    Ok(OpenDevice { kind, index, name, software, device, why })
}

/// Starts the device and asks what it has, without computing.
fn describe(candidate: &Candidate) -> Listing {
    let backend = candidate.kind;
    let info = probe::guarded(|| DeviceInfo {
        backend,
        index: candidate.index,
        name: candidate.full_name(),
        memory_bytes: total_memory(backend, &candidate.device),
        dtypes: dtype::floats(&candidate.device),
        software: candidate.software,
    });
    match info {
        Ok(info) => Listing::Found(info),
        Err(reason) => {
            let error = DeviceError::Failed { device: candidate.label(), reason };
            Listing::Absent { backend, reason: error.reason() }
        }
    }
}

fn total_memory(kind: BackendKind, device: &Device) -> Option<u64> {
    match kind {
        #[cfg(feature = "cpu")]
        BackendKind::Cpu => host::memory().total,
        _ => probe::total_memory(device),
    }
}

impl Candidate {
    /// `cuda:0 (NVIDIA H100)`, or `cuda:0` while the name is not known.
    fn label(&self) -> String {
        label(self.kind, self.index, self.name.as_deref())
    }

    /// The name, asked of the started device where the backend did not know it.
    fn full_name(&self) -> String {
        let known = || self.name.clone();
        known().or_else(|| probe::name(&self.device)).unwrap_or_else(|| "unnamed device".into())
    }
}

fn label(kind: BackendKind, index: usize, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{kind}:{index} ({name})"),
        None => format!("{kind}:{index}"),
    }
}

impl OpenDevice {
    /// `cuda:0 (NVIDIA H100)`.
    pub fn label(&self) -> String {
        label(self.kind, self.index, Some(&self.name))
    }

    /// Whether the device stores, converts and computes in `dtype`. The CPU says yes to bf16 and
    /// f16, slowly: see [`OpenDevice::auto_float`].
    pub fn supports(&self, dtype: DType) -> bool {
        self.device.supports_dtype(dtype)
    }

    /// Memory at this moment. `free` is known for the CPU (Linux), CUDA, and ROCm (Linux); wgpu
    /// tells none, and its `total` only through Vulkan and Metal.
    pub fn memory(&self) -> Memory {
        match self.kind {
            #[cfg(feature = "cpu")]
            BackendKind::Cpu => host::memory(),
            #[cfg(feature = "cuda")]
            BackendKind::Cuda => cuda::memory(self.index),
            #[cfg(feature = "rocm")]
            BackendKind::Rocm => rocm::memory(&self.device),
            _ => Memory { total: probe::total_memory(&self.device), free: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_is_listed() {
        let listings = list();
        for kind in BackendKind::ALL {
            let here = |listing: &Listing| match listing {
                Listing::Found(info) => info.backend == kind,
                Listing::Absent { backend, reason } => *backend == kind && !reason.is_empty(),
            };
            assert!(listings.iter().any(here), "{kind} is not in {listings:?}");
        }
    }

    #[test]
    fn auto_ends_at_the_cpu_and_leaves_gl_alone() {
        assert_eq!(AUTOMATIC.last(), Some(&BackendKind::Cpu));
        assert!(!AUTOMATIC.contains(&BackendKind::Gl));
    }

    #[test]
    fn labels_name_what_can_be_typed() {
        assert_eq!(label(BackendKind::Cuda, 1, Some("NVIDIA H100")), "cuda:1 (NVIDIA H100)");
        assert_eq!(label(BackendKind::Rocm, 0, None), "rocm:0");
    }
}
