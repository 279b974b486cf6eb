//! `glm inspect --golden`: a model against values that were recorded of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use glm_models::plan::DType;
use glm_runtime::load::{Checkpoint, ModelFiles, WeightSource};
use glm_runtime::{Engine, Fp8Choice, TensorRecord, Values};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use super::Outcome;
use crate::args::InspectArgs;
use crate::model::ModelChoice;
use crate::resolve::Place;
use crate::{builtin, ui};

/// Relative L2 in f32. The CPU holds a tenth of it; a GPU sums in another order.
const EXACT: f64 = 1e-3;
/// The same where one activation in FP8 took the other one of two codes.
const MOVED: f64 = 1e-2;
/// In other formats an expert flips now and then, which moves a row by whole logits: short prompts
/// keep their direction, and of long ones the row in the middle keeps its largest distance.
const ANGLE: f64 = 0.01;
const MEDIAN: f64 = 0.3;
/// Prompts of at most so many tokens are short.
const SHORT: usize = 7;
/// Longer ones meet two experts whose scores differ by a rounding, and either choice is right.
const LONGEST: usize = 100;

/// Computes every prompt in the file `golden`, and compares logits, what lies between and drafts.
pub(crate) fn compare(args: &InspectArgs, model: &ModelChoice, golden: &Path) -> Result<Outcome> {
    let recorded = Recorded::read(golden)?;
    let drafts = recorded.has("mtp.token_in");
    let mut place = Place::open(&args.engine)?.for_a_look(drafts);
    place.config.reference_ops = args.reference_ops;
    let engine = place.load(open(args, model, &place)?)?;
    // What FP8 weights are multiplied with is recorded apart.
    let under = if place.config.fp8 == Fp8Choice::W8a8 { "w8a8." } else { "" };
    let f32 = engine.dtype() == DType::F32;
    let exact = f32 && under.is_empty();
    let mut checks = Checks::default();
    for length in recorded.lengths().into_iter().filter(|length| *length <= LONGEST) {
        let prompt = recorded.token_ids(&format!("prompt{length}.ids"))?;
        let name = format!("{under}prompt{length}.logits");
        if !recorded.has(&name) {
            continue;
        }
        let found = engine.trace_forward(&prompt, true)?;
        let (want, width) = recorded.floats(&name)?;
        let got = last_rows(floats(&found, "logits")?, &want);
        let far = relative_l2(got, &want);
        if !exact && f32 && length > 1 && length <= SHORT && far > EXACT {
            // FP8 activations take either of two codes by the last bit of a sum: from there on a
            // token is off, and what lies between tells nothing more.
            checks.at_most("relative L2 past a code that moved", &name, far, MOVED);
        } else if exact || (f32 && length <= SHORT) {
            checks.exact(&name, got, &want);
            recorded.compare_trace(&format!("{under}trace{length}."), &found, &mut checks)?;
        } else if length <= SHORT {
            checks.at_most("1 - cosine", &name, 1.0 - cosine(got, &want), ANGLE);
        } else {
            let theirs = format!("bf16.{name}");
            // Twice as far as the recorder's own run in bf16, where there is one.
            let limit = match (recorded.has(&theirs), under.is_empty()) {
                (true, true) => 2.0 * median_off(&recorded.floats(&theirs)?.0, &want, width) + 0.1,
                (false, true) => 2.0 * MEDIAN,
                (_, false) => MEDIAN,
            };
            checks.at_most("median distance", &name, median_off(got, &want, width), limit);
        }
    }
    if drafts {
        compare_drafts(&engine, &recorded, under, exact, &mut checks)?;
    }
    checks.show(args.json)
}

/// The files of a model; a folder without a tokenizer takes that of the built-in model, which
/// nothing here looks at.
fn open(args: &InspectArgs, model: &ModelChoice, place: &Place) -> Result<ModelFiles> {
    match model {
        ModelChoice::Folder(folder) if !folder.join("tokenizer.json").exists() => {
            let mut files = ModelFiles::open_random(folder, 1, &builtin::MODEL)?;
            files.weights = WeightSource::Checkpoint(Checkpoint::open(folder)?);
            Ok(files)
        }
        _ => model.open(&args.source, place),
    }
}

