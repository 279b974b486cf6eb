//! Drivers, libraries and headers, looked for as files: nothing is loaded, so nothing can crash.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use glm_backends::device::{self, BackendKind};

use crate::resolve;

/// Something that a backend takes, and how to come by it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: &'static str,
    look: Look,
    pub(super) install: &'static str,
}

/// Where a part is looked for.
#[derive(Debug)]
enum Look {
    /// What the kernel shows of a driver: the first of these files that is there.
    Kernel(&'static [&'static str]),
    /// A library by the begin of its file name, where the loader finds it.
    Library(&'static str),
    /// Headers below a toolkit's folder; all of them, and the file that tells the version.
    Headers(Toolkit, &'static [&'static str], &'static str),
    /// A program on the path.
    Program(&'static str),
    /// A file with this ending in one of these folders.
    Manifest(&'static [&'static str]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toolkit {
    Cuda,
    Rocm,
}

const CUDA: &[Wanted] = &[
    Wanted {
        name: "NVIDIA kernel driver",
        look: Look::Kernel(&["/proc/driver/nvidia/version", "/dev/dxg"]),
        install: "the NVIDIA driver (Debian: nvidia-driver, from non-free; Ubuntu: \
                  `ubuntu-drivers install`); a container is started with `--gpus all` and the \
                  package nvidia-container-toolkit on its host",
    },
    Wanted {
        name: "libcuda",
        look: Look::Library("libcuda.so"),
        install: "libcuda.so.1, which comes with the driver (Debian: libcuda1; Ubuntu: \
                  libnvidia-compute-VERSION)",
    },
    Wanted {
        name: "NVRTC",
        look: Look::Library("libnvrtc.so"),
        install: "NVRTC (NVIDIA's repository: cuda-nvrtc-dev-12-8 or newer; Debian, Ubuntu: \
                  nvidia-cuda-toolkit)",
    },
    Wanted {
        name: "CUDA headers",
        look: Look::Headers(Toolkit::Cuda, &["cuda_fp16.h", "cuda_bf16.h", "crt/mma.h"], "cuda.h"),
        install: "the CUDA headers (NVIDIA's repository: cuda-cudart-dev-12-8 or newer, and with it \
                  cuda-nvcc-12-8, or cuda-crt-13-0 or newer; Debian, Ubuntu: nvidia-cuda-toolkit), \
                  with CUDA_PATH where they are not in \
                  /usr/local/cuda, /opt/cuda or beside /usr/bin/nvcc",
    },
];

const ROCM: &[Wanted] = &[
    Wanted {
        name: "amdgpu compute driver",
        look: Look::Kernel(&["/dev/kfd"]),
        install: "the amdgpu kernel driver (AMD's repository: amdgpu-dkms; recent kernels have \
                  it), and the groups render and video for this user; a container is started with \
                  `--device /dev/kfd --device /dev/dri`",
    },
    Wanted {
        name: "HIP",
        look: Look::Library("libamdhip64.so"),
        install: "ROCm 7's HIP runtime (AMD's repository: hip-runtime-amd)",
    },
    Wanted {
        name: "hipRTC",
        look: Look::Library("libhiprtc.so"),
        install: "hipRTC (AMD's repository: hip-runtime-amd, comgr)",
    },
    Wanted {
        name: "HIP headers",
        look: Look::Headers(Toolkit::Rocm, &["hip/hip_bf16.h"], "hip/hip_version.h"),
        install: "the HIP headers (AMD's repository: hip-dev), with ROCM_PATH where they are not \
                  in /opt/rocm",
    },
    Wanted {
        name: "hipconfig",
        look: Look::Program("hipconfig"),
        install: "hipconfig (AMD's repository: hipcc), with ROCm's bin on PATH",
    },
];

const VULKAN: &[Wanted] = &[VULKAN_LOADER, VULKAN_DRIVER];

const VULKAN_LOADER: Wanted = Wanted {
    name: "Vulkan loader",
    look: Look::Library("libvulkan.so.1"),
    install: "the Vulkan loader (Debian, Ubuntu: libvulkan1)",
};

const VULKAN_DRIVER: Wanted = Wanted {
    name: "Vulkan driver",
    look: Look::Manifest(&[
        "/etc/vulkan/icd.d",
        "/usr/share/vulkan/icd.d",
        "/usr/local/share/vulkan/icd.d",
    ]),
    install: "a Vulkan driver (AMD, Intel: mesa-vulkan-drivers; NVIDIA: comes with its driver, in \
              containers with NVIDIA_DRIVER_CAPABILITIES=all)",
};

const GL: &[Wanted] = &[EGL_LOADER, EGL_DRIVER];

const EGL_LOADER: Wanted = Wanted {
    name: "EGL loader",
    look: Look::Library("libEGL.so.1"),
    install: "EGL (Debian, Ubuntu: libegl1)",
};

const EGL_DRIVER: Wanted = Wanted {
    name: "EGL driver",
    look: Look::Manifest(&["/etc/glvnd/egl_vendor.d", "/usr/share/glvnd/egl_vendor.d"]),
    install: "an OpenGL driver (Debian, Ubuntu: libgl1-mesa-dri with libegl-mesa0)",
};

/// Either of the two APIs does for wgpu on Linux.
const WGPU: &[Wanted] = &[VULKAN_LOADER, VULKAN_DRIVER, EGL_LOADER, EGL_DRIVER];

/// A part of a backend, found or not.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) wanted: &'static Wanted,
    pub(super) place: Place,
    pub(super) version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Found(PathBuf),
    /// It is here, but the loader does not look there.
    OffPath(PathBuf),
    Missing,
}

impl Part {
    /// What to do, where something is to be done.
    pub(super) fn advice(&self) -> Option<String> {
        match &self.place {
            Place::Found(_) => None,
            Place::OffPath(path) => {
                let folder = path.parent().unwrap_or(path).display();
                Some(format!("{folder} on LD_LIBRARY_PATH: {} is there", self.wanted.name))
            }
            Place::Missing => Some(self.wanted.install.to_owned()),
        }
    }
}

/// Whether the system has what opens a device of `kind`, so that one that does not open is a
/// failure. Graphics APIs tell their devices themselves.
pub(super) fn driver_is_there(kind: BackendKind, parts: &[Part]) -> bool {
    let driver = matches!(kind, BackendKind::Cuda | BackendKind::Rocm);
    driver && parts.len() > 1 && parts[..2].iter().all(|part| matches!(part.place, Place::Found(_)))
}

/// Where this machine keeps what is looked for.
#[derive(Debug, Default)]
pub(super) struct System {
    /// Libraries by file name, as the loader finds them.
    libraries: BTreeMap<String, PathBuf>,
    cuda: Option<PathBuf>,
    rocm: Option<PathBuf>,
    programs: Vec<PathBuf>,
}

impl System {
    /// Asks `ldconfig` and the environment.
    pub(super) fn look() -> Self {
        let asked = ["ldconfig", "/sbin/ldconfig"]
            .iter()
            .find_map(|program| Command::new(program).arg("-p").output().ok());
        let listed = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let mut libraries = loader_cache(&listed.unwrap_or_default());
        for folder in folders("LD_LIBRARY_PATH") {
            for path in files(&folder) {
                libraries.insert(name(&path), path);
            }
        }
        let rocm = resolve::variable("ROCM_PATH").map(PathBuf::from);
        let rocm = rocm.or_else(|| Some("/opt/rocm".into()).filter(|path: &PathBuf| path.exists()));
        if let Some(rocm) = &rocm {
            // HIP is also looked for there.
            for path in files(&rocm.join("lib")) {
                libraries.entry(name(&path)).or_insert(path);
            }
        }
        Self { libraries, cuda: device::cuda_toolkit(), rocm, programs: folders("PATH") }
    }

    /// The parts of a backend, found or not. Only Linux is known.
    pub(super) fn parts(&self, kind: BackendKind) -> Vec<Part> {
        let wanted = match kind {
            _ if !cfg!(target_os = "linux") => &[],
            BackendKind::Cuda => CUDA,
            BackendKind::Rocm => ROCM,
            BackendKind::Vulkan => VULKAN,
            BackendKind::Wgpu => WGPU,
            BackendKind::Gl => GL,
            BackendKind::Cpu => &[],
        };
        wanted.iter().map(|wanted| self.find(wanted)).collect()
    }

    fn find(&self, wanted: &'static Wanted) -> Part {
        let (place, version) = match wanted.look {
            Look::Kernel(paths) => {
                let path = paths.iter().map(PathBuf::from).find(|path| path.exists());
                let version = path.as_ref().and_then(|path| fs::read_to_string(path).ok());
                (found(path), version.and_then(|text| kernel_version(&text)))
            }
            Look::Library(begin) => self.library(begin),
            Look::Headers(toolkit, headers, told_by) => {
                let root = if toolkit == Toolkit::Cuda { &self.cuda } else { &self.rocm };
                let folder = root.as_ref().map(|root| root.join("include"));
                let whole = |folder: &PathBuf| headers.iter().all(|it| folder.join(it).exists());
                let folder = folder.filter(whole);
                let text = folder.as_ref().map(|folder| fs::read_to_string(folder.join(told_by)));
                (found(folder), text.and_then(Result::ok).and_then(|text| header_version(&text)))
            }
            Look::Program(program) => {
                let mut paths = self.programs.iter().map(|folder| folder.join(program));
                (found(paths.find(|path| path.is_file())), None)
            }
            Look::Manifest(folders) => {
                let all = folders.iter().flat_map(|folder| files(Path::new(folder)));
                let mut all: Vec<_> = all.filter(|path| name(path).ends_with(".json")).collect();
                // Software comes last, whatever it is called.
                all.sort_by_key(|path| (name(path).starts_with("lvp"), path.clone()));
                (found(all.into_iter().next()), None)
            }
        };
        Part { wanted, place, version }
    }

    fn library(&self, begin: &str) -> (Place, Option<String>) {
        let here = self.libraries.iter().find(|(name, _)| is_library(name, begin));
        if let Some((_, path)) = here {
            return (Place::Found(path.clone()), library_version(path));
        }
        let toolkit = self.cuda.iter().flat_map(|root| files(&root.join("lib64")));
        match toolkit.into_iter().find(|path| is_library(&name(path), begin)) {
            Some(path) => (Place::OffPath(path.clone()), library_version(&path)),
            None => (Place::Missing, None),
        }
    }
}

fn found(path: Option<PathBuf>) -> Place {
    path.map_or(Place::Missing, Place::Found)
}

/// `libcuda.so` and `libcuda.so.1`, but not `libcuda.so-old`.
fn is_library(name: &str, begin: &str) -> bool {
    name.strip_prefix(begin).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// File names and paths that `ldconfig -p` prints for this processor.
fn loader_cache(text: &str) -> BTreeMap<String, PathBuf> {
    let ours = if cfg!(target_arch = "x86_64") { "x86-64" } else { "" };
    let entry = |line: &str| {
        let (about, path) = line.split_once(" => ")?;
        let (name, kind) = about.trim().split_once(' ')?;
        kind.contains(ours).then(|| (name.to_owned(), PathBuf::from(path.trim())))
    };
    text.lines().filter_map(entry).collect()
}

/// `550.54.15` of `…/libcuda.so.550.54.15`, to which the usual names are links.
fn library_version(path: &Path) -> Option<String> {
    let file = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let file = name(&file);
    let (_, version) = file.split_once(".so.")?;
    version.contains('.').then(|| version.to_owned())
}

/// The first word that is numbers with points between them.
fn kernel_version(text: &str) -> Option<String> {
    let number = |word: &&str| {
        word.contains('.') && word.chars().all(|letter| letter.is_ascii_digit() || letter == '.')
    };
    text.split_whitespace().find(number).map(str::to_owned)
}

/// What `CUDA_VERSION`, or `HIP_VERSION_MAJOR` and `_MINOR`, are defined as.
fn header_version(text: &str) -> Option<String> {
    let defined = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let named = words.next() == Some("#define") && words.next() == Some(wanted);
            words.next().filter(|_| named)?.parse::<u32>().ok()
        })
    };
    if let Some(version) = defined("CUDA_VERSION") {
        return Some(format!("{}.{}", version / 1000, version % 1000 / 10));
    }
    Some(format!("{}.{}", defined("HIP_VERSION_MAJOR")?, defined("HIP_VERSION_MINOR")?))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The folders of a variable like PATH.
