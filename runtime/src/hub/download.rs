use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::cache::{RepoCache, create_parent};
use super::client::{Answer, Client, Redirects};
use super::{DownloadProgress, FileProgress, HubConfig, HubError, Listing, Remote, huggingface};

/// Brings the files of one commit into the cache.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) cache: &'a RepoCache,
    pub(super) listing: &'a Listing,
    pub(super) config: &'a HubConfig,
    pub(super) progress: &'a dyn DownloadProgress,
}

/// A response with the bytes `start..total` of a file.
struct Rest {
    answer: Answer,
    start: u64,
    total: u64,
}

impl Download<'_> {
    /// Sees to it that the snapshot has the file `name`, the `index`th of `files`.
    pub(super) fn file(&self, name: &str, index: usize, files: usize) -> Result<(), HubError> {
        if self.cache.snapshot_path(&self.listing.commit).join(name).is_file() {
            return Ok(());
        }
        let mut report = FileProgress { name, index, files, done_bytes: 0, total_bytes: 0 };
        let mut failures = 0;
        let mut was_corrupt = false;
        let most = self.config.max_retries;
        loop {
            match self.attempt(&mut report) {
                // Wrong bytes twice are what the hub has.
                Err(error @ HubError::Corrupt { .. }) if was_corrupt => return Err(error),
                Err(error) if error.is_transient() && failures < most => {
                    failures += 1;
                    was_corrupt |= matches!(error, HubError::Corrupt { .. });
                    let error = error.chain();
                    self.progress.note(&format!("{error}; trying again ({failures} of {most})"));
                    // At once, then after 1, 2, 4, .. seconds.
                    let seconds = if failures == 1 { 0 } else { 1 << (failures - 2).min(5) };
                    thread::sleep(Duration::from_secs(seconds));
                }
                outcome => return outcome,
            }
        }
    }

    fn attempt(&self, report: &mut FileProgress<'_>) -> Result<(), HubError> {
        let (commit, name) = (&self.listing.commit, report.name);
        let remote = match self.listing.files.get(name) {
            Some(Some(remote)) => remote.clone(),
            _ => huggingface::locate(self.client, commit, name)?,
        };
        let blob = self.cache.blob_path(&remote.blob);
        create_parent(&blob)?;
        let _lock = self.cache.lock(&remote.blob, || {
            self.progress.note(&format!("`{name}`: another process is fetching it, waiting"));
        })?;
        let is_whole = |length| remote.size.is_none_or(|size| size == length);
        if !fs::metadata(&blob).is_ok_and(|blob| is_whole(blob.len())) {
            // Not the name that other tools use: they may fill a file out of order.
            let part = blob.with_file_name(format!("{}.glm.incomplete", remote.blob));
            self.transfer(&remote, &part, report)?;
            verify(&part, &remote.blob, name)?;
            fs::rename(&part, &blob).map_err(|source| HubError::disk(&blob, source))?;
        }
        self.cache.link(commit, name, &remote.blob)
    }

    /// Brings the file at `path` from the prefix that it is to the whole that `remote` is.
    fn transfer(
        &self,
        remote: &Remote,
        path: &Path,
        report: &mut FileProgress<'_>,
    ) -> Result<(), HubError> {
        let disk = |source| HubError::disk(path, source);
        let part = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let mut part = part.map_err(disk)?;
        let mut done = part.seek(SeekFrom::End(0)).map_err(disk)?;
        if remote.size.is_some_and(|size| done > size) {
            restart(&mut part, &mut done).map_err(disk)?;
        }
        if remote.size != Some(done) {
            let rest = self.request_rest(remote, done, report.name)?;
            if rest.start < done {
                restart(&mut part, &mut done).map_err(disk)?;
            }
            *report = FileProgress { done_bytes: done, total_bytes: rest.total, ..*report };
            self.receive(rest.answer, &mut part, path, report)?;
        }
        part.sync_all().map_err(disk)
    }

    /// Asks for what follows the first `done` bytes, or for everything where that cannot be had.
    fn request_rest(&self, remote: &Remote, done: u64, name: &str) -> Result<Rest, HubError> {
        let mut start = done;
        let mut answer = self.request(remote, start)?;
        let resumes = answer.content_range().is_some_and(|(at, _)| at == start);
        let status = answer.response.status().as_u16();
        if start > 0 && (status == 416 || status == 206 && !resumes) {
            // What is here is no part of what is there.
            start = 0;
            answer = self.request(remote, start)?;
        }
        let found = match answer.response.status().as_u16() {
            200 => {
                start = 0;
                answer.header("content-length").and_then(|text| text.parse().ok())
            }
            206 if start > 0 => answer.content_range().map(|(_, size)| size),
            _ => {
                let absent = self.client.no_file(&self.listing.commit, name);
                return Err(self.client.refusal(&answer, absent));
            }
        };
        match (found, remote.size) {
            (Some(found), Some(wanted)) if found != wanted => {
                Err(answer.malformed(format!("has {found} bytes, the hub announced {wanted}")))
            }
            (Some(total), _) | (None, Some(total)) => Ok(Rest { answer, start, total }),
            // Without any size, a connection that breaks looks like the end of the file.
            (None, None) => Err(answer.malformed("has no size, wanted a Content-Length")),
        }
    }

    /// The bytes of the file from `start` on.
    fn request(&self, remote: &Remote, start: u64) -> Result<Answer, HubError> {
        let range = (start > 0).then(|| format!("bytes={start}-"));
        let (last, earlier) = remote.urls.split_last().expect("a file has an address");
        for url in earlier {
            let answer = self.client.get(url, range.as_deref(), Redirects::Follow)?;
            if answer.response.status() != 404 {
                return Ok(answer);
            }
        }
        self.client.get(last, range.as_deref(), Redirects::Follow)
    }

    /// Appends the body to `part` until it has `report.total_bytes`.
    fn receive(
        &self,
        answer: Answer,
        part: &mut File,
        path: &Path,
        report: &mut FileProgress<'_>,
    ) -> Result<(), HubError> {
        let (file, total) = (report.name, report.total_bytes);
        let longer =
            answer.malformed(format!("sends more than the {total} bytes that were announced"));
        let mut body = answer.response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        self.progress.update(report);
        loop {
            let broken =
                |done, source| HubError::Interrupted { file: file.to_owned(), done, total, source };
            let read = match body.read(&mut buffer) {
                Ok(0) if report.done_bytes == total => return Ok(()),
                Ok(0) => {
                    return Err(broken(report.done_bytes, io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(report.done_bytes, error)),
            };
            let found = report.done_bytes + read as u64;
            if found > total {
                return Err(longer);
            }
            part.write_all(&buffer[..read]).map_err(|source| HubError::disk(path, source))?;
            report.done_bytes = found;
            self.progress.update(report);
        }
    }
}

/// Compares the file at `path` with the SHA-256 that its blob is named by; small files on Hugging
/// Face are named by another hash, and pass. A file that differs is deleted.
fn verify(path: &Path, blob: &str, file: &str) -> Result<(), HubError> {
    if blob.len() != 64 || !blob.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let disk = |source| HubError::disk(path, source);
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path).map_err(disk)?, &mut hasher).map_err(disk)?;
    let found = format!("{:x}", hasher.finalize());
    if found == blob.to_ascii_lowercase() {
        return Ok(());
    }
    fs::remove_file(path).map_err(disk)?;
    Err(HubError::Corrupt { file: file.to_owned(), found, wanted: blob.to_owned() })
}

fn restart(part: &mut File, done: &mut u64) -> io::Result<()> {
    *done = 0;
    part.set_len(0)?;
    part.rewind()
}
