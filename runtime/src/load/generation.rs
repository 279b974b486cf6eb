//! What the model's authors sample with, from `generation_config.json`.

use std::path::Path;

use glm_models::config::{Config, Fields, parse};

use super::{CONFIG, CheckpointError, GENERATION_CONFIG};

/// Sampling defaults of a checkpoint. `None` where its files say nothing: nothing is assumed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Divisor of the logits.
    pub temperature: Option<f32>,
    /// Probability mass to choose from.
    pub top_p: Option<f32>,
    /// Number of tokens to choose from.
    pub top_k: Option<usize>,
    /// Least probability, relative to the best token's.
    pub min_p: Option<f32>,
    /// Factor against tokens that already occurred.
    pub repetition_penalty: Option<f32>,
    /// Whether to sample at all, or to take the best token.
    pub do_sample: Option<bool>,
    /// Ids that end a text, each once: those of `generation_config.json`, else those of
    /// `config.json`. Empty where neither names one, as a base model's files may.
    pub eos_token_ids: Vec<u32>,
    /// Most tokens to generate.
    pub max_new_tokens: Option<usize>,
}

impl GenerationDefaults {
    /// Reads the text of a `generation_config.json`; without one, only `config.json`'s end
    /// ids remain. `folder` is only named in errors.
    ///
    /// # Errors
    /// Text that is not a JSON object, a value of the wrong type, an end id that is not below
    /// the vocabulary's size.
    pub fn read(
        text: Option<&str>,
        config: &Config,
        folder: &Path,
    ) -> Result<Self, CheckpointError> {
        let path = folder.join(GENERATION_CONFIG);
        let map = parse(text.unwrap_or("{}"), &path)?;
        let fields = Fields::new(&map, &path);
        let number = |key| fields.number(key).map(|number| number.map(|number| number as f32));
        let mut defaults = Self {
            temperature: number("temperature")?,
            top_p: number("top_p")?,
            top_k: fields.count("top_k")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
            do_sample: fields.flag("do_sample")?,
            eos_token_ids: fields.token_ids("eos_token_id")?,
            max_new_tokens: fields.size("max_new_tokens")?,
        };
        let mut origin = path.clone();
        if defaults.eos_token_ids.is_empty() {
            defaults.eos_token_ids = config.eos_token_ids().to_vec();
            origin = folder.join(CONFIG);
        }
        let vocab_size = config.vocab_size();
        if let Some(&id) = defaults.eos_token_ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(CheckpointError::EndIdOutOfRange { path: origin, id, vocab_size });
        }
        let mut seen = std::collections::BTreeSet::new();
        defaults.eos_token_ids.retain(|&id| seen.insert(id));
        Ok(defaults)
    }
}