fn folders(variable: &str) -> Vec<PathBuf> {
    let value = resolve::variable(variable).unwrap_or_default();
    env::split_paths(&value).filter(|folder| folder.is_absolute()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_taken_at_its_word_and_versions_are_read_from_names() {
        let listed = "2 libs found\n\tlibcuda.so.1 (libc6,x86-64) => /lib/libcuda.so.1.2.3\n\
                      \tlibEGL.so.1 (libc6) => /lib32/libEGL.so.1\n";
        let libraries = loader_cache(listed);
        assert_eq!(libraries["libcuda.so.1"], PathBuf::from("/lib/libcuda.so.1.2.3"));
        let system = System { libraries, ..System::default() };
        let (place, version) = system.library("libcuda.so");
        assert_eq!(place, Place::Found("/lib/libcuda.so.1.2.3".into()));
        assert_eq!(version.as_deref(), Some("1.2.3"));
        assert_eq!(system.library("libcud.so"), (Place::Missing, None));
        if cfg!(target_arch = "x86_64") {
            assert_eq!(system.library("libEGL.so.1"), (Place::Missing, None), "of 32 bits");
        }
    }

    #[test]
    fn a_library_beside_the_path_is_told_apart_from_none() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("lib64");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("libnvrtc.so.12"), "").unwrap();
        let system = System { cuda: Some(root.path().into()), ..System::default() };
        let part = system.parts(BackendKind::Cuda).into_iter().find(|it| it.wanted.name == "NVRTC");
        let advice = part.unwrap().advice().unwrap();
        assert!(advice.contains("lib64 on LD_LIBRARY_PATH: NVRTC"), "{advice}");
    }

    #[test]
    fn what_is_missing_says_which_packages_have_it() {
        let system = System::default();
        for (kind, packages) in [
            (BackendKind::Cuda, &["nvidia-driver", "cuda-nvrtc-dev-", "cuda-cudart-dev-"][..]),
            (BackendKind::Rocm, &["hip-runtime-amd", "hip-dev", "hipcc"]),
            (BackendKind::Vulkan, &["libvulkan1", "mesa-vulkan-drivers"]),
            (BackendKind::Gl, &["libegl1", "libgl1-mesa-dri"]),
        ] {
            let all = match kind {
                BackendKind::Cuda => CUDA,
                BackendKind::Rocm => ROCM,
                BackendKind::Vulkan => VULKAN,
                _ => GL,
            };
            let missing = |wanted| Part { wanted, place: Place::Missing, version: None };
            let advice: String = all.iter().map(missing).filter_map(|part| part.advice()).collect();
            for package in packages {
                assert!(advice.contains(package), "{kind}: {package} is not in {advice}");
            }
        }
        assert!(system.parts(BackendKind::Cpu).is_empty());
    }

    #[test]
    fn a_driver_is_there_with_both_of_its_halves() {
        let part = |index: usize, there: bool| Part {
            wanted: &CUDA[index],
            place: if there { Place::Found("/x".into()) } else { Place::Missing },
            version: None,
        };
        for (kernel, library, there) in
            [(true, true, true), (true, false, false), (false, true, false)]
        {
            let parts = [part(0, kernel), part(1, library), part(2, false)];
            assert_eq!(driver_is_there(BackendKind::Cuda, &parts), there);
            assert!(!driver_is_there(BackendKind::Vulkan, &parts));
        }
    }

    #[test]
    fn versions_come_from_what_files_say() {
        let driver = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5\n";
        assert_eq!(kernel_version(driver).as_deref(), Some("550.54.15"));
        assert_eq!(kernel_version("no version here"), None);
        assert_eq!(header_version("#define CUDA_VERSION 12080\n").as_deref(), Some("12.8"));
        let hip = "#define HIP_VERSION_MAJOR 7\n#define HIP_VERSION_MINOR 1\n";
        assert_eq!(header_version(hip).as_deref(), Some("7.1"));
        assert_eq!(header_version(""), None);
    }
}
