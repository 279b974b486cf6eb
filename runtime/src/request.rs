//! What is asked of the engine, and what comes back.

use std::fmt;

use crate::error::RequestError;
use crate::load::GenerationDefaults;

/// A prompt to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the answer; they are not part of it.
    pub stop_strings: Vec<String>,
    /// Token ids that end the answer besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Most tokens to generate; what the context has room for when `None`.
    pub max_tokens: Option<usize>,
    /// Go on past the model's own end tokens.
    pub ignore_eos: bool,
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
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Makes the draw repeatable; drawn anew for each request when `None`.
    pub seed: Option<u64>,
}

impl SamplingParams {
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

/// What happens while a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// More of the prompt is computed.
    Prompt {
        /// Prompt tokens computed so far.
        computed: usize,
        /// Prompt tokens in all.
        total: usize,
    },
    /// A token was chosen.
    Token {
        /// Its id.
        id: u32,
        /// The text that became certain by it; empty while a character is unfinished or a stop
        /// text may be on its way.
        text: &'a str,
    },
    /// The answer ended without an end token or a stop text, and this was still held back.
    Rest {
        /// The text.
        text: &'a str,
    },
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
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Aborted => "aborted",
        })
    }
}

/// How long an answer took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Time to compute them.
    pub prompt_seconds: f64,
    /// Tokens generated after the first.
    pub decode_tokens: usize,
    /// Time to generate them.
    pub decode_seconds: f64,
    /// Time from the request to the first token.
    pub time_to_first_token_seconds: f64,
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
