//! What a user types to name a device: `auto`, `cpu`, `cuda:1`.

use std::fmt;
use std::str::FromStr;

use super::DeviceError;

/// A way to run tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendKind {
    /// The host's processor, through Burn's Flex backend.
    Cpu,
    /// Whatever graphics API wgpu settles on.
    Wgpu,
    /// Vulkan, with SPIR-V kernels.
    Vulkan,
    /// OpenGL through EGL, with WGSL kernels in f32. For tests on machines without a GPU.
    Gl,
    /// NVIDIA's driver and run-time compiler.
    Cuda,
    /// AMD's HIP runtime and run-time compiler.
    Rocm,
}

impl BackendKind {
    /// All of them, in the order that `glm devices` prints.
    pub const ALL: [Self; 6] =
        [Self::Cuda, Self::Rocm, Self::Vulkan, Self::Wgpu, Self::Gl, Self::Cpu];

    /// The name that [`Selection`] parses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Gl => "gl",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
        }
    }

    /// The cargo feature that compiles it in.
    pub const fn feature(self) -> &'static str {
        match self {
            Self::Gl => "wgpu",
            other => other.name(),
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which device to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Selection {
    /// The best device that is present.
    #[default]
    Auto,
    /// One device of one backend.
    Named {
        /// The backend.
        kind: BackendKind,
        /// Its place among that backend's devices, 0 unless typed.
        index: usize,
    },
}

impl FromStr for Selection {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let (name, digits) = match text.split_once(':') {
            Some((name, digits)) => (name, Some(digits)),
            None => (text, None),
        };
        let refuse =
            |reason: &str| DeviceError::Index { found: text.into(), reason: reason.into() };
        let index = match digits {
            None => 0,
            // `parse` alone would take `+1`.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .map_err(|_| refuse("wanted a device number after the colon, as in `cuda:1`"))?,
            Some(_) => {
                return Err(refuse("wanted a device number after the colon, as in `cuda:1`"));
            }
        };
        if name == "auto" {
            return match digits {
                None => Ok(Self::Auto),
                Some(_) => Err(refuse("`auto` takes no device number; name the backend instead")),
            };
        }
        let kind = BackendKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| DeviceError::UnknownBackend { found: text.into() })?;
        if kind == BackendKind::Cpu && index > 0 {
            return Err(refuse("there is one CPU device; write `cpu`"));
        }
        Ok(Self::Named { kind, index })
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named { kind: BackendKind::Cpu, .. } => f.write_str("cpu"),
            Self::Named { kind, index } => write!(f, "{kind}:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_indices_parse_and_print() {
        for (text, printed) in [
            ("auto", "auto"),
            ("cpu", "cpu"),
            ("cpu:0", "cpu"),
            ("wgpu", "wgpu:0"),
            ("vulkan:2", "vulkan:2"),
            ("gl", "gl:0"),
            ("cuda:11", "cuda:11"),
            ("rocm:0", "rocm:0"),
        ] {
            let selection: Selection = text.parse().unwrap();
            assert_eq!(selection.to_string(), printed);
            assert_eq!(printed.parse::<Selection>().unwrap(), selection);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, message) in [
            ("auto:1", "backend `auto:1`: `auto` takes no device number; name the backend instead"),
            ("cpu:1", "backend `cpu:1`: there is one CPU device; write `cpu`"),
            ("cuda:", "backend `cuda:`: wanted a device number after the colon, as in `cuda:1`"),
            (
                "cuda:+1",
                "backend `cuda:+1`: wanted a device number after the colon, as in `cuda:1`",
            ),
            (
                "cuda:99999999999999999999999",
                "backend `cuda:99999999999999999999999`: wanted a device number after the colon, \
                 as in `cuda:1`",
            ),
            (
                "Cuda",
                "backend `Cuda`: no such name; wanted one of auto, cpu, wgpu, vulkan, gl, cuda, \
                 rocm, the last five also with a device number, as in `cuda:1`",
            ),
        ] {
            assert_eq!(text.parse::<Selection>().unwrap_err().to_string(), message);
        }
    }
}
