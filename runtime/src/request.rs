//! What is asked of the engine, and what comes back.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Failure, RequestError};
use crate::load::GenerationDefaults;
use crate::step::TokenSet;

/// A prompt to continue.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Answers to the same prompt, each with draws of its own; 1 to [`Request::MAX_CHOICES`].
    pub n: usize,
    /// Texts that end the answer; they are not part of it.
    pub stop_strings: Vec<String>,
    /// Token ids that end the answer besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Token ids in a row that never occur in the answer.
    pub bad_words: Vec<Vec<u32>>,
    /// Most tokens to generate; what the context has room for when `None`.
    pub max_tokens: Option<usize>,
    /// Tokens before which no end token is chosen and no stop text counts.
    pub min_tokens: usize,
    /// Go on past the model's own end tokens.
    pub ignore_eos: bool,
    /// Most tokens of thinking; then `</think>` is forced.
    pub thinking_budget: Option<usize>,
    /// Report log-probabilities of the answer's tokens, and of this many of the most probable.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt from the second on.
    pub prompt_logprobs: Option<usize>,
    /// Higher is served first; a request gains by waiting.
    pub priority: i32,
    /// Ends the request, with what it has by then.
    pub deadline: Option<Instant>,
    /// Cached prefixes are shared between requests of the same salt only.
    pub cache_salt: Vec<u8>,
    /// Says which tokens may come next.
    pub mask: Option<Arc<dyn TokenMask>>,
}

impl Request {
    /// Most answers to one prompt.
    pub const MAX_CHOICES: usize = 128;
    /// Most log-probabilities of other tokens.
    pub const MAX_LOGPROBS: usize = 20;

    /// A request with nothing but a prompt and how tokens are chosen.
    pub fn new(prompt: Vec<u32>, sampling: SamplingParams) -> Self {
        Request {
            prompt,
            sampling,
            n: 1,
            stop_strings: Vec::new(),
            stop_token_ids: Vec::new(),
            bad_words: Vec::new(),
            max_tokens: None,
            min_tokens: 0,
            ignore_eos: false,
            thinking_budget: None,
            logprobs: None,
            prompt_logprobs: None,
            priority: 0,
            deadline: None,
            cache_salt: Vec::new(),
            mask: None,
        }
    }
}

impl Request {
    /// Checks every value by itself, for a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    /// [`RequestError`] for the first value out of range.
    pub fn validate(&self, vocab_size: usize) -> Result<(), RequestError> {
        self.sampling.validate()?;
        let check = |ok: bool, name, found: String, wanted: String| match ok {
            true => Ok(()),
            false => Err(RequestError::Parameter { name, found, wanted }),
        };
        let most = Request::MAX_CHOICES;
        let choices = (1..=most).contains(&self.n);
        check(choices, "n", self.n.to_string(), format!("a number from 1 to {most}"))?;
        for (name, asked) in
            [("logprobs", self.logprobs), ("prompt-logprobs", self.prompt_logprobs)]
        {
            let (asked, most) = (asked.unwrap_or_default(), Request::MAX_LOGPROBS);
            check(asked <= most, name, asked.to_string(), format!("a number from 0 to {most}"))?;
        }
        check(
            self.max_tokens != Some(0),
            "max-tokens",
            "0".into(),
            "at least 1, or none for what the context holds".into(),
        )?;
        let most = self.max_tokens.unwrap_or(usize::MAX);
        check(
            self.min_tokens <= most,
            "min-tokens",
            self.min_tokens.to_string(),
            format!("at most max-tokens, which is {most}"),
        )?;
        let id = |name, id: u32| {
            let wanted = format!("a token id below {vocab_size}");
            check((id as usize) < vocab_size, name, id.to_string(), wanted)
        };
        self.stop_token_ids.iter().try_for_each(|stop| id("stop-token", *stop))?;
        self.sampling.logit_bias.iter().try_for_each(|(bias, _)| id("logit-bias", *bias))?;
        self.bad_words.iter().flatten().try_for_each(|word| id("bad-words", *word))?;
        let empty = self.bad_words.iter().any(Vec::is_empty);
        check(!empty, "bad-words", "an empty one".into(), "at least one token each".into())?;
        let empty = self.stop_strings.iter().any(String::is_empty);
        check(!empty, "stop", "an empty text".into(), "at least one character".into())
    }
}

