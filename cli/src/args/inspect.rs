//! `glm inspect`: what is shown of a model, or computed for a look at its values.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{EngineArgs, SourceArgs};

#[derive(Debug, ClapArgs)]
#[command(override_usage = "glm inspect [OPTIONS] [MODEL]")]
pub(crate) struct InspectArgs {
    /// Folder or hub id of the model [default: the built-in glm-tiny], or `ops`: how each operation
    /// is computed on the device of --backend
    pub(crate) model: Option<String>,
    /// Print JSON
    #[arg(long, conflicts_with = "logits")]
    pub(crate) json: bool,
    /// List every tensor: name, number format, shape
    #[arg(long, conflicts_with = "logits")]
    pub(crate) tensors: bool,
    /// Run one forward pass over this JSON array of token ids
    #[arg(long, value_name = "IDS.json", requires = "out", help_heading = "Forward pass")]
    pub(crate) logits: Option<PathBuf>,
    /// Where to write `logits` [tokens, vocab_size]
    #[arg(
        long,
        value_name = "FILE.safetensors",
        requires = "logits",
        help_heading = "Forward pass"
    )]
    pub(crate) out: Option<PathBuf>,
    /// Also write hidden states and router choices of every layer
    #[arg(long, requires = "logits", help_heading = "Forward pass")]
    pub(crate) trace: bool,
    /// Also write what the multi-token-prediction layer drafts
    #[arg(long, requires = "logits", help_heading = "Forward pass")]
    pub(crate) mtp: bool,
    /// Compare logits, values of every layer and drafts with those that this file holds
    #[arg(long, value_name = "FILE.safetensors", conflicts_with_all = ["logits", "tensors"],
          help_heading = "Forward pass")]
    pub(crate) golden: Option<PathBuf>,
    /// Compute by Burn's own kernels instead of those of glm, to find out where a wrong number comes
    /// from
    #[arg(long, help_heading = "Forward pass")]
    pub(crate) reference_ops: bool,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}
