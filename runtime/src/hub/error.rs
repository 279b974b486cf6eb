use std::error::Error;
use std::path::{Path, PathBuf};
use std::{io, iter};

/// Why a model name did not become a folder. The causes of network and disk errors are their sources.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The name cannot be one at a hub.
    #[error("`{id}` is not a model name: wanted owner/name of letters, digits, `-`, `_` and `.`")]
    InvalidId {
        /// As given.
        id: String,
    },
    /// The revision cannot be a git name.
    #[error("`{revision}` is not a revision: wanted a branch, a tag or a commit")]
    InvalidRevision {
        /// As given.
        revision: String,
    },
    /// 401 or 403 by the hub itself.
    #[error(
        "{endpoint} refuses `{id}` (HTTP {status}{detail}): it is gated, private or does not exist; {}",
        advice(*.token_sent, .variable)
    )]
    Denied {
        /// The hub.
        endpoint: String,
        /// The model.
        id: String,
        /// 401 or 403.
        status: u16,
        /// The hub's own words, with `: ` before them, or empty.
        detail: String,
        /// Whether the request carried a token.
        token_sent: bool,
        /// The environment variable that sets the token.
        variable: &'static str,
    },
    /// No such model, revision or file.
    #[error("{endpoint} has no {what}")]
    NotFound {
        /// The hub.
        endpoint: String,
        /// What was asked for.
        what: String,
    },
    /// No answer: no network, wrong endpoint, timeout.
    #[error("cannot reach {origin}")]
    Unreachable {
        /// Scheme, host and port that were tried.
        origin: String,
        /// What ureq says.
        source: Box<ureq::Error>,
    },
    /// An answer with a status that means neither yes nor no.
    #[error("{url}: HTTP {status}")]
    Status {
        /// Without its query.
        url: String,
        /// The status.
        status: u16,
    },
    /// An answer that does not make sense.
    #[error("{url}: {what}")]
    Malformed {
        /// Without its query.
        url: String,
        /// Found and wanted.
        what: String,
    },
    /// The connection broke inside a file.
    #[error(
        "`{file}`: the connection broke at byte {done} of {total}; the next run continues there"
    )]
    Interrupted {
        /// The file.
        file: String,
        /// Bytes on the disk.
        done: u64,
        /// Bytes wanted.
        total: u64,
        /// What broke.
        source: io::Error,
    },
    /// All bytes came, but not those that the hub announced.
    #[error("`{file}`: its SHA-256 is {found}, wanted {wanted}; it was deleted")]
    Corrupt {
        /// The file.
        file: String,
        /// Hash of what came.
        found: String,
        /// Hash of what the hub announced.
        wanted: String,
    },
    /// The list of shards cannot be used.
    #[error("{}: {why}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Offline, and the cache is not enough.
    #[error(
        "`{id}` at revision `{revision}` is not whole in {}: it lacks {}; downloads are off, unset HF_HUB_OFFLINE to fetch it",
        folder.display(),
        missing.join(", ")
    )]
    NotCached {
        /// The model.
        id: String,
        /// As given, or the hub's default.
        revision: String,
        /// The model's folder in the cache.
        folder: PathBuf,
        /// Names of files.
        missing: Vec<String>,
    },
    /// Offline, and the cache does not know what the revision is.
    #[error(
        "`{id}`: no known commit of `{revision}` in {}; downloads are off, unset HF_HUB_OFFLINE to fetch it",
        folder.display()
    )]
    NoKnownCommit {
        /// The model.
        id: String,
        /// As given, or the hub's default.
        revision: String,
        /// The model's folder in the cache, there or not.
        folder: PathBuf,
    },
    /// What the caller's [`Check`](super::Check) says, in its words.
    #[error(transparent)]
    Refused(Box<dyn Error + Send + Sync>),
    /// No room.
    #[error("{}: the disk is full; free some room and run again, what is there is kept", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error("{}: cannot be read or written", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl HubError {
    pub(super) fn disk(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Disk { path, source },
        }
    }

    /// The message with those of its causes, on one line.
    pub(super) fn chain(&self) -> String {
        let causes = iter::successors(self.source(), |cause| (*cause).source());
        iter::once(self.to_string())
            .chain(causes.map(ToString::to_string))
            .collect::<Vec<_>>()
            .join(": ")
    }

    /// Whether the same request may succeed in a moment.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Interrupted { .. } | Self::Corrupt { .. } => true,
            Self::Unreachable { source, .. } => !matches!(
                **source,
                ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Tls(_)
            ),
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..),
            _ => false,
        }
    }

    /// Whether the hub's state is unknown, so that the last known state may be used.
    pub(super) fn cache_may_stand_in(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Denied { .. } | Self::Malformed { .. })
            || self.is_transient()
    }
}

fn advice(token_sent: bool, variable: &str) -> String {
    match token_sent {
        true => format!(
            "the token that was sent does not open it: ask for access on its page, or check {variable}"
        ),
        false => format!("no token was sent: set {variable}"),
    }
}
