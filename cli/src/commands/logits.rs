//! `glm inspect --logits`: one forward pass, written to a file.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use glm_runtime::{TensorRecord, Values};
use safetensors::{Dtype, View};
use serde_json::Value;

use super::Outcome;
use crate::args::InspectArgs;
use crate::resolve::{ModelChoice, Place};
use crate::{files, ui};

/// Runs the model once over the ids in the file `ids` and writes what came out to `out`.
pub(crate) fn forward(
    args: &InspectArgs,
    model: &ModelChoice,
    ids: &Path,
    out: &Path,
) -> Result<Outcome> {
    // Minutes of loading are not lost to a typing error.
    files::check_writable(out)?;
    let place = Place::open(&args.engine)?;
    let files = model.open(&args.source, &place)?;
    let text = fs::read_to_string(ids).with_context(|| format!("cannot read {}", ids.display()))?;
    let token_ids =
        token_ids(&text, files.config.vocab_size()).with_context(|| ids.display().to_string())?;
    let (found, context) = (token_ids.len(), files.config.max_position_embeddings());
    ensure!(found <= context, "{found} token ids, wanted at most the context of {context}");
    let mut engine = place.load(files)?;
    let records = engine.trace_forward(&token_ids, args.trace)?;
    let written = records.len();
    files::write(out, |file| {
        let views = records.iter().map(|(name, record)| (name, Record(record)));
        Ok(safetensors::serialize_to_file(views, None, file.path())?)
    })?;
    ui::note(format!(
        "wrote {written} tensors for {} tokens to {}",
        token_ids.len(),
        out.display()
    ));
    Ok(Outcome::Done)
}

/// Token ids from a JSON array of whole numbers below `vocab_size`.
fn token_ids(text: &str, vocab_size: usize) -> Result<Vec<u32>> {
    let Value::Array(values) = serde_json::from_str(text).context("not JSON")? else {
        bail!("wanted a JSON array of token ids");
    };
    ensure!(!values.is_empty(), "the array of token ids is empty");
    let id = |(position, value): (usize, &Value)| {
        let id = value
            .as_u64()
            .filter(|id| *id < vocab_size as u64)
            .and_then(|id| u32::try_from(id).ok());
        id.with_context(|| {
            format!(
                "element {position} is {value}, wanted a token id from 0 to {}",
                vocab_size.saturating_sub(1)
            )
        })
    };
    values.iter().enumerate().map(id).collect()
}

/// A record as the file format wants it: little-endian bytes, made when they are written.
struct Record<'a>(&'a TensorRecord);

impl View for Record<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.values {
            Values::F32(_) => Dtype::F32,
            Values::I64(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.0.values {
            Values::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Values::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        match &self.0.values {
            Values::F32(values) => size_of_val(values.as_slice()),
            Values::I64(values) => size_of_val(values.as_slice()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_ids_are_checked_one_by_one() -> Result<()> {
        assert_eq!(token_ids("[0, 7, 9]", 10)?, [0, 7, 9]);
        for (text, wanted) in [
            ("[1, 10]", "element 1 is 10, wanted a token id from 0 to 9"),
            ("[-1]", "element 0 is -1"),
            ("[1.5]", "element 0 is 1.5"),
            ("[\"a\"]", "element 0 is \"a\""),
            ("[18446744073709551616]", "element 0 is"),
            ("[]", "is empty"),
            ("{}", "wanted a JSON array"),
            ("[1", "not JSON"),
        ] {
            let message = format!("{:#}", token_ids(text, 10).expect_err(text));
            assert!(message.contains(wanted), "{text}: {message}");
        }
        Ok(())
    }

    #[test]
    fn records_become_little_endian_bytes() {
        let record = TensorRecord { shape: vec![1, 2], values: Values::I64(vec![1, -1]) };
        let view = Record(&record);
        assert_eq!((view.dtype(), view.data_len(), view.shape()), (Dtype::I64, 16, &[1, 2][..]));
        assert_eq!(view.data()[..9], [1, 0, 0, 0, 0, 0, 0, 0, 255]);
    }
}
