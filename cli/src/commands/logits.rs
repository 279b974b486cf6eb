//! `glm inspect --logits`: one forward pass, written to a file.

use std::cmp::Reverse;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use glm_runtime::{TensorRecord, Values};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;

use super::Outcome;
use crate::args::InspectArgs;
use crate::model::ModelChoice;
use crate::resolve::Place;
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
    let mut place = Place::open(&args.engine)?.for_a_look(args.mtp);
    place.config.reference_ops = args.reference_ops;
    let files = model.open(&args.source, &place)?;
    let text = fs::read_to_string(ids).with_context(|| format!("cannot read {}", ids.display()))?;
    let token_ids =
        token_ids(&text, files.config.vocab_size()).with_context(|| ids.display().to_string())?;
    let (found, context) = (token_ids.len(), files.config.max_position_embeddings());
    ensure!(found <= context, "{found} token ids, wanted at most the context of {context}");
    let engine = place.load(files)?;
    // Drafts first: a model without the layer says so before the long part.
    let drafts = if args.mtp { engine.trace_drafts(&token_ids)? } else { Vec::new() };
    let mut records = engine.trace_forward(&token_ids, args.trace)?;
    records.extend(drafts);
    for (name, record) in &records {
        if let Values::F32(values) = &record.values
            && values.iter().any(|value| !value.is_finite())
        {
            ui::warning(format!("{name} holds values that are NaN or infinite"));
        }
    }
    files::write(out, |file| write(file, &records))?;
    ui::note(format!(
        "wrote {} tensors for {} tokens to {}",
        records.len(),
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

/// Writes a safetensors file tensor by tensor: the values of a long prompt are gigabytes, and
/// the library would hold them twice, or make a file of its own that only the owner can read.
fn write(out: &mut impl Write, records: &[(String, TensorRecord)]) -> Result<()> {
    let mut records: Vec<_> = records.iter().collect();
    // The widest values first keep all of them aligned.
    records.sort_by_key(|(name, record)| (Reverse(dtype(record)), name));
    let mut end = 0;
    let place = |(name, record): &&(String, TensorRecord)| {
        let start = end;
        end += match &record.values {
            Values::F32(values) => size_of_val(values.as_slice()),
            Values::I64(values) => size_of_val(values.as_slice()),
        };
        let shape = record.shape.clone();
        (name.clone(), TensorInfo { dtype: dtype(record), shape, data_offsets: (start, end) })
    };
    let metadata = Metadata::new(None, records.iter().map(place).collect())?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, record) in records {
        out.write_all(&bytes(record))?;
    }
    Ok(())
}

fn dtype(record: &TensorRecord) -> Dtype {
    match record.values {
        Values::F32(_) => Dtype::F32,
        Values::I64(_) => Dtype::I64,
    }
}

/// The values, little-endian.
fn bytes(record: &TensorRecord) -> Vec<u8> {
    match &record.values {
        Values::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Values::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

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
    fn records_are_written_aligned_and_little_endian() -> Result<()> {
        let record = |shape: &[usize], values| TensorRecord { shape: shape.to_vec(), values };
        let records = [
            ("a".to_owned(), record(&[1], Values::F32(vec![0.5]))),
            ("b".to_owned(), record(&[1, 2], Values::I64(vec![1, -1]))),
        ];
        let mut file = Vec::new();
        write(&mut file, &records)?;
        let read = SafeTensors::deserialize(&file)?;
        let (a, b) = (read.tensor("a")?, read.tensor("b")?);
        assert_eq!((a.dtype(), a.shape(), a.data()), (Dtype::F32, &[1][..], &[0, 0, 0, 63][..]));
        assert_eq!((b.dtype(), b.shape()), (Dtype::I64, &[1, 2][..]));
        assert_eq!(b.data()[..9], [1, 0, 0, 0, 0, 0, 0, 0, 255]);
        assert_eq!(b.data().as_ptr().addr().wrapping_sub(file.as_ptr().addr()) % 8, 0);
        Ok(())
    }
}
