//! One answer: run the engine, split thinking from text, stop on Ctrl-C.

use std::ops::ControlFlow;

use anyhow::Result;
use glm_runtime::{Completion, Engine, Event, Request};
use glm_server::parse::{Ending, Parser, Part, Start, Tools};

use crate::interrupt::Answering;
use crate::ui::{self, Shown};

/// What the model said and how the engine fared.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The text after the thinking.
    pub(crate) text: String,
    /// The thinking, if there was any.
    pub(crate) reasoning: Option<String>,
    /// Token ids, reason of the end, timings.
    pub(crate) completion: Completion,
    /// Whether Ctrl-C ended it.
    pub(crate) interrupted: bool,
}

/// Generates, and hands each part to `show` as it comes. `start` says whether the prompt has
/// opened a thought; without it all text is the answer. An error of `show` ends the answer
/// and is returned.
pub(crate) fn answer(
    engine: &Engine,
    request: &Request,
    start: Option<Start>,
    show: &mut dyn FnMut(&Part) -> Shown,
) -> Result<Answer> {
    let answering = Answering::begin();
    // Calls are shown as they were written: nobody is here to answer them.
    let mut parser = start.map(|start| Parser::new(start, Tools::default()));
    let mut collected = Collected::default();
    let mut shown = Ok(());
    let mut prompt_bar = None;
    let completion = engine.generate(request, &mut |event| {
        match event {
            Event::Prompt { computed, total } => {
                let bar = prompt_bar.get_or_insert_with(|| ui::Bar::tokens("reading the prompt"));
                bar.set(computed as u64, total as u64);
            }
            Event::Token { text, .. } | Event::Finished { text, .. } => {
                prompt_bar = None;
                let parts = match &mut parser {
                    None => vec![Part::Text(text)],
                    Some(parser) => parser.push(&text),
                };
                // Text that was held back may still come after a failure.
                if shown.is_ok() {
                    shown = parts.iter().try_for_each(|part| collected.add(part, show));
                }
            }
            Event::PromptLogprobs(_) | Event::Failed(_) => {}
        }
        match shown.is_err() || answering.stop_asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    shown?;
    let rest = parser.map(|mut parser| parser.finish(Ending::Cut)).unwrap_or_default();
    rest.iter().try_for_each(|part| collected.add(part, show))?;
    Ok(Answer {
        text: collected.text,
        reasoning: (!collected.reasoning.is_empty()).then_some(collected.reasoning),
        completion,
        interrupted: answering.stop_asked(),
    })
}

#[derive(Default)]
struct Collected {
    text: String,
    reasoning: String,
}

impl Collected {
    fn add(&mut self, part: &Part, show: &mut dyn FnMut(&Part) -> Shown) -> Shown {
        match part {
            Part::Reasoning(text) => self.reasoning.push_str(text),
            Part::Text(text) => self.text.push_str(text),
            Part::Call { .. } | Part::Arguments(_) | Part::CallEnd => {}
        }
        show(part)
    }
}
