//! The model inside the binary: glm-tiny, see `assets/glm-tiny/README.md`.

use glm_runtime::load::EmbeddedModel;

/// The name that stands for it where a model is asked for.
pub(crate) const NAME: &str = "glm-tiny";

/// Said once, so that nobody takes its answers for those of a GLM model.
pub(crate) const NOTICE: &str =
    "model: built-in glm-tiny (2.7M parameters), a demonstration; give MODEL for a real one";

/// The files of the model, as they would lie in its folder.
pub(crate) const MODEL: EmbeddedModel = EmbeddedModel {
    config: include_str!("../assets/glm-tiny/config.json"),
    generation_config: include_str!("../assets/glm-tiny/generation_config.json"),
    tokenizer: include_bytes!("../assets/glm-tiny/tokenizer.json"),
    tokenizer_config: include_str!("../assets/glm-tiny/tokenizer_config.json"),
    chat_template: include_str!("../assets/glm-tiny/chat_template.jinja"),
    weights: include_bytes!("../assets/glm-tiny/model.safetensors"),
};
