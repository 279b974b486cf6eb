use std::fmt;
use std::path::{Path, PathBuf};

use super::{HubError, is_plain_name};

/// Who has the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hub {
    /// huggingface.co or a mirror of it.
    HuggingFace,
    /// modelscope.cn: the same models under `ZhipuAI/`, default branch `master`.
    ModelScope,
}

/// What [`resolve`](super::resolve) needs to know besides the model's name.
#[derive(Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// Who is asked.
    pub hub: Hub,
    /// Address of the hub or of a mirror, with its scheme; `None` is the hub's own.
    pub endpoint: Option<String>,
    /// The Hugging Face hub cache: the folder that holds the `models--*` folders.
    pub cache_dir: PathBuf,
    /// Sent to the endpoint only, never to where it redirects.
    pub token: Option<String>,
    /// Use the cache only.
    pub offline: bool,
    /// Branch, tag or commit; `None` is the hub's default branch.
    pub revision: Option<String>,
    /// How often a file whose transfer broke is tried again before giving up; one whose bytes are
    /// not those announced is tried again once at most.
    pub max_retries: usize,
}

impl HubConfig {
    /// The configuration that environment variables ask for, read as `huggingface_hub` reads them.
    ///
    /// `HF_HUB_CACHE`, else `HF_HOME/hub`, else `XDG_CACHE_HOME/huggingface/hub`; `HF_TOKEN`, else
    /// the file `HF_TOKEN_PATH` (by default `HF_HOME/token`); `HF_ENDPOINT`; `HF_HUB_OFFLINE`. For
    /// ModelScope `MODELSCOPE_ENDPOINT` or `MODELSCOPE_DOMAIN`, and `MODELSCOPE_API_TOKEN`.
    /// `home` stands for `~`. An empty value counts as none.
    pub fn from_lookup(hub: Hub, lookup: &dyn Fn(&str) -> Option<String>, home: &Path) -> Self {
        let value = |name: &str| lookup(name).as_deref().and_then(non_empty);
        let path = |name: &str| {
            value(name).map(|text| match text.strip_prefix("~/") {
                Some(rest) => home.join(rest),
                None => PathBuf::from(text),
            })
        };
        let hugging_face = path("HF_HOME").unwrap_or_else(|| {
            path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache")).join("huggingface")
        });
        let token_file = || {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| hugging_face.join("token"));
            non_empty(&std::fs::read_to_string(file).ok()?)
        };
        let (endpoint, token) = match hub {
            Hub::HuggingFace => (value("HF_ENDPOINT"), value("HF_TOKEN").or_else(token_file)),
            Hub::ModelScope => (
                value("MODELSCOPE_ENDPOINT").or_else(|| {
                    value("MODELSCOPE_DOMAIN").map(|domain| format!("https://{domain}"))
                }),
                value("MODELSCOPE_API_TOKEN"),
            ),
        };
        Self {
            hub,
            endpoint: endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
            cache_dir: path("HF_HUB_CACHE").unwrap_or_else(|| hugging_face.join("hub")),
            token,
            offline: value("HF_HUB_OFFLINE").is_some_and(|text| {
                matches!(text.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
            }),
            revision: None,
            max_retries: 5,
        }
    }

    /// The revision to ask for, safe as a path below `refs/`.
    pub(super) fn checked_revision(&self) -> Result<&str, HubError> {
        let revision = self.revision.as_deref().unwrap_or(match self.hub {
            Hub::HuggingFace => "main",
            Hub::ModelScope => "master",
        });
        match revision.split('/').all(is_plain_name) {
            true => Ok(revision),
            false => Err(HubError::InvalidRevision { revision: revision.to_owned() }),
        }
    }
}

/// Prints whether there is a token, not which.
impl fmt::Debug for HubConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HubConfig")
            .field("hub", &self.hub)
            .field("endpoint", &self.endpoint)
            .field("cache_dir", &self.cache_dir)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("offline", &self.offline)
            .field("revision", &self.revision)
            .field("max_retries", &self.max_retries)
            .finish()
    }
}