/// Which tokens answers may go on with: the hook for structured output.
pub trait TokenMask: Send + Sync + fmt::Debug {
    /// The state of one answer.
    fn start(&self) -> Box<dyn MaskState>;
}

/// Which tokens one answer may go on with. It is asked on the engine's thread, before each token
/// that is chosen, and must be quick.
pub trait MaskState: Send + fmt::Debug {
    /// Adds to `allowed`, which comes empty, every token that may follow `output`. `output` may
    /// end in drafts that are dropped later: the next call may come with a shorter one.
    ///
    /// # Errors
    /// Ends the request with this text. So does a set that stays empty.
    fn allowed(&mut self, output: &[u32], allowed: &mut TokenSet) -> Result<(), String>;
}

/// How a token is chosen from the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divisor of the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Keep this many of the most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most probable tokens up to this share of the probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens with at least this share of the best one's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides the logits of tokens that occurred in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that occurred in the output.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens for each time they occurred in the output.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens, at most [`SamplingParams::MAX_BIASED`] of them.
    pub logit_bias: Vec<(u32, f32)>,
    /// Makes the draw repeatable; drawn anew for each request when `None`.
    pub seed: Option<u64>,
}

impl SamplingParams {
    /// Most tokens with a bias.
    pub const MAX_BIASED: usize = 1024;

    /// The most probable token, always.
    pub fn greedy() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }

    /// What the model's authors sample with; temperature 1 where they say nothing, greedy where
    /// they switch sampling off.
    pub fn from_defaults(defaults: &GenerationDefaults) -> Self {
        let temperature = match defaults.do_sample {
            Some(false) => 0.0,
            _ => defaults.temperature.unwrap_or(1.0),
        };
        SamplingParams {
            temperature,
            top_k: defaults.top_k.unwrap_or(0),
            top_p: defaults.top_p.unwrap_or(1.0),
            min_p: defaults.min_p.unwrap_or(0.0),
            repetition_penalty: defaults.repetition_penalty.unwrap_or(1.0),
            ..SamplingParams::greedy()
        }
    }

    /// Whether what was said before changes what may follow.
    pub(crate) fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }

    /// Checks every value by itself.
    ///
    /// # Errors
    /// [`RequestError::Sampling`] for the first value out of range.
    pub fn validate(&self) -> Result<(), RequestError> {
        let check = |ok: bool, name, found: f32, wanted| match ok {
            true => Ok(()),
            false => Err(RequestError::Sampling { name, found: found.to_string(), wanted }),
        };
        let Self { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        check(
            temperature == 0.0 || (1e-3..=100.0).contains(&temperature),
            "temperature",
            temperature,
            "0 or a number from 0.001 to 100",
        )?;
        check(top_p > 0.0 && top_p <= 1.0, "top-p", top_p, "a number above 0 and at most 1")?;
        check((0.0..=1.0).contains(&min_p), "min-p", min_p, "a number from 0 to 1")?;
        check(
            (1e-2..=100.0).contains(&repetition_penalty),
            "repetition-penalty",
            repetition_penalty,
            "a number from 0.01 to 100",
        )?;
        for (name, value) in [
            ("presence-penalty", self.presence_penalty),
            ("frequency-penalty", self.frequency_penalty),
        ] {
            check((-100.0..=100.0).contains(&value), name, value, "a number from -100 to 100")?;
        }
        let biased = self.logit_bias.len();
        check(biased <= Self::MAX_BIASED, "logit-bias", biased as f32, "at most 1024 tokens")?;
        for (_, bias) in &self.logit_bias {
            check(
                (-1000.0..=1000.0).contains(bias),
                "logit-bias",
                *bias,
                "a number from -1000 to 1000",
            )?;
        }
        Ok(())
    }
}

