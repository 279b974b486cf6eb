//! A conversation in the form that the model's template takes, whatever API it came by.

mod choice;
mod messages;
mod thinking;

pub(crate) use choice::{ToolChoice, answer_format, of_object};
pub(crate) use messages::{openai_messages, openai_tools, text_of};
pub(crate) use thinking::Thinking;

use std::sync::Arc;

use glm_models::chat::GLM4;
use glm_runtime::Request;
use glm_runtime::text::ChatInput;
use serde_json::{Map, Value};

use crate::access::Client;
use crate::app::{App, Thought};
use crate::error::ApiError;
use crate::generate::Turn;
use crate::grammar;
use crate::parse::{Start, Tools};

/// What a model is asked to continue.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    /// As OpenAI's: role, content as text, reasoning_content, tool_calls.
    pub(crate) messages: Vec<Value>,
    /// As OpenAI's.
    pub(crate) tools: Vec<Value>,
    pub(crate) tool_choice: ToolChoice,
    pub(crate) parallel_calls: bool,
    /// What the answer has to look like.
    pub(crate) format: Option<grammar::Format>,
    pub(crate) thinking: Thinking,
    /// Further variables of the template.
    pub(crate) arguments: Map<String, Value>,
}

/// A conversation as the model reads it.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    start: Start,
    /// Calls of these are told apart from text.
    tools: Tools,
    /// What the answer has to look like, and what comes before.
    format: Option<(grammar::Format, Thought)>,
    bans_calls: bool,
    thinking_budget: Option<usize>,
}

/// Variables of the template that a request may set.
const ARGUMENTS: [&str; 4] =
    ["enable_thinking", "clear_thinking", "reasoning_effort", "add_generation_prompt"];

impl Conversation {
    /// Takes `chat_template_kwargs`.
    pub(crate) fn set_arguments(&mut self, arguments: Map<String, Value>) -> Result<(), ApiError> {
        for (name, value) in arguments {
            if !ARGUMENTS.contains(&name.as_str()) {
                let place = format!("chat_template_kwargs.{name}");
                return Err(ApiError::unsupported(
                    &place,
                    &format!("no such variable, wanted one of {}", ARGUMENTS.join(", ")),
                ));
            }
            self.arguments.insert(name, value);
        }
        Ok(())
    }

    /// Renders the template and splits the text into tokens, on a thread that may block.
    pub(crate) async fn prompt(self, app: Arc<App>) -> Result<Prompt, ApiError> {
        let rendered = tokio::task::spawn_blocking(move || self.render(&app)).await;
        rendered.map_err(|_| ApiError::internal("the prompt could not be rendered"))?
    }

    fn render(mut self, app: &App) -> Result<Prompt, ApiError> {
        let model = app.model()?;
        let files = model.engine.files();
        let template = files.template.as_ref().ok_or_else(|| {
            ApiError::invalid("the model has no chat template: ask /v1/completions instead")
        })?;
        let tools = Tools::new(&self.tools)?;
        self.tool_choice.check(&tools)?;
        self.thinking.set(&mut self.arguments);
        let mut input = ChatInput::new(Value::Array(self.messages))?;
        input.tools = (!self.tools.is_empty()).then(|| Value::Array(self.tools.clone()));
        input.kwargs = self.arguments;
        let text = template.render(&input)?;
        if text.is_empty() {
            return Err(ApiError::invalid("messages: the chat template makes nothing of them"));
        }
        let ids = model.encode(&text)?;
        let start = Start::after(&text);
        let forms = choice::forms(&self.tools);
        let format = self
            .tool_choice
            .format(forms, self.parallel_calls, self.format.is_some())
            .or(self.format);
        let thought = match start {
            Start::Inside => Thought::IsOpen,
            _ if text.trim_end().ends_with(GLM4.think_close) => Thought::None,
            _ => Thought::MayCome,
        };
        let format = format.map(|format| (format, thought));
        let bans_calls = self.tool_choice == ToolChoice::None;
        let tools = if bans_calls { Tools::default() } else { tools };
        Ok(Prompt { ids, start, tools, format, bans_calls, thinking_budget: self.thinking.budget })
    }
}

impl Prompt {
    /// Gives a request what follows from the conversation, and queues it.
    pub(crate) async fn begin(
        self,
        app: &Arc<App>,
        client: &Client,
        mut request: Request,
    ) -> Result<Turn, ApiError> {
        let Prompt { ids, start, tools, format, bans_calls, thinking_budget } = self;
        if let Some((format, thought)) = format {
            request.mask = Some(app.mask(format, thought).await?);
        }
        let call = app.engine()?.files().tokenizer.token_id(GLM4.tool_call_open);
        if let Some(call) = call.filter(|_| bans_calls) {
            request.bad_words.push(vec![call]);
        }
        request.thinking_budget = thinking_budget;
        request.prompt = ids;
        let choices = request.n;
        let mut events = app.submit(client, vec![request])?;
        let events = events.pop().ok_or_else(|| ApiError::internal("no answer was begun"))?;
        Ok(Turn::new(events, choices, start, &tools))
    }
}

impl From<grammar::GrammarError> for ApiError {
    fn from(error: grammar::GrammarError) -> Self {
        Self::invalid(error.to_string())
    }
}