impl Hub {
    /// The name of the model `id` at this hub.
    pub(super) fn repository(self, id: &str) -> Result<String, HubError> {
        let is_part = |part: &str| {
            // Two hyphens stand for the slash in the cache's folder names.
            is_plain_name(part)
                && !part.contains("--")
                && part
                    .chars()
                    .all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character))
        };
        match id.split_once('/') {
            Some((owner, name)) if is_part(owner) && is_part(name) => Ok(match (self, owner) {
                (Self::ModelScope, "zai-org") => format!("ZhipuAI/{name}"),
                _ => id.to_owned(),
            }),
            _ => Err(HubError::InvalidId { id: id.to_owned() }),
        }
    }
}

fn non_empty(text: &str) -> Option<String> {
    Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hub: Hub, variables: &[(&str, &str)], home: &Path) -> HubConfig {
        let lookup = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        };
        HubConfig::from_lookup(hub, &lookup, home)
    }

    #[test]
    fn folders_by_precedence() {
        for (variables, wanted) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")], "/home/me/hf/hub"),
            (&[("HF_HOME", ""), ("HF_HUB_CACHE", "")], "/home/me/.cache/huggingface/hub"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/cache")], "/cache"),
        ] {
            let found = config(Hub::HuggingFace, variables, Path::new("/home/me")).cache_dir;
            assert_eq!(found, Path::new(wanted), "{variables:?}");
        }
    }

    #[test]
    fn offline_takes_the_words_that_python_takes() {
        for (text, wanted) in
            [("1", true), ("on", true), ("Yes", true), ("TRUE", true), ("0", false), ("2", false)]
        {
            let found =
                config(Hub::HuggingFace, &[("HF_HUB_OFFLINE", text)], Path::new("/")).offline;
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn token_by_variable_then_by_file_and_never_in_debug() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().display().to_string();
        std::fs::write(home.path().join("token"), "from-file\n").unwrap();
        std::fs::write(home.path().join("other"), " from-other ").unwrap();
        let other = home.path().join("other").display().to_string();
        let token =
            |variables: &[(&str, &str)]| config(Hub::HuggingFace, variables, home.path()).token;
        assert_eq!(token(&[]), None);
        assert_eq!(token(&[("HF_HOME", &folder)]).as_deref(), Some("from-file"));
        assert_eq!(
            token(&[("HF_HOME", &folder), ("HF_TOKEN_PATH", &other)]).as_deref(),
            Some("from-other")
        );
        assert_eq!(
            token(&[("HF_HOME", &folder), ("HF_TOKEN", "from-variable\n")]).as_deref(),
            Some("from-variable")
        );
        let shown =
            format!("{:?}", config(Hub::HuggingFace, &[("HF_TOKEN", "secret")], home.path()));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn each_hub_has_its_own_endpoint_token_and_owner() {
        let variables = [
            ("HF_ENDPOINT", "https://mirror.example/"),
            ("HF_TOKEN", "hf"),
            ("MODELSCOPE_DOMAIN", "www.modelscope.cn"),
            ("MODELSCOPE_API_TOKEN", "ms"),
        ];
        let found = config(Hub::HuggingFace, &variables, Path::new("/"));
        assert_eq!(
            (found.endpoint.as_deref(), found.token.as_deref()),
            (Some("https://mirror.example"), Some("hf"))
        );
        let found = config(Hub::ModelScope, &variables, Path::new("/"));
        assert_eq!(
            (found.endpoint.as_deref(), found.token.as_deref()),
            (Some("https://www.modelscope.cn"), Some("ms"))
        );
        assert_eq!(Hub::HuggingFace.repository("zai-org/GLM-4.6").unwrap(), "zai-org/GLM-4.6");
        assert_eq!(Hub::ModelScope.repository("zai-org/GLM-4.6").unwrap(), "ZhipuAI/GLM-4.6");
        assert_eq!(Hub::ModelScope.repository("ZhipuAI/GLM-4.6").unwrap(), "ZhipuAI/GLM-4.6");
    }

    #[test]
    fn names_that_would_leave_the_cache_are_refused() {
        for id in ["", "name", "a/b/c", "../x", "a/..", "a/b?c", "/a", "a/", "a b/c", "a--b/c"] {
            assert!(Hub::HuggingFace.repository(id).is_err(), "{id}");
        }
        for (revision, wanted) in
            [("main", true), ("refs/pr/1", true), ("../x", false), ("", false), ("/a", false)]
        {
            let mut config = config(Hub::HuggingFace, &[], Path::new("/"));
            config.revision = Some(revision.to_owned());
            assert_eq!(config.checked_revision().is_ok(), wanted, "{revision}");
        }
    }
}
