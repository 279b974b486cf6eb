//! A hub and its content server on loopback ports, which note what they are asked.
//!
//! Written on bare sockets because it has to close a connection inside a body.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use glm_runtime::hub::{DownloadProgress, FileProgress, Hub, HubConfig, HubError, Wanted, resolve};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const MODEL: &str = "zai-org/tiny";
pub(crate) const OLD: &str = "1111111111111111111111111111111111111111";
pub(crate) const NEW: &str = "2222222222222222222222222222222222222222";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const FIRST: &str = "model-00001-of-00002.safetensors";
pub(crate) const SECOND: &str = "model-00002-of-00002.safetensors";
/// Everything, unchecked.
pub(crate) const WHOLE: Wanted<'static> = Wanted::Whole { check: &|_| Ok(()) };

/// What the stand-in answers from; tests turn its knobs.
pub(crate) struct Model {
    /// Files by name by commit.
    pub(crate) commits: BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>,
    /// Branches and tags.
    pub(crate) references: BTreeMap<&'static str, &'static str>,
    /// `main` points here after the first request.
    pub(crate) moves_to: Option<&'static str>,
    /// Close the connection after so many bytes of this file, once.
    pub(crate) breaks: Option<(&'static str, usize)>,
    /// Change a byte of this file, so many times.
    pub(crate) spoils: Option<(&'static str, usize)>,
    pub(crate) knows_ranges: bool,
    pub(crate) hides_sizes: bool,
    /// Serve files by branch or tag only.
    pub(crate) forgets_commits: bool,
    /// Answer everything with this status.
    pub(crate) refuses: Option<u16>,
    /// Where the hub redirects to for weights.
    pub(crate) content_server: String,
    pub(crate) requests: Vec<Request>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// Whether the hub or the content server got it.
    pub(crate) at_hub: bool,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) user_agent: Option<String>,
    /// Bytes of body that went out.
    pub(crate) sent: usize,
}

#[derive(Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    breaks_at: Option<usize>,
}

/// One model at one hub, and an empty cache.
pub(crate) struct Fixture {
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) config: HubConfig,
    pub(crate) home: TempDir,
    pub(crate) log: Log,
}

/// Name, index, files, bytes done, bytes in all.
pub(crate) type Update = (String, usize, usize, u64, u64);

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) updates: Mutex<Vec<Update>>,
    pub(crate) notes: Mutex<Vec<String>>,
    /// Dropped at the first note.
    pub(crate) held: Mutex<Option<File>>,
}

impl DownloadProgress for Log {
    fn update(&self, file: &FileProgress<'_>) {
        let FileProgress { name, index, files, done_bytes, total_bytes } = *file;
        self.updates.lock().unwrap().push((name.to_owned(), index, files, done_bytes, total_bytes));
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
        self.held.lock().unwrap().take();
    }
}

impl Fixture {
    pub(crate) fn new(hub: Hub) -> Self {
        let model = Arc::new(Mutex::new(Model {
            commits: BTreeMap::from([(OLD, files(1)), (NEW, files(2))]),
            references: BTreeMap::from([("main", OLD), ("master", OLD), ("v1.0/rc", NEW)]),
            moves_to: None,
            breaks: None,
            spoils: None,
            knows_ranges: true,
            hides_sizes: false,
            forgets_commits: false,
            refuses: None,
            content_server: String::new(),
            requests: Vec::new(),
        }));
        let content_server = serve(&model, false);
        model.lock().unwrap().content_server = content_server;
        let home = tempfile::tempdir().unwrap();
        let mut config = HubConfig::from_lookup(hub, &|_| None, home.path());
        config.endpoint = Some(serve(&model, true));
        config.max_retries = 0;
        Self { model, config, home, log: Log::default() }
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    pub(crate) fn resolve(&self) -> Result<PathBuf, HubError> {
        resolve(&self.config, MODEL, WHOLE, &self.log)
    }

    pub(crate) fn refusal(&self) -> String {
        self.resolve().unwrap_err().to_string()
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.model().requests)
    }

    /// Resolves and compares every file with those of a commit.
    pub(crate) fn resolve_to(&self, commit: &str) -> PathBuf {
        let folder = self.resolve().unwrap();
        let wanted = self.model().commits[commit].clone();
        for (name, bytes) in wanted.iter().filter(|(name, _)| *name != "README.md") {
            assert!(fs::read(folder.join(name)).unwrap() == *bytes, "{name} differs");
        }
        assert!(!folder.join("README.md").exists(), "more than a model needs");
        folder
    }

    pub(crate) fn cache(&self, path: &str) -> PathBuf {
        self.home.path().join(".cache/huggingface/hub").join(path)
    }
}

