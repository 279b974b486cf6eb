//! Reference checkpoints and the values recorded of them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use glm_backends::cpu::Isa;
use glm_backends::device::{self, OpenDevice};
use glm_models::trace::{TensorRecord, Values};
use glm_runtime::load::ModelFiles;
use glm_runtime::{DtypeChoice, Engine, EngineConfig};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

/// A reference checkpoint's folder, or another reference file, beside the repository, or `None` with a printed reason.
pub(crate) fn reference(name: &str) -> Option<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/oracles/public");
    let folder = Path::new(root).join(name);
    if folder.exists() {
        return Some(folder);
    }
    drop(writeln!(std::io::stderr(), "skipped: no reference {name} in ../shared"));
    None
}

/// A checkpoint of `tests/fixtures` with glm-tiny's tokenizer beside it, in a folder of its own.
pub(crate) fn fixture(name: &str) -> TempDir {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder");
    let stored = tests.join("fixtures").join(name);
    for file in ["config.json", "model.safetensors", "golden.safetensors"] {
        std::fs::copy(stored.join(file), folder.path().join(file)).expect(file);
    }
    let tokenizer = tests.join("../cli/assets/glm-tiny/tokenizer.json");
    std::fs::copy(tokenizer, folder.path().join("tokenizer.json")).expect("tokenizer");
    folder
}

/// A device by name, or `None` with a printed reason.
pub(crate) fn device(name: &str) -> Option<OpenDevice> {
    LazyLock::force(&ISA);
    match device::open(&name.parse().expect("a device name")) {
        Ok(device) => Some(device),
        Err(error) => {
            drop(writeln!(std::io::stderr(), "skipped: {error}"));
            None
        }
    }
}

/// Instructions of the CPU to which `GLM_TEST_ISA` limits the kernels of these tests.
#[expect(clippy::disallowed_methods, reason = "the path is chosen by the environment")]
static ISA: LazyLock<()> = LazyLock::new(|| {
    let Ok(name) = std::env::var("GLM_TEST_ISA") else { return };
    let isa = Isa::by_name(&name).unwrap_or_else(|| panic!("GLM_TEST_ISA={name} is not known"));
    isa.limit();
    drop(writeln!(std::io::stderr(), "kernels of the CPU: {}", Isa::current().name()));
});

/// The GPU of `GLM_TEST_DEVICE`, or OpenGL.
#[expect(clippy::disallowed_methods, reason = "the device is chosen by the environment")]
pub(crate) fn gpu() -> &'static str {
    static NAME: LazyLock<String> =
        LazyLock::new(|| std::env::var("GLM_TEST_DEVICE").unwrap_or_else(|_| "gl".into()));
    &NAME
}

/// To be held while a GPU computes; nothing on the CPU. Where it is the CPU that computes for it, and
/// Burn times kernels against each other, several tests at once only slow and mislead it.
pub(crate) fn turn(device: &str) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    (device != "cpu").then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The checkpoint in `folder` on `device`.
pub(crate) fn engine(folder: &Path, device: &OpenDevice, dtype: DtypeChoice) -> Engine {
    let config = EngineConfig { dtype, max_context: Some(2048), ..EngineConfig::default() };
    load(folder, device, &config)
}

/// The same with every choice.
pub(crate) fn load(folder: &Path, device: &OpenDevice, config: &EngineConfig) -> Engine {
    let files = ModelFiles::open(folder).expect("model folder");
    Engine::load(files, device, config, &mut |_| ()).expect("load")
}

/// A file of recorded tensors.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn open(path: &Path) -> Self {
        Golden(std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let tensors = SafeTensors::deserialize(&self.0).expect("safetensors");
        tensors.names().into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.read(name, Dtype::F32, f32::from_le_bytes)
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<i64> {
        self.read(name, Dtype::I64, i64::from_le_bytes)
    }

    pub(crate) fn tokens(&self, name: &str) -> Vec<u32> {
        self.ids(name).into_iter().map(|id| id as u32).collect()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let tensors = SafeTensors::deserialize(&self.0).expect("safetensors");
        tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).data().to_vec()
    }

    fn read<T, const N: usize>(&self, name: &str, dtype: Dtype, of: fn([u8; N]) -> T) -> Vec<T> {
        let tensors = SafeTensors::deserialize(&self.0).expect("safetensors");
        let tensor = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        tensor.data().as_chunks::<N>().0.iter().map(|bytes| of(*bytes)).collect()
    }
}

/// The recorded floats called `name`.
pub(crate) fn floats<'a>(records: &'a [(String, TensorRecord)], name: &str) -> &'a [f32] {
    match find(records, name) {
        Values::F32(values) => values,
        Values::I64(_) => panic!("{name} holds ids"),
    }
}

/// The recorded ids called `name`.
pub(crate) fn ids<'a>(records: &'a [(String, TensorRecord)], name: &str) -> &'a [i64] {
    match find(records, name) {
        Values::I64(values) => values,
        Values::F32(_) => panic!("{name} holds floats"),
    }
}

fn find<'a>(records: &'a [(String, TensorRecord)], name: &str) -> &'a Values {
    let record = records.iter().find(|(held, _)| held == name);
    &record.unwrap_or_else(|| panic!("{name} was not recorded")).1.values
}

/// `|got - want| / |want|` in the L2 norm.
pub(crate) fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "lengths");
    let square = |value: f32| f64::from(value) * f64::from(value);
    let distance: f64 = got.iter().zip(want).map(|(got, want)| square(got - want)).sum();
    let length: f64 = want.iter().map(|want| square(*want)).sum();
    (distance / length.max(1e-30)).sqrt()
}

/// Cosine of the angle between two vectors.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-30)
}
