//! Responses that later ones may go on from.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::access::Client;
use crate::limits;

/// The last responses, in memory, bounded in number and bytes.
#[derive(Debug, Default)]
pub(crate) struct Stored(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: HashMap<String, Kept>,
    order: VecDeque<String>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    response: Value,
    /// All items until then, of requests and responses.
    conversation: Vec<Value>,
    /// Items of the request.
    input: Vec<Value>,
    /// Whose it is.
    salt: Vec<u8>,
    bytes: usize,
}

impl Stored {
    /// Keeps a response; `conversation` ends in its items.
    pub(super) fn keep(
        &self,
        id: &str,
        client: &Client,
        response: Value,
        conversation: Vec<Value>,
        input: Vec<Value>,
    ) {
        let size = |items: &[Value]| items.iter().map(|item| item.to_string().len()).sum::<usize>();
        let bytes = response.to_string().len() + size(&conversation) + size(&input);
        let kept = Kept { response, conversation, input, salt: client.salt.clone(), bytes };
        let mut inner = self.lock();
        inner.bytes += bytes;
        inner.order.push_back(id.to_owned());
        inner.kept.insert(id.to_owned(), kept);
        while inner.order.len() > limits::STORED || inner.bytes > limits::STORED_BYTES {
            let Some(oldest) = inner.order.pop_front() else { break };
            inner.remove(&oldest);
        }
    }

    pub(super) fn conversation(&self, id: &str, client: &Client) -> Option<Vec<Value>> {
        self.look(id, client, |kept| kept.conversation.clone())
    }

    pub(super) fn response(&self, id: &str, client: &Client) -> Option<Value> {
        self.look(id, client, |kept| kept.response.clone())
    }

    pub(super) fn input(&self, id: &str, client: &Client) -> Option<Vec<Value>> {
        self.look(id, client, |kept| kept.input.clone())
    }

    /// Whether it was there.
    pub(super) fn forget(&self, id: &str, client: &Client) -> bool {
        let mut inner = self.lock();
        let is_theirs = inner.kept.get(id).is_some_and(|kept| kept.salt == client.salt);
        if is_theirs {
            inner.remove(id);
            inner.order.retain(|other| other != id);
        }
        is_theirs
    }

    fn look<T>(&self, id: &str, client: &Client, of: impl Fn(&Kept) -> T) -> Option<T> {
        self.lock().kept.get(id).filter(|kept| kept.salt == client.salt).map(of)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, id: &str) {
        if let Some(kept) = self.kept.remove(id) {
            self.bytes -= kept.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_others_keys_see_nothing() {
        let stored = Stored::default();
        let client = Client::default();
        let keep = |id: &str, size: usize| {
            stored.keep(id, &client, json!({"id": id}), vec![json!("x".repeat(size))], vec![]);
        };
        for index in 0..limits::STORED + 2 {
            keep(&index.to_string(), 1);
        }
        assert_eq!(stored.response("1", &client), None);
        assert_eq!(stored.response("2", &client), Some(json!({"id": "2"})));
        let other = Client { salt: vec![1], ..Client::default() };
        assert_eq!(stored.response("2", &other), None);
        assert!(!stored.forget("2", &other) && stored.forget("2", &client));
        assert_eq!(stored.response("2", &client), None);
        keep("large", limits::STORED_BYTES);
        assert_eq!(stored.lock().bytes, 0);
        keep("small", 1);
        assert!(stored.conversation("small", &client).is_some());
    }
}
