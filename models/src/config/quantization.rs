//! The quantisation block of a `config.json`: which matrices are FP8, and how they are scaled.

use regex::Regex;

use super::{ConfigError, Fields, quoted};

/// What is read, for errors.
const SUPPORTED: &str = "`compressed-tensors` with format `float-quantized` (8-bit float weights \
                         per channel, tensor or block), or `fp8` with fmt `e4m3`";

/// FP8 weights as `quantization_config` describes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantization {
    /// What shares a scale.
    pub scales: ScaleLayout,
    /// How the checkpoint means activations to be quantised; `None` where it means weights only.
    pub activations: Option<ActivationScheme>,
    ignored: Vec<Pattern>,
}

/// Which weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleLayout {
    /// One row, that is, one output channel: `[out, 1]` or `[out]`.
    Channel,
    /// The whole matrix: `[1]` or a scalar.
    Tensor,
    /// A block of this many rows and columns: `[⌈out / rows⌉, ⌈in / columns⌉]`.
    Block([usize; 2]),
}

/// Which activations share a scale, computed anew for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationScheme {
    /// All values of a token.
    Token,
    /// This many values of a token.
    Group(usize),
}

impl Quantization {
    /// Reads `quantization_config` (or `compression_config`, its older name) where there is one.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for everything that is not read, by name.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Option<Self>, ConfigError> {
        for key in ["quantization_config", "compression_config"] {
            let Some(block) = fields.object(key)? else { continue };
            return match block.text("quant_method")? {
                Some("compressed-tensors") => compressed_tensors(&block).map(Some),
                Some("fp8") => fine_grained(&block).map(Some),
                None if key == "compression_config" => compressed_tensors(&block).map(Some),
                other => {
                    let method = other.map_or("none".to_owned(), |method| format!("`{method}`"));
                    Err(block.invalid("quant_method", method, SUPPORTED))
                }
            };
        }
        Ok(None)
    }

    /// Whether the block leaves a module, such as `model.layers.3.mlp.gate`, as it is; the name of
    /// its `weight` stands for the module.
    #[must_use]
    pub fn ignores(&self, name: &str) -> bool {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        self.ignored.iter().any(|pattern| pattern.matches(module))
    }
}

/// Modules that are left as they are.
#[derive(Debug, Clone)]
enum Pattern {
    /// One module, as compressed-tensors names it.
    Name(String),
    /// As transformers reads a name: also all modules inside, and modules of others that are
    /// called so.
    Part(String),
    /// Modules whose names begin with a match.
    Expression(Regex),
}

