//! Server-sent events ([WHATWG](https://html.spec.whatwg.org/multipage/server-sent-events.html)) of
//! the OpenAI APIs.

use std::io::{self, BufRead};

use serde_json::Value;

/// Most bytes of a line. Longer ones are no chunk of an answer.
const LINE: usize = 1 << 24;

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Some of the answer: text, thought, or part of a tool call.
    Text,
    /// How many tokens there were.
    Usage { prompt_tokens: usize, cached_tokens: usize, completion_tokens: usize },
    /// Nothing of the kind.
    Nothing,
    /// That the answer failed.
    Error(String),
    /// The end.
    Done,
}

/// Chunks as they come.
#[derive(Debug)]
pub(super) struct Events<R> {
    lines: R,
    /// An answer said why it ended: a stream without `[DONE]` is whole all the same.
    finished: bool,
    /// Of a chunk that has both, the usage comes after the text.
    usage: Option<Chunk>,
}

impl<R: BufRead> Events<R> {
    pub(super) fn new(lines: R) -> Self {
        Events { lines, finished: false, usage: None }
    }

    /// The next chunk; waits for it.
    ///
    /// # Errors
    /// Of the connection, and where the stream ends before the answer does.
    pub(super) fn next(&mut self) -> io::Result<Chunk> {
        if let Some(usage) = self.usage.take() {
            return Ok(usage);
        }
        loop {
            let mut line = Vec::new();
            let limit = LINE as u64;
            if io::Read::take(&mut self.lines, limit).read_until(b'\n', &mut line)? == 0 {
                return match self.finished {
                    true => Ok(Chunk::Done),
                    false => Err(io::Error::other("the stream ended before the answer did")),
                };
            }
            let line = String::from_utf8_lossy(&line);
            // Comments keep the connection alive; other fields say nothing here.
            let Some(data) = line.trim_end_matches(['\r', '\n']).strip_prefix("data:") else {
                continue;
            };
            let data = data.strip_prefix(' ').unwrap_or(data);
            if data == "[DONE]" {
                return Ok(Chunk::Done);
            }
            let value: Value = serde_json::from_str(data)
                .map_err(|error| io::Error::other(format!("an event is no JSON: {error}")))?;
            return Ok(self.chunk(&value));
        }
    }

    fn chunk(&mut self, value: &Value) -> Chunk {
        let error = &value["error"];
        if !error.is_null() {
            let message = error["message"].as_str().or(error.as_str());
            return Chunk::Error(message.map_or_else(|| error.to_string(), ToOwned::to_owned));
        }
        let choices = value["choices"].as_array().map_or(&[][..], Vec::as_slice);
        self.finished |= choices.iter().any(|choice| !choice["finish_reason"].is_null());
        let says = |part: &Value| match part {
            Value::String(text) => !text.is_empty(),
            Value::Array(parts) => !parts.is_empty(),
            _ => false,
        };
        let text = choices.iter().any(|choice| {
            let delta = &choice["delta"];
            says(&choice["text"])
                || ["content", "reasoning_content", "reasoning", "tool_calls"]
                    .iter()
                    .any(|key| says(&delta[*key]))
        });
        let usage = &value["usage"];
        let count = |count: &Value| count.as_u64().and_then(|count| usize::try_from(count).ok());
        let usage = count(&usage["completion_tokens"]).map(|completion_tokens| Chunk::Usage {
            prompt_tokens: count(&usage["prompt_tokens"]).unwrap_or(0),
            cached_tokens: count(&usage["prompt_tokens_details"]["cached_tokens"]).unwrap_or(0),
            completion_tokens,
        });
        match (text, usage) {
            (true, usage) => {
                self.usage = usage;
                Chunk::Text
            }
            (false, Some(usage)) => usage,
            (false, None) => Chunk::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &str) -> Result<Vec<Chunk>, String> {
        let mut events = Events::new(text.as_bytes());
        let mut chunks = Vec::new();
        loop {
            match events.next().map_err(|error| error.to_string())? {
                Chunk::Done => return Ok(chunks),
                chunk => chunks.push(chunk),
            }
        }
    }

    #[test]
    fn chunks_of_both_apis() {
        let usage = Chunk::Usage { prompt_tokens: 7, cached_tokens: 4, completion_tokens: 2 };
        let text = concat!(
            ": keep-alive\r\n\r\n",
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\r\n\r\n",
            "event: message\ndata: {\"choices\":[{\"delta\":{\"reasoning_content\":\"a\"}}]}\n\n",
            "data:{\"choices\":[{\"delta\":{\"content\":\"b\"},\"finish_reason\":\"stop\"}],",
            "\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,",
            "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\ndata: [DONE]\n\n",
        );
        assert_eq!(chunks(text).unwrap(), [Chunk::Nothing, Chunk::Text, Chunk::Text, usage]);
        let completion = "data: {\"choices\":[{\"text\":\"x\",\"finish_reason\":\"length\"}]}\n\n";
        assert_eq!(chunks(completion).unwrap(), [Chunk::Text]);
    }

    #[test]
    fn what_goes_wrong_is_said() {
        let early = "data: {\"choices\":[{\"text\":\"x\",\"finish_reason\":null}]}\n\n";
        assert_eq!(chunks(early).unwrap_err(), "the stream ended before the answer did");
        assert!(chunks("data: {\n").unwrap_err().starts_with("an event is no JSON: "));
        let error =
            "data: {\"error\":{\"message\":\"out of pages\",\"code\":500}}\n\ndata: [DONE]\n";
        assert_eq!(chunks(error).unwrap(), [Chunk::Error("out of pages".into())]);
        assert_eq!(
            chunks("data: {\"error\":\"busy\"}\ndata: [DONE]\n").unwrap(),
            [Chunk::Error("busy".into())]
        );
    }
}
