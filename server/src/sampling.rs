//! From the fields that all APIs share to a request of the engine.

use std::time::{Duration, Instant};

use glm_runtime::Request;

use crate::access::Client;
use crate::app::App;
use crate::body::{Fields, found, id};
use crate::error::ApiError;
use crate::limits;

/// Takes what a request says of choosing, stopping and serving, for a prompt. Lengths and logarithms
/// of probabilities, which APIs call by different names, are theirs to set.
pub(crate) fn request(
    app: &App,
    client: &Client,
    fields: &mut Fields,
    prompt: Vec<u32>,
) -> Result<Request, ApiError> {
    let tokenizer = &app.engine()?.files().tokenizer;
    let mut sampling = app.config.sampling.clone();
    fn set<T>(value: &mut T, asked: Option<T>) {
        if let Some(asked) = asked {
            *value = asked;
        }
    }
    set(&mut sampling.temperature, fields.number("temperature", 0.0..=100.0)?);
    // Below this the engine's division would overflow; it means the same.
    if sampling.temperature < 1e-3 {
        sampling.temperature = 0.0;
    }
    set(&mut sampling.top_p, fields.number("top_p", 0.0..=1.0)?);
    // SDKs write 0 for the narrowest choice.
    sampling.top_p = sampling.top_p.max(1e-6);
    // Some clients write -1 where they mean all.
    let top_k = fields.integer("top_k", -1..=i64::from(i32::MAX))?;
    set(&mut sampling.top_k, top_k.map(|k| k.max(0) as usize));
    set(&mut sampling.min_p, fields.number("min_p", 0.0..=1.0)?);
    set(&mut sampling.repetition_penalty, fields.number("repetition_penalty", 0.01..=100.0)?);
    set(&mut sampling.presence_penalty, fields.number("presence_penalty", -2.0..=2.0)?);
    set(&mut sampling.frequency_penalty, fields.number("frequency_penalty", -2.0..=2.0)?);
    sampling.seed = fields.integer("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned);
    if let Some(biases) = fields.object("logit_bias")? {
        let place = fields.place("logit_bias");
        let biases = biases.rest();
        if biases.len() > limits::BIASED {
            let wanted = format!("at most {} tokens", limits::BIASED);
            return Err(ApiError::field(&place, biases.len(), &wanted));
        }
        for (token, bias) in biases {
            let place = format!("{place}.{token}");
            let token = token.parse().map_err(|_| ApiError::field(&place, "it", "a token id"))?;
            let number = bias.as_f64().filter(|bias| bias.abs() <= 100.0);
            let wanted = "a number from -100 to 100";
            let number = number.ok_or_else(|| ApiError::field(&place, found(&bias), wanted))?;
            sampling.logit_bias.push((token, number as f32));
        }
    }
    let mut request = Request::new(prompt, sampling);
    request.n = fields.count("n", 1..=limits::CHOICES)?.unwrap_or(1);
    request.stop_strings = fields.texts("stop", limits::STOPS, limits::STOP_BYTES)?;
    request.stop_token_ids = fields.ids("stop_token_ids", limits::STOPS)?;
    request.ignore_eos = fields.flag("ignore_eos")?.unwrap_or(false);
    request.min_tokens = fields.count("min_tokens", 0..=1 << 24)?.unwrap_or(0);
    for word in fields.texts("bad_words", limits::BIASED, limits::STOP_BYTES)? {
        request.bad_words.push(tokenizer.encode(&word)?);
    }
    request.priority = fields.integer("priority", -1000..=1000)?.unwrap_or(0) as i32;
    request.cache_salt = client.salt.clone();
    if let Some(salt) = fields.text("cache_salt")? {
        if salt.len() > limits::SALT {
            let wanted = format!("at most {} bytes", limits::SALT);
            return Err(ApiError::field("cache_salt", salt.len(), &wanted));
        }
        request.cache_salt.extend(salt.into_bytes());
    }
    let asked = fields.number("timeout", 0.001..=1e6)?.map(Duration::from_secs_f32);
    let longest = [asked, app.config.request_timeout].into_iter().flatten().min();
    request.deadline = longest.map(|longest| Instant::now() + longest);
    request.max_tokens = app.config.max_tokens;
    Ok(request)
}

/// Takes the length of an answer by one of its names.
pub(crate) fn max_tokens(
    fields: &mut Fields,
    names: &[&str],
    least: u64,
) -> Result<Option<usize>, ApiError> {
    let mut most = None;
    for name in names {
        most = fields.count(name, least..=1 << 24)?.or(most);
    }
    Ok(most)
}

/// A prompt of token ids.
pub(crate) fn token_ids(values: &[serde_json::Value], place: &str) -> Result<Vec<u32>, ApiError> {
    values
        .iter()
        .enumerate()
        .map(|(index, value)| id(value, &format!("{place}[{index}]")))
        .collect()
}
