//! Why there is no device, always in one line.

use super::BackendKind;

/// Why a device was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The name is none that we know.
    #[error(
        "backend `{found}`: no such name; wanted one of auto, cpu, wgpu, vulkan, gl, cuda, rocm, \
         the last five also with a device number, as in `cuda:1`"
    )]
    UnknownBackend {
        /// What was typed.
        found: String,
    },
    /// The part after the colon cannot be meant.
    #[error("backend `{found}`: {reason}")]
    Index {
        /// What was typed.
        found: String,
        /// What was wanted.
        reason: String,
    },
    /// The backend's cargo feature is off in this binary.
    #[error(
        "backend `{kind}`: this binary was built without it; build it with `cargo build --release \
         --features {}`",
        .kind.feature()
    )]
    NotCompiled {
        /// The backend asked for.
        kind: BackendKind,
    },
    /// The backend has no device, or lacks a part that it needs.
    #[error("backend `{kind}`: {found}; {remedy}")]
    Absent {
        /// The backend asked for.
        kind: BackendKind,
        /// What was looked for and not found.
        found: String,
        /// What to install.
        remedy: String,
    },
    /// The backend has devices, but not that many.
    #[error("backend `{kind}`: no device {index}; there is {}", .present.join(", "))]
    NoSuchDevice {
        /// The backend asked for.
        kind: BackendKind,
        /// The index asked for.
        index: usize,
        /// What there is, as it can be typed, with names.
        present: Vec<String>,
    },
    /// The device is there and does not work.
    #[error("device {device} does not start: {reason}")]
    Failed {
        /// The device, as it can be typed, with its name.
        device: String,
        /// What the driver or the compiler said first.
        reason: String,
    },
    /// Nothing is left for `auto`, not even a CPU backend.
    #[error("no device to run on: {tried}; build with the feature `cpu`")]
    Nothing {
        /// Why each backend was passed over.
        tried: String,
    },
}

impl DeviceError {
    /// The message without the backend's name, for a list that has named it already.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Absent { found, remedy, .. } => format!("{found}; {remedy}"),
            Self::NotCompiled { .. } => {
                let message = self.to_string();
                message.split_once(": ").map_or(message.clone(), |(_, reason)| reason.into())
            }
            other => other.to_string(),
        }
    }

    /// What `auto` says when it passes a backend over.
    pub(super) fn short(&self) -> String {
        match self {
            Self::Absent { found, .. } => found.clone(),
            Self::NotCompiled { kind } => format!("built without {kind}"),
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_one_line_with_a_way_out() {
        let kind = BackendKind::Gl;
        let absent =
            DeviceError::Absent { kind, found: "no EGL".into(), remedy: "install it".into() };
        for (error, message, short) in [
            (
                DeviceError::NotCompiled { kind },
                "backend `gl`: this binary was built without it; build it with `cargo build \
                 --release --features wgpu`",
                "built without gl",
            ),
            (absent, "backend `gl`: no EGL; install it", "no EGL"),
            (
                DeviceError::NoSuchDevice {
                    kind: BackendKind::Cuda,
                    index: 2,
                    present: vec!["cuda:0 (A)".into(), "cuda:1 (B)".into()],
                },
                "backend `cuda`: no device 2; there is cuda:0 (A), cuda:1 (B)",
                "backend `cuda`: no device 2; there is cuda:0 (A), cuda:1 (B)",
            ),
        ] {
            assert_eq!(error.to_string(), message);
            assert_eq!(error.short(), short);
        }
        assert_eq!(
            DeviceError::NotCompiled { kind }.reason(),
            "this binary was built without it; build it with `cargo build --release --features wgpu`"
        );
    }
}