/// What happens while a request is answered. After each answer's `Finished`, or one `Failed` for
/// all of them, nothing comes any more.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the prompt is computed.
    Prompt {
        /// Prompt tokens computed so far.
        computed: usize,
        /// Prompt tokens in all.
        total: usize,
    },
    /// Log-probabilities of the prompt's tokens from the second on, before the first token.
    PromptLogprobs(Vec<TokenLogprobs>),
    /// A token was chosen.
    Token {
        /// Which of the `n` answers.
        choice: usize,
        /// Its id.
        id: u32,
        /// The text that became certain by it; empty while a character is unfinished or a stop
        /// text may be on its way.
        text: String,
        /// Where they were asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// An answer ended.
    Finished {
        /// Which of the `n` answers.
        choice: usize,
        /// What was still held back of its text.
        text: String,
        /// Why it ended.
        finish: Finish,
        /// The end token, where one ended it.
        stop_token: Option<u32>,
        /// The stop text, where one ended it.
        stop_text: Option<String>,
        /// What it took.
        timings: Timings,
    },
    /// The request failed: no answer of it goes on.
    Failed(Failure),
}

/// Log-probability of a token, and of the most probable ones in its place: of the model's own
/// distribution, before temperature, penalties, bias and masks.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The most probable tokens, the best first, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end token or a stop text.
    Stop,
    /// As many tokens as were asked for, or as the context holds.
    Length,
    /// The receiver of the events broke off.
    Aborted,
    /// The deadline passed.
    Deadline,
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Aborted => "aborted",
            Finish::Deadline => "deadline",
        })
    }
}

/// How long an answer took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were cached already.
    pub cached_tokens: usize,
    /// Time until the first of them was computed.
    pub queue_seconds: f64,
    /// Time from then on to the first token of the answer.
    pub prompt_seconds: f64,
    /// Tokens generated after the first.
    pub decode_tokens: usize,
    /// Time to generate them.
    pub decode_seconds: f64,
    /// Time from the request to the first token.
    pub time_to_first_token_seconds: f64,
    /// Drafts that were verified.
    pub drafted_tokens: usize,
    /// Those of them that became part of the answer.
    pub accepted_tokens: usize,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// All generated ids, an end token included.
    pub token_ids: Vec<u32>,
    /// All text, without end token and stop text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// The end token, where one ended it.
    pub stop_token: Option<u32>,
    /// How long it took.
    pub timings: Timings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let message = |params: SamplingParams| params.validate().unwrap_err().to_string();
        let greedy = SamplingParams::greedy;
        assert!(greedy().validate().is_ok());
        assert_eq!(
            message(SamplingParams { temperature: -1.0, ..greedy() }),
            "temperature is -1, wanted 0 or a number from 0.001 to 100"
        );
        assert_eq!(
            message(SamplingParams { top_p: 0.0, ..greedy() }),
            "top-p is 0, wanted a number above 0 and at most 1"
        );
        assert_eq!(
            message(SamplingParams { min_p: f32::NAN, ..greedy() }),
            "min-p is NaN, wanted a number from 0 to 1"
        );
        assert_eq!(
            message(SamplingParams { logit_bias: vec![(3, f32::INFINITY)], ..greedy() }),
            "logit-bias is inf, wanted a number from -1000 to 1000"
        );
    }

    #[test]
    fn switched_off_sampling_is_greedy() {
        let defaults = GenerationDefaults {
            do_sample: Some(false),
            temperature: Some(0.7),
            ..Default::default()
        };
        assert_eq!(SamplingParams::from_defaults(&defaults).temperature, 0.0);
    }
}
