use hf_hub::api::RepoInfo;

use super::client::{Client, Redirects, encode};
use super::{HubError, Listing, Remote, is_plain_name};

/// The commit of `revision` and the files it has.
pub(super) fn list(client: &Client<'_>, revision: &str) -> Result<Listing, HubError> {
    let url = format!("{}/api/models/{}/revision/{}", client.endpoint, client.id, encode(revision));
    let answer = client.get(&url, None, Redirects::Follow)?;
    if !answer.response.status().is_success() {
        let absent = match answer.header("x-error-code") {
            Some("RevisionNotFound") => client.no_revision(revision),
            Some("RepoNotFound") => client.no_repository(),
            _ if revision == "main" => client.no_repository(),
            _ => client.no_revision(revision),
        };
        return Err(client.refusal(&answer, absent));
    }
    let info: RepoInfo = answer.json()?;
    if !is_plain_name(&info.sha) {
        return Err(HubError::Malformed {
            url,
            what: format!("`sha` is `{}`, wanted a commit", info.sha),
        });
    }
    let files = info.siblings.into_iter().map(|file| (file.rfilename, None)).collect();
    Ok(Listing { commit: info.sha, files })
}

/// What the content of `file` at `commit` is called and how long it is, by the headers that
/// `huggingface_hub` reads, so that both give a blob the same name.
///
/// Asks for one byte: a server that knows no ranges is cut off after its headers.
pub(super) fn locate(client: &Client<'_>, commit: &str, file: &str) -> Result<Remote, HubError> {
    let url =
        format!("{}/{}/resolve/{}/{}", client.endpoint, client.id, encode(commit), encode(file));
    let answer = client.get(&url, Some("bytes=0-0"), Redirects::UntilEtag)?;
    let status = answer.response.status();
    if !status.is_success() && !status.is_redirection() {
        return Err(client.refusal(&answer, client.no_file(commit, file)));
    }
    if let Some(found) = answer.header("x-repo-commit").filter(|found| *found != commit) {
        return Err(answer.malformed(format!("answers for commit {found}, wanted {commit}")));
    }
    let etag = answer.header("x-linked-etag").or(answer.header("etag"));
    let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
    let Some(blob) = etag.filter(|etag| is_plain_name(etag)) else {
        return Err(
            answer.malformed(format!("its ETag is {etag:?}, wanted the name of its content"))
        );
    };
    let length = |name: &str| answer.header(name).and_then(|text| text.parse().ok());
    let size = length("x-linked-size").or(match status.as_u16() {
        200 => length("content-length"),
        206 => answer.content_range().map(|(_, size)| size),
        _ => None,
    });
    Ok(Remote { blob: blob.to_owned(), size, urls: vec![url] })
}
