use glm_runtime::Timings;
use serde_json::{Value, json};

use crate::generate::End;

/// Tokens of a request, summed over its answers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    prompt: usize,
    cached: usize,
    completion: usize,
    reasoning: usize,
    accepted: usize,
    drafted: usize,
    timings: Timings,
}

impl Usage {
    /// A token was generated.
    pub(crate) fn token(&mut self, in_thought: bool) {
        self.completion += 1;
        self.reasoning += usize::from(in_thought);
    }

    /// An answer ended. Answers to the same prompt count it once.
    pub(crate) fn end(&mut self, end: &End, is_first_of_prompt: bool) {
        let timings = &end.timings;
        if is_first_of_prompt {
            self.prompt += timings.prompt_tokens;
            self.cached += timings.cached_tokens;
        }
        self.accepted += timings.accepted_tokens;
        self.drafted += timings.drafted_tokens;
        self.timings = *timings;
    }

    /// As chats and completions report it, and how long the last answer took.
    pub(crate) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning,
                "accepted_prediction_tokens": self.accepted,
                "rejected_prediction_tokens": self.drafted - self.accepted,
            },
        })
    }

    /// As responses report it.
    pub(crate) fn of_response(&self) -> Value {
        json!({
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.completion,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.prompt + self.completion,
        })
    }

    /// As Anthropic's messages report it.
    pub(crate) fn of_message(&self) -> Value {
        json!({
            "input_tokens": self.prompt - self.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.cached,
            "output_tokens": self.completion,
        })
    }

    /// Seconds of the last answer.
    pub(crate) fn timings(&self) -> Value {
        json!({
            "queue_seconds": self.timings.queue_seconds,
            "prompt_seconds": self.timings.prompt_seconds,
            "decode_seconds": self.timings.decode_seconds,
            "time_to_first_token_seconds": self.timings.time_to_first_token_seconds,
        })
    }
}