/// Drafts of every row of a prompt, and three chained ones.
fn compare_drafts(
    engine: &Engine,
    recorded: &Recorded,
    under: &str,
    exact: bool,
    checks: &mut Checks,
) -> Result<()> {
    let rows = recorded.ids("mtp.token_in")?.len();
    let prompt = recorded.token_ids(&format!("prompt{rows}.ids"))?;
    let found = engine.trace_drafts(&prompt)?;
    let name = format!("{under}mtp.hf.logits_step1");
    if !recorded.has(&name) {
        return Ok(());
    }
    let (want, width) = recorded.floats(&name)?;
    let got = last_rows(floats(&found, "mtp.logits_step1")?, &want);
    if !exact {
        let far = median_off(got, &want, width);
        checks.at_most("median distance", &name, far, 3.0 * MEDIAN);
        return Ok(());
    }
    checks.exact(&name, got, &want);
    let (tokens, logits) = ("mtp.hf.chain_tokens", "mtp.hf.chain_logits");
    checks.equal(tokens, ids(&found, "mtp.chain_tokens")?, &recorded.ids(tokens)?);
    checks.exact(logits, floats(&found, "mtp.chain_logits")?, &recorded.floats(logits)?.0);
    Ok(())
}

/// Of long prompts only the last rows are recorded.
fn last_rows<'a>(got: &'a [f32], want: &[f32]) -> &'a [f32] {
    &got[got.len().saturating_sub(want.len())..]
}

/// A file of recorded tensors.
struct Recorded {
    path: String,
    bytes: Vec<u8>,
    names: Vec<String>,
}

impl Recorded {
    fn read(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let bytes = fs::read(path).with_context(|| format!("cannot read {place}"))?;
        let tensors = SafeTensors::deserialize(&bytes).with_context(|| place.clone())?;
        let mut names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
        names.sort();
        Ok(Self { path: place, bytes, names })
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|held| held == name)
    }

    /// Tokens of the prompts, shortest first.
    fn lengths(&self) -> Vec<usize> {
        let length =
            |name: &String| name.strip_prefix("prompt")?.strip_suffix(".ids")?.parse().ok();
        let mut lengths: Vec<usize> = self.names.iter().filter_map(length).collect();
        lengths.sort_unstable();
        lengths
    }

    /// Values and the length of the last axis.
    fn floats(&self, name: &str) -> Result<(Vec<f32>, usize)> {
        self.values(name, Dtype::F32, f32::from_le_bytes)
    }

    fn ids(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.values(name, Dtype::I64, i64::from_le_bytes)?.0)
    }

    fn token_ids(&self, name: &str) -> Result<Vec<u32>> {
        let ids = self.ids(name)?.into_iter().map(u32::try_from);
        ids.collect::<Result<_, _>>().with_context(|| format!("{name} holds no token ids"))
    }

    fn values<T, const N: usize>(
        &self,
        name: &str,
        dtype: Dtype,
        of: fn([u8; N]) -> T,
    ) -> Result<(Vec<T>, usize)> {
        let tensors = SafeTensors::deserialize(&self.bytes)?;
        let tensor =
            tensors.tensor(name).with_context(|| format!("{}: no tensor {name}", self.path))?;
        ensure!(tensor.dtype() == dtype, "{name} is {:?}, wanted {dtype:?}", tensor.dtype());
        let values = tensor.data().as_chunks::<N>().0.iter().map(|bytes| of(*bytes)).collect();
        Ok((values, tensor.shape().last().copied().unwrap_or(1)))
    }

    /// Everything that was recorded under `prefix`.
    fn compare_trace(
        &self,
        prefix: &str,
        found: &[(String, TensorRecord)],
        checks: &mut Checks,
    ) -> Result<()> {
        for full_name in &self.names {
            let Some(value) = full_name.strip_prefix(prefix) else { continue };
            if value.starts_with("router_gap") {
                continue;
            }
            if value.starts_with("router_topk_ids") {
                checks.equal(full_name, ids(found, value)?, &self.ids(full_name)?);
            } else {
                checks.exact(full_name, floats(found, value)?, &self.floats(full_name)?.0);
            }
        }
        Ok(())
    }
}

/// Comparisons: how many, the worst of each kind, and those that failed.
#[derive(Debug, Default)]
struct Checks {
    count: usize,
    worst: BTreeMap<&'static str, f64>,
    failures: Vec<String>,
}