/// A sharded model whose bytes depend on `seed`.
pub(crate) fn files(seed: u8) -> BTreeMap<String, Vec<u8>> {
    let shard = |salt: u8| -> Vec<u8> {
        (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ salt).collect()
    };
    let index = format!(r#"{{"weight_map":{{"a":"{FIRST}","b":"{SECOND}","c":"{FIRST}"}}}}"#);
    BTreeMap::from([
        ("config.json".to_owned(), format!(r#"{{"seed":{seed}}}"#).into_bytes()),
        ("tokenizer.json".to_owned(), b"{}".to_vec()),
        ("chat_template.jinja".to_owned(), vec![b'x'; usize::from(seed)]),
        ("README.md".to_owned(), b"# tiny".to_vec()),
        (INDEX.to_owned(), index.into_bytes()),
        (FIRST.to_owned(), shard(seed)),
        (SECOND.to_owned(), shard(seed + 100)),
    ])
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Answers one request per connection on a new port, as the hub or as its content server.
pub(crate) fn serve(model: &Arc<Mutex<Model>>, at_hub: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let model = Arc::clone(model);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut request = read_request(&stream);
            request.at_hub = at_hub;
            let mut model = model.lock().unwrap();
            let reply = model.answer(&request);
            let mut text = format!("HTTP/1.1 {} -\r\nConnection: close\r\n", reply.status);
            text += &format!("Content-Length: {}\r\n", reply.body.len());
            for (name, value) in &reply.headers {
                text += &format!("{name}: {value}\r\n");
            }
            request.sent = reply.breaks_at.unwrap_or(reply.body.len());
            let body = &reply.body[..request.sent];
            model.requests.push(request);
            drop(model);
            // The client hangs up where it only wanted the headers.
            let _ = (&stream).write_all(&[text.as_bytes(), b"\r\n", body].concat());
        }
    });
    endpoint
}

pub(crate) fn read_request(stream: &TcpStream) -> Request {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let mut request = Request {
        path: first.split(' ').nth(1).unwrap_or_default().to_owned(),
        ..Request::default()
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        match name.to_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            "user-agent" => request.user_agent = Some(value.to_owned()),
            _ => {}
        }
    }
    request
}

impl Model {
    fn answer(&mut self, request: &Request) -> Reply {
        if let Some(status) = self.refuses {
            return Reply { status, body: b"<html>".to_vec(), ..Reply::default() };
        }
        let path = request.path.replace("%2F", "/");
        let reply = self.route(&path, request).unwrap_or(Reply { status: 404, ..Reply::default() });
        if let Some(commit) = self.moves_to.take() {
            self.references.insert("main", commit);
        }
        reply
    }

    fn commit(&self, revision: &str) -> Option<&'static str> {
        let named = self.references.get(revision).copied();
        named.or(self.commits.keys().copied().find(|commit| *commit == revision))
    }

    fn route(&mut self, path: &str, request: &Request) -> Option<Reply> {
        if let Some(revision) = path.strip_prefix("/api/models/zai-org/tiny/revision/") {
            let commit = self.commit(revision)?;
            let name = |name| serde_json::json!({ "rfilename": name });
            let siblings: Vec<_> = self.commits[commit].keys().map(name).collect();
            let info = serde_json::json!({ "sha": commit, "siblings": siblings });
            return Some(Reply { status: 200, body: info.to_string().into(), ..Reply::default() });
        }
        if let Some(query) = path.strip_prefix("/api/v1/models/ZhipuAI/tiny/repo/files?Revision=") {
            let files = self.commit(query.strip_suffix("&Recursive=true")?).map(|commit| {
                let entry = |(name, bytes): (&String, &Vec<u8>)| {
                    serde_json::json!({ "Path": name, "Type": "blob",
                    "Size": bytes.len(), "Sha256": hash(bytes), "Revision": commit })
                };
                self.commits[commit].iter().map(entry).collect::<Vec<_>>()
            });
            let reply =
                serde_json::json!({ "Code": 200, "Success": true, "Data": { "Files": files } });
            return Some(Reply { status: 200, body: reply.to_string().into(), ..Reply::default() });
        }
        let (prefix, place) = path.split_once("/resolve/")?;
        let (revision, name) = place.rsplit_once('/')?;
        let commit = self.commit(revision)?;
        if self.forgets_commits && revision == commit {
            return None;
        }
        let bytes = self.commits[commit].get(name)?;
        let mut headers = Vec::new();
        if matches!(prefix, "/zai-org/tiny" | "/cached/zai-org/tiny") {
            headers.push(("X-Repo-Commit", commit.to_owned()));
            if name.ends_with(".safetensors") {
                headers.push(("X-Linked-Etag", format!("\"{}\"", hash(bytes))));
                if !self.hides_sizes {
                    headers.push(("X-Linked-Size", bytes.len().to_string()));
                }
                headers.push(("Location", format!("{}/content{path}", self.content_server)));
                return Some(Reply { status: 302, headers, ..Reply::default() });
            }
            // Small files come from a cache of the hub's own.
            if !path.starts_with("/cached/") {
                headers.push(("Location", format!("/cached{path}")));
                return Some(Reply { status: 307, headers, ..Reply::default() });
            }
            headers.push(("ETag", format!("W/\"{}\"", hash(bytes))));
        }
        let asked = request.range.as_deref().filter(|_| self.knows_ranges);
        let asked = asked.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let mut reply = Reply { status: 200, headers, body: bytes.clone(), breaks_at: None };
        if let Some((start, end)) = asked {
            let start: usize = start.parse().ok()?;
            if start >= bytes.len() {
                return Some(Reply { status: 416, ..Reply::default() });
            }
            let end = end.parse().map_or(bytes.len(), |end: usize| end + 1);
            let range = format!("bytes {start}-{}/{}", end - 1, bytes.len());
            reply.headers.push(("Content-Range", range));
            (reply.status, reply.body) = (206, bytes[start..end].to_vec());
        }
        if let Some((_, at)) =
            self.breaks.take_if(|(file, at)| *file == name && *at < reply.body.len())
        {
            reply.breaks_at = Some(at);
        }
        if let Some((file, times)) = &mut self.spoils
            && (*file, *times > 0, reply.body.len() > 1) == (name, true, true)
        {
            *times -= 1;
            reply.body[7] ^= 1;
        }
        Some(reply)
    }
}
