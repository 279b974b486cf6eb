use serde_json::{Map, Value};

use crate::body::{Fields, found};
use crate::error::ApiError;

/// Whether and how long the model thinks before it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Thinking {
    /// What the model does of itself where nothing is said.
    pub(crate) enabled: Option<bool>,
    /// Most tokens of a thought.
    pub(crate) budget: Option<usize>,
    /// Whether the template leaves thoughts of earlier turns out.
    pub(crate) clear: Option<bool>,
}

/// Tokens of a thought by effort.
const LOW: usize = 1024;
const MEDIUM: usize = 8192;

impl Thinking {
    /// OpenAI's efforts: `none` and `minimal` do not think, `low` and `medium` have a budget of 1,024
    /// and 8,192 tokens, and all above have none.
    pub(crate) fn set_effort(&mut self, effort: &str, place: &str) -> Result<(), ApiError> {
        let (enabled, budget) = match effort {
            "none" | "minimal" => (false, None),
            "low" => (true, Some(LOW)),
            "medium" => (true, Some(MEDIUM)),
            "high" | "xhigh" | "max" => (true, None),
            other => {
                let wanted = "none, minimal, low, medium, high or xhigh";
                return Err(ApiError::field(place, format!("{other:?}"), wanted));
            }
        };
        *self = Thinking { enabled: Some(enabled), budget, clear: self.clear };
        Ok(())
    }

    /// Takes `reasoning_effort`, `thinking` (`{type, budget_tokens, clear_thinking}`) and the
    /// budget by its own name.
    pub(crate) fn take(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        if let Some(effort) = fields.text("reasoning_effort")? {
            self.set_effort(&effort, "reasoning_effort")?;
        }
        match fields.get("thinking") {
            Some(Value::Bool(enabled)) => {
                self.enabled = Some(*enabled);
                fields.take("thinking");
            }
            _ => {
                if let Some(mut thinking) = fields.object("thinking")? {
                    self.take_object(&mut thinking)?;
                }
            }
        }
        for name in ["thinking_budget", "thinking_token_budget"] {
            self.budget = fields.count(name, 0..=1 << 24)?.or(self.budget);
        }
        Ok(())
    }

    fn take_object(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        match fields.text("type")?.as_deref() {
            Some("enabled") => self.enabled = Some(true),
            Some("adaptive") | None => {}
            Some("disabled") => self.enabled = Some(false),
            Some(other) => {
                let found = found(&other.into());
                let wanted = "\"enabled\", \"disabled\" or \"adaptive\"";
                return Err(ApiError::field(&fields.place("type"), found, wanted));
            }
        }
        self.budget = fields.count("budget_tokens", 0..=1 << 24)?.or(self.budget);
        self.clear = fields.flag("clear_thinking")?.or(self.clear);
        Ok(())
    }

    /// Sets the template's variables, where they are not set already.
    pub(super) fn set(&self, arguments: &mut Map<String, Value>) {
        for (name, value) in [("enable_thinking", self.enabled), ("clear_thinking", self.clear)] {
            if let Some(value) = value {
                arguments.entry(name).or_insert(value.into());
            }
        }
    }
}