impl Checks {
    fn at_most(&mut self, kind: &'static str, name: &str, found: f64, limit: f64) {
        self.count += 1;
        let worst = self.worst.entry(kind).or_insert(0.0);
        // A NaN is worse than anything, and at most nothing.
        if found.is_nan() || found > *worst {
            *worst = found;
        }
        if found.is_nan() || found > limit {
            self.failures.push(format!("{name}: {kind} {found:.1e}, allowed {limit:.0e}"));
        }
    }

    fn exact(&mut self, name: &str, got: &[f32], want: &[f32]) {
        self.at_most("relative L2", name, relative_l2(got, want), EXACT);
    }

    fn equal(&mut self, name: &str, got: &[i64], want: &[i64]) {
        self.count += 1;
        if got != want {
            self.failures.push(format!("{name}: other ids"));
        }
    }

    /// Prints the result; an error where something differs or nothing was compared.
    fn show(&self, as_json: bool) -> Result<Outcome> {
        ensure!(self.count > 0, "the file has no values to compare");
        let agree = self.count - self.failures.len();
        let text = if as_json {
            let value = json!({
                "values": self.count, "agree": agree, "worst": self.worst,
                "failures": self.failures,
            });
            format!("{value:#}\n")
        } else {
            let worst: Vec<_> =
                self.worst.iter().map(|(kind, value)| format!("{kind} {value:.1e}")).collect();
            format!("{agree} of {} values agree; worst {}\n", self.count, worst.join(", "))
        };
        ui::output(&text)?;
        match self.failures.first() {
            None => Ok(Outcome::Done),
            Some(first) => {
                bail!("{} of {} values differ, first {first}", self.failures.len(), self.count)
            }
        }
    }
}

/// The recorded floats called `name`.
fn floats<'a>(records: &'a [(String, TensorRecord)], name: &str) -> Result<&'a [f32]> {
    match find(records, name)? {
        Values::F32(values) => Ok(values),
        Values::I64(_) => bail!("{name} holds ids"),
    }
}

fn ids<'a>(records: &'a [(String, TensorRecord)], name: &str) -> Result<&'a [i64]> {
    match find(records, name)? {
        Values::I64(values) => Ok(values),
        Values::F32(_) => bail!("{name} holds floats"),
    }
}

fn find<'a>(records: &'a [(String, TensorRecord)], name: &str) -> Result<&'a Values> {
    let record = records.iter().find(|(held, _)| held == name);
    Ok(&record.with_context(|| format!("the model has no value {name}"))?.1.values)
}

/// `|got - want| / |want|`; NaN where they are not of one length.
fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::NAN;
    }
    let square = |value: f32| f64::from(value).powi(2);
    let distance: f64 = got.iter().zip(want).map(|(got, want)| square(got - want)).sum();
    (distance / want.iter().map(|want| square(*want)).sum::<f64>().max(1e-30)).sqrt()
}

fn cosine(got: &[f32], want: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(got, want) / (dot(got, got) * dot(want, want)).sqrt().max(1e-30)
}

/// Median over rows of the largest distance of a value.
fn median_off(got: &[f32], want: &[f32], width: usize) -> f64 {
    let row = |(got, want): (&[f32], &[f32])| {
        let off = got.iter().zip(want).map(|(got, want)| f64::from((got - want).abs()));
        // `max` would pass over a NaN.
        off.fold(0.0, |most, off| if off.is_nan() || off > most { off } else { most })
    };
    let mut largest: Vec<f64> = got.chunks(width).zip(want.chunks(width)).map(row).collect();
    largest.sort_by(f64::total_cmp);
    largest.get(largest.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_formulas_and_nan_agrees_with_nothing() {
        assert_eq!(relative_l2(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative_l2(&[0.0, 0.0], &[3.0, 4.0]), 1.0);
        assert!(relative_l2(&[0.0], &[3.0, 4.0]).is_nan());
        assert!((cosine(&[1.0, 0.0], &[0.0, 1.0])).abs() < 1e-12);
        assert_eq!(median_off(&[0.0, 1.0, 5.0, 0.0, 0.0, 9.0], &[0.0; 6], 2), 5.0);
        let mut checks = Checks::default();
        checks.exact("a", &[f32::NAN], &[1.0]);
        checks.equal("b", &[1], &[2]);
        checks.at_most("1 - cosine", "c", 0.001, ANGLE);
        assert_eq!((checks.count, checks.failures.len()), (3, 2), "{checks:?}");
    }
}
