//! What can go wrong once the files of a model are open.

use glm_models::weights::LoadError;

/// Why the engine could not load or answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The tensors do not fit the configuration.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The device does not compute in the dtype asked for.
    #[error("{device} does not compute in {wanted}; it has {has}")]
    Dtype {
        /// Device, as `cuda:0 (name)`.
        device: String,
        /// Dtype asked for.
        wanted: &'static str,
        /// Dtypes of the device.
        has: String,
    },
    /// The model cannot be held by the device.
    #[error(
        "the weights take {needed} in {dtype} and {device} has {present}: choose a smaller model{hint}"
    )]
    Memory {
        /// Size of the weights.
        needed: String,
        /// What they would be kept in.
        dtype: String,
        /// Device, as `cuda:0 (name)`.
        device: String,
        /// Memory of the device.
        present: String,
        /// What else may help, with its own punctuation.
        hint: &'static str,
    },
    /// The device has no room for the cache besides the weights.
    #[error(
        "{device} has {present} left for the KV cache and {tokens} tokens take {needed}: raise \
         --memory-fraction ({fraction}), or choose a smaller --max-context or --kv-dtype fp8"
    )]
    Cache {
        /// Device, as `cuda:0 (name)`.
        device: String,
        /// Memory that may be used.
        present: String,
        /// Tokens of one page.
        tokens: usize,
        /// What they take.
        needed: String,
        /// Share of the memory that may be used.
        fraction: f64,
    },
    /// A choice for the engine out of range.
    #[error("{name} is {found}, wanted {wanted}")]
    Config {
        /// Name of the choice.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        wanted: String,
    },
    /// The system gave no thread.
    #[error("cannot start the engine's thread: {reason}")]
    Thread {
        /// What the system said.
        reason: String,
    },
    /// A request that failed on its way.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Drafts of a model that has no layer for them.
    #[error("the checkpoint has no multi-token-prediction layer")]
    NoDrafts,
    /// A request that cannot be answered.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Why a request that was accepted has no answer. Other requests go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The model computed infinities or what is no number.
    #[error(
        "the logits are not finite: the weights are damaged, or their products too large for {dtype}"
    )]
    NotFinite {
        /// Dtype of the computation.
        dtype: &'static str,
    },
    /// The mask of the request refused, allowed nothing, or panicked.
    #[error("the token mask of the request failed: {reason}")]
    Mask {
        /// What it said.
        reason: String,
    },
    /// Generated ids without a text.
    #[error("the answer has no text: {reason}")]
    Text {
        /// What the tokenizer said.
        reason: String,
    },
    /// The engine's thread panicked while the request was in flight.
    #[error("the engine failed: {reason}")]
    Engine {
        /// The panic's message.
        reason: String,
    },
    /// The engine was shut down, or had stopped before.
    #[error("the engine has shut down")]
    ShutDown,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// Nothing to continue.
    #[error("the prompt is empty: at least one token is needed")]
    EmptyPrompt,
    /// The context has no room for the prompt, or none for an answer to it.
    #[error("the prompt has {found} tokens, wanted at most {most}: the context holds no more")]
    PromptTooLong {
        /// Tokens of the prompt.
        found: usize,
        /// Tokens that it may have.
        most: usize,
    },
    /// An id that the embedding has no row for.
    #[error(
        "token id {id} at position {position} is out of range: the vocabulary has {vocab_size}"
    )]
    TokenOutOfRange {
        /// Place in the prompt, from 0.
        position: usize,
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A sampling parameter out of range.
    #[error("{name} is {found}, wanted {wanted}")]
    Sampling {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        wanted: &'static str,
    },
    /// Another parameter out of range.
    #[error("{name} is {found}, wanted {wanted}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        wanted: String,
    },
    /// The engine takes no requests any more.
    #[error("the engine has stopped: {reason}")]
    Stopped {
        /// Why it stopped.
        reason: String,
    },
}