impl Pattern {
    fn matches(&self, module: &str) -> bool {
        match self {
            Self::Name(name) => module == name,
            Self::Part(name) => {
                let rest = module.strip_prefix(name.as_str());
                let before = module.strip_suffix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                    || before.is_some_and(|before| before.ends_with('.'))
            }
            Self::Expression(expression) => expression.is_match(module),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) | (Self::Part(a), Self::Part(b)) => a == b,
            (Self::Expression(a), Self::Expression(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// The format of llm-compressor and of the FP8 checkpoints on the hub
/// ([compressed-tensors](https://github.com/vllm-project/compressed-tensors)).
fn compressed_tensors(block: &Fields<'_>) -> Result<Quantization, ConfigError> {
    const FORMAT: &str = "float-quantized";
    match block.text("format")? {
        Some(FORMAT) => {}
        other => {
            let found = other.map_or("none".to_owned(), |format| format!("`{format}`"));
            return Err(block.invalid("format", found, SUPPORTED));
        }
    }
    if block.object("kv_cache_scheme")?.is_some() {
        let wanted = "null: a cache in FP8 is not read from a checkpoint";
        return Err(block.invalid("kv_cache_scheme", "an object", wanted));
    }
    if let Some(sparsity) = block.object("sparsity_config")?
        && let Some(format) = sparsity.text("format")?
        && format != "dense"
    {
        return Err(sparsity.invalid("format", quoted(format), "`dense`"));
    }
    if let Some(transform) = block.object("transform_config")?
        && !transform.is_empty()
    {
        let wanted = "null: rotated weights are not read";
        return Err(block.invalid("transform_config", "an object", wanted));
    }
    let groups = block.required_object("config_groups")?;
    let mut schemes = Vec::new();
    for group in groups.objects()? {
        targets(&group)?;
        if group.object("output_activations")?.is_some() {
            return Err(group.invalid("output_activations", "an object", "null"));
        }
        // A group may repeat the format of the whole.
        match group.text("format")? {
            None | Some(FORMAT) => {}
            Some(other) => return Err(group.invalid("format", quoted(other), quoted(FORMAT))),
        }
        schemes.push((weights(&group)?, input_activations(&group)?));
    }
    let Some((&(scales, activations), rest)) = schemes.split_first() else {
        return Err(block.invalid("config_groups", "empty", "at least one group"));
    };
    if rest.iter().any(|scheme| *scheme != (scales, activations)) {
        let wanted = "the same scheme in all of them";
        return Err(block.invalid("config_groups", "groups that differ", wanted));
    }
    Ok(Quantization { scales, activations, ignored: patterns(block, "ignore", Pattern::Name)? })
}

/// Only linear layers, all of them: what is not meant is in `ignore`.
fn targets(group: &Fields<'_>) -> Result<(), ConfigError> {
    for target in group.texts("targets")?.unwrap_or_default() {
        if target != "Linear" {
            let wanted = "`Linear` alone, with exceptions in `ignore`";
            return Err(group.invalid("targets", quoted(target), wanted));
        }
    }
    Ok(())
}

fn weights(group: &Fields<'_>) -> Result<ScaleLayout, ConfigError> {
    let weights = group.required_object("weights")?;
    eight_bit_float(&weights)?;
    match weights.flag("dynamic")? {
        None | Some(false) => {}
        Some(true) => return Err(weights.invalid("dynamic", true, false)),
    }
    match weights.text("strategy")? {
        Some("channel") => Ok(ScaleLayout::Channel),
        Some("tensor") => Ok(ScaleLayout::Tensor),
        Some("block") => block_structure(&weights).map(ScaleLayout::Block),
        other => {
            let found = other.map_or("none".to_owned(), |strategy| format!("`{strategy}`"));
            Err(weights.invalid("strategy", found, "`channel`, `tensor` or `block`"))
        }
    }
}

/// `[rows, columns]`, or `"rowsxcolumns"` as older files have it.
fn block_structure(weights: &Fields<'_>) -> Result<[usize; 2], ConfigError> {
    const KEY: &str = "block_structure";
    let wanted = "[rows, columns]";
    if let Ok(Some(text)) = weights.text(KEY) {
        let sizes = text.split_once('x').map(|(rows, columns)| (rows.parse(), columns.parse()));
        return match sizes {
            Some((Ok(rows @ 1..), Ok(columns @ 1..))) => Ok([rows, columns]),
            _ => Err(weights.invalid(KEY, quoted(text), wanted)),
        };
    }
    match weights.sizes(KEY)?.as_deref() {
        Some([rows, columns]) => Ok([*rows, *columns]),
        Some(_) => Err(weights.invalid(KEY, "another list", wanted)),
        None => Err(weights.missing(KEY)),
    }
}

fn input_activations(group: &Fields<'_>) -> Result<Option<ActivationScheme>, ConfigError> {
    let Some(activations) = group.object("input_activations")? else { return Ok(None) };
    eight_bit_float(&activations)?;
    match activations.flag("dynamic")? {
        Some(true) => {}
        _ => {
            let wanted = "true: scales that are stored for activations are not read";
            return Err(activations.invalid("dynamic", false, wanted));
        }
    }
    match activations.text("strategy")? {
        Some("token") => Ok(Some(ActivationScheme::Token)),
        Some("group") => {
            let size = activations.required_size("group_size")?;
            Ok(Some(ActivationScheme::Group(size)))
        }
        other => {
            let found = other.map_or("none".to_owned(), |strategy| format!("`{strategy}`"));
            Err(activations.invalid("strategy", found, "`token` or `group`"))
        }
    }
}

fn eight_bit_float(scheme: &Fields<'_>) -> Result<(), ConfigError> {
    match scheme.count("num_bits")? {
        Some(8) => {}
        other => {
            let found = other.map_or("missing".to_owned(), |bits| bits.to_string());
            return Err(scheme.invalid("num_bits", found, 8));
        }
    }
    match scheme.text("type")? {
        Some("float") => {}
        other => {
            let found = other.map_or("missing".to_owned(), |kind| format!("`{kind}`"));
            return Err(scheme.invalid("type", found, "`float`"));
        }
    }
    match scheme.flag("symmetric")? {
        None | Some(true) => Ok(()),
        Some(false) => Err(scheme.invalid("symmetric", false, true)),
    }
}

/// transformers' own FP8, with square blocks as DeepSeek-V3 has them, or one scale a matrix.
fn fine_grained(block: &Fields<'_>) -> Result<Quantization, ConfigError> {
    match block.text("fmt")? {
        None | Some("e4m3") => {}
        Some(other) => return Err(block.invalid("fmt", quoted(other), "`e4m3`")),
    }
    match block.text("activation_scheme")? {
        None | Some("dynamic") => {}
        Some(other) => {
            let wanted = "`dynamic`: scales that are stored for activations are not read";
            return Err(block.invalid("activation_scheme", quoted(other), wanted));
        }
    }
    let (scales, activations) = match block.sizes("weight_block_size")?.as_deref() {
        None => (ScaleLayout::Tensor, ActivationScheme::Token),
        Some([rows, columns]) => {
            (ScaleLayout::Block([*rows, *columns]), ActivationScheme::Group(*columns))
        }
        Some(_) => {
            return Err(block.invalid("weight_block_size", "another list", "[rows, columns]"));
        }
    };
    let mut ignored = patterns(block, "modules_to_not_convert", Pattern::Part)?;
    ignored.extend(patterns(block, "ignored_layers", Pattern::Part)?);
    Ok(Quantization { scales, activations: Some(activations), ignored })
}

fn patterns(
    block: &Fields<'_>,
    key: &str,
    named: fn(String) -> Pattern,
) -> Result<Vec<Pattern>, ConfigError> {
    let names = block.texts(key)?.unwrap_or_default();
    let pattern = |name: &str| match name.strip_prefix("re:") {
        None => Ok(named(name.to_owned())),
        Some(expression) => {
            Regex::new(&format!("^(?:{expression})")).map(Pattern::Expression).map_err(|_| {
                block.invalid(key, quoted(name), "a regular expression without look-around")
            })
        }
    };
    names.into_iter().map(pattern).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn read(block: &Value) -> Result<Option<Quantization>, String> {
        let config = json!({ "quantization_config": block });
        let map = config.as_object().expect("an object");
        let fields = Fields::new(map, Path::new("config.json"));
        Quantization::read(&fields).map_err(|error| error.to_string())
    }

    /// As on the hub.
    fn hub() -> Value {
        let scheme = |dynamic: bool, strategy: &str| {
            json!({"num_bits": 8, "type": "float", "symmetric": true, "dynamic": dynamic,
                   "strategy": strategy, "group_size": null, "block_structure": null})
        };
        json!({
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "kv_cache_scheme": null,
            "transform_config": {},
            "config_groups": {"group_0": {
                "targets": ["Linear"],
                "weights": scheme(false, "channel"),
                "input_activations": scheme(true, "token"),
                "output_activations": null,
            }},
            "ignore": ["lm_head", "model.layers.0.mlp.gate", "re:.*shared_head.*"],
        })
    }

    #[test]
    fn the_hubs_block_is_read() {
        let read = read(&hub()).expect("reads").expect("is there");
        assert_eq!(read.scales, ScaleLayout::Channel);
        assert_eq!(read.activations, Some(ActivationScheme::Token));
        for (module, ignored) in [
            ("lm_head", true),
            ("model.layers.0.mlp.gate", true),
            ("model.layers.0.mlp.gate.weight", true),
            ("model.layers.0.mlp.gate_proj", false),
            ("model.layers.10.mlp.gate", false),
            ("model.layers.92.shared_head.head", true),
            ("model.layers.0.mlp.gate.inner", false),
            ("other.lm_head", false),
        ] {
            assert_eq!(read.ignores(module), ignored, "{module}");
        }
        assert_eq!(self::read(&Value::Null), Ok(None));
    }

    #[test]
    fn blocks_are_read_from_both_formats() {
        let mut block = hub();
        let group = &mut block["config_groups"]["group_0"];
        group["weights"]["strategy"] = json!("block");
        group["weights"]["block_structure"] = json!([128, 64]);
        group["input_activations"]["strategy"] = json!("group");
        group["input_activations"]["group_size"] = json!(64);
        let found = read(&block).expect("reads").expect("is there");
        assert_eq!(found.scales, ScaleLayout::Block([128, 64]));
        assert_eq!(found.activations, Some(ActivationScheme::Group(64)));

        let found = read(&json!({"quant_method": "fp8", "weight_block_size": [128, 128],
                                 "modules_to_not_convert": ["lm_head"]}));
        let found = found.expect("reads").expect("is there");
        assert_eq!(found.scales, ScaleLayout::Block([128, 128]));
        assert_eq!(found.activations, Some(ActivationScheme::Group(128)));
        assert!(found.ignores("lm_head"));
        assert!(!found.ignores("model.lm_heads"));
    }

    #[test]
    fn what_is_not_read_is_refused_by_name() {
        let refused = |pointer: &str, value: Value, wanted: &str| {
            let mut block = hub();
            *block.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
            let error = read(&block).expect_err(wanted);
            assert!(error.contains(wanted), "{error}");
        };
        let group = "/config_groups/group_0";
        refused("/quant_method", json!("gptq"), "quantization_config.quant_method` is `gptq`");
        refused("/format", json!("nvfp4-pack-quantized"), "format` is `nvfp4-pack-quantized`");
        refused("/transform_config", json!({"config_groups": {}}), "transform_config");
        refused("/kv_cache_scheme", json!({"num_bits": 8}), "kv_cache_scheme");
        refused(&format!("{group}/targets"), json!(["re:.*mlp.*"]), "targets` is `re:.*mlp.*`");
        refused(&format!("{group}/weights/num_bits"), json!(4), "weights.num_bits` is 4, wanted 8");
        refused(&format!("{group}/weights/type"), json!("int"), "weights.type` is `int`");
        refused(&format!("{group}/weights/strategy"), json!("group"), "strategy` is `group`");
        refused(&format!("{group}/input_activations/dynamic"), json!(false), "dynamic` is false");
        refused("/ignore", json!(["re:("]), "ignore` is `re:(`");
        let static_scales = json!({"quant_method": "fp8", "activation_scheme": "static"});
        assert!(read(&static_scales).unwrap_err().contains("activation_scheme` is `static`"));
    }
}
