use std::collections::BTreeMap;

use serde::Deserialize;

use super::client::{Client, Redirects, encode};
use super::{HubError, Listing, Remote, is_plain_name};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reply {
    success: bool,
    #[serde(default)]
    message: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    files: Option<Vec<File>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    path: String,
    r#type: String,
    size: u64,
    sha256: Option<String>,
    /// The last commit that changed this file.
    revision: Option<String>,
}

/// The files of `revision` with their sizes and hashes.
///
/// The listing does not say which commit it is of, so the snapshot is named by a fingerprint of the
/// listing, and each file is asked for at the commit that last changed it: a branch that moves
/// afterwards changes nothing. Should the hub not know that commit, the revision is tried, and the
/// listed size still has to fit.
pub(super) fn list(client: &Client<'_>, revision: &str) -> Result<Listing, HubError> {
    let (endpoint, id) = (client.endpoint, client.id);
    let url = format!(
        "{endpoint}/api/v1/models/{id}/repo/files?Revision={}&Recursive=true",
        encode(revision)
    );
    let answer = client.get(&url, None, Redirects::Follow)?;
    if !answer.response.status().is_success() {
        return Err(client.refusal(&answer, client.no_repository()));
    }
    let reply: Reply = answer.json()?;
    if !reply.success {
        return Err(HubError::Malformed { url, what: format!("the hub says `{}`", reply.message) });
    }
    // An unknown revision is a success without files.
    let mut listed =
        reply.data.and_then(|data| data.files).ok_or_else(|| client.no_revision(revision))?;
    listed.retain(|file| file.r#type != "tree" && is_plain_name(&file.path));
    listed.sort_by(|one, other| one.path.cmp(&other.path));

    let commit = fingerprint(&listed);
    let mut files = BTreeMap::new();
    for File { path, size, sha256, revision: changed, .. } in listed {
        let url =
            |at: &str| format!("{endpoint}/models/{id}/resolve/{}/{}", encode(at), encode(&path));
        let is_commit =
            |text: &&str| text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut urls = vec![url(revision)];
        if let Some(changed) = changed.as_deref().filter(is_commit) {
            urls.insert(0, url(changed));
        }
        let blob =
            sha256.filter(|hash| is_plain_name(hash)).unwrap_or_else(|| format!("{commit}-{path}"));
        files.insert(path, Some(Remote { urls, blob, size: Some(size) }));
    }
    Ok(Listing { commit, files })
}

/// FNV-1a over what identifies every file.
fn fingerprint(files: &[File]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for file in files {
        let line =
            format!("{}\0{}\0{:?}\0{:?}\n", file.path, file.size, file.sha256, file.revision);
        for byte in line.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}
