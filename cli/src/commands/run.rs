//! `glm run`: one answer, or the way into the chat.

use std::io;

use anyhow::{Context, Result, bail};
use clap::error::ErrorKind;
use glm_runtime::{Completion, Engine, Request, Timings};
use glm_server::parse::{Part, Start};
use serde_json::{Value, json};

use super::{Outcome, chat};
use crate::answer::{Answer, answer};
use crate::args::RunArgs;
use crate::conversation::Conversation;
use crate::model::ModelChoice;
use crate::resolve::{self, Place};
use crate::{builtin, ui};

/// Where the prompt comes from.
enum Source {
    Prompt(String),
    Messages(Conversation),
    Chat,
}

/// Answers, or chats when there is no prompt and somebody to type one.
pub(crate) fn run(args: &RunArgs) -> Result<Outcome> {
    let (model, prompt) = resolve::model_and_prompt(args)?;
    let model = ModelChoice::new(model)?;
    model.note_unused(&args.model.source);
    let source = source(args, prompt)?;
    let place = Place::open(&args.model.engine)?.for_one(&args.tuning);
    if model == ModelChoice::BuiltIn {
        ui::note(builtin::NOTICE);
    }
    let files = model.open(&args.model.source, &place)?;
    if !args.prompt.raw {
        resolve::require_template(&files)?;
    }
    let arguments = resolve::template_arguments(&args.prompt);
    let mut request = resolve::request(args, &model, &files)?;
    let mut conversation = Conversation::default();
    if let Some(system) = &args.prompt.system {
        conversation.set_system(system);
    }
    let start = match source {
        Source::Chat => {
            let engine = place.load(files)?;
            return chat::chat(chat::Session::new(
                engine,
                model.name(),
                conversation,
                arguments,
                request,
                &args.output,
            ));
        }
        Source::Prompt(prompt) if args.prompt.raw => {
            request.prompt = files.tokenizer.encode(&prompt)?;
            None
        }
        other => {
            match other {
                Source::Messages(messages) => conversation = messages,
                Source::Prompt(prompt) => conversation.push_user(&prompt),
                Source::Chat => {}
            }
            let (prompt, start) = resolve::render(&files, &conversation, &arguments)?;
            request.prompt = prompt;
            Some(start)
        }
    };
    resolve::check_length(&files, &request.prompt)?;
    let engine = place.load(files)?;
    once(&engine, &request, start, args)
}

fn source(args: &RunArgs, prompt: Option<&str>) -> Result<Source> {
    if let Some(path) = &args.prompt.messages {
        if prompt.is_some() {
            return Err(resolve::usage(
                "run",
                ErrorKind::ArgumentConflict,
                "--messages and PROMPT exclude each other",
            ));
        }
        return Conversation::read(path).map(Source::Messages);
    }
    let interactive = ui::is_interactive();
    // A positional that is not the prompt: perhaps it was meant to be.
    let model = args.first.as_deref().filter(|_| prompt.is_none());
    let prompt = match prompt {
        Some(prompt) => prompt.to_owned(),
        None if interactive && (args.output.json || args.prompt.raw) => {
            return Err(resolve::usage(
                "run",
                ErrorKind::MissingRequiredArgument,
                "--json and --raw need a PROMPT: there is no chat with them",
            ));
        }
        None if interactive => return Ok(Source::Chat),
        None => {
            let text = io::read_to_string(io::stdin())
                .context("cannot read the prompt from standard input")?;
            // The line end that `echo` adds is not part of the question.
            if args.prompt.raw { text } else { text.trim_end_matches(['\n', '\r']).to_owned() }
        }
    };
    let empty = if args.prompt.raw { prompt.is_empty() } else { prompt.trim().is_empty() };
    match model {
        _ if !empty => Ok(Source::Prompt(prompt)),
        Some(model) => bail!(
            "the prompt is empty: `{model}` was taken as the MODEL; if it is the prompt, \
             name the model with -m, for example -m {}",
            builtin::NAME
        ),
        None => bail!(
            "the prompt is empty: give PROMPT or text on standard input, or start a chat on a \
             terminal"
        ),
    }
}

fn once(
    engine: &Engine,
    request: &Request,
    start: Option<Start>,
    args: &RunArgs,
) -> Result<Outcome> {
    let output = &args.output;
    let mut printer = ui::Printer::new(output.hide_thinking);
    let mut show = |part: &Part| if output.json { Ok(()) } else { printer.part(part) };
    let answer = answer(engine, request, start, &mut show)?;
    if output.json {
        ui::output(&format!("{}\n", as_json(&answer, &request.prompt)))?;
    } else {
        printer.finish()?;
    }
    warn_of_launches(engine);
    if output.verbose {
        ui::message(speeds(&answer.completion.timings));
    }
    Ok(if answer.interrupted { Outcome::Interrupted } else { Outcome::Done })
}

/// Says so where the device was to record steps and refused.
pub(super) fn warn_of_launches(engine: &Engine) {
    if let Some(why) = engine.stats().recording.refused {
        ui::warning(format!("every kernel is launched by itself, which is slower: {why}"));
    }
}

/// `{text, reasoning, prompt_token_ids, token_ids, finish_reason, timings}`.
fn as_json(answer: &Answer, prompt: &[u32]) -> Value {
    let Completion { token_ids, finish, timings, .. } = &answer.completion;
    json!({
        "text": answer.text,
        "reasoning": answer.reasoning,
        "prompt_token_ids": prompt,
        "token_ids": token_ids,
        "finish_reason": finish.to_string(),
        "timings": {
            "prompt_tokens": timings.prompt_tokens,
            "cached_tokens": timings.cached_tokens,
            "prompt_seconds": timings.prompt_seconds,
            "prompt_tokens_per_second": rate(timings.prompt_tokens, timings.prompt_seconds),
            "decode_tokens": timings.decode_tokens,
            "decode_seconds": timings.decode_seconds,
            "decode_tokens_per_second": rate(timings.decode_tokens, timings.decode_seconds),
            "time_to_first_token_seconds": timings.time_to_first_token_seconds,
            "drafted_tokens": timings.drafted_tokens,
            "accepted_tokens": timings.accepted_tokens,
        },
    })
}

/// Prompt and decode speed and time to the first token, on one line.
pub(super) fn speeds(timings: &Timings) -> String {
    let part = |tokens, seconds| match rate(tokens, seconds) {
        Some(rate) => format!("{tokens} tokens in {seconds:.2} s ({rate:.1} tokens/s)"),
        None => format!("{tokens} tokens"),
    };
    let cached = match timings.cached_tokens {
        0 => String::new(),
        cached => format!(", {cached} of them cached"),
    };
    let drafts = match timings.drafted_tokens {
        0 => String::new(),
        drafted => format!(", {} of {drafted} drafts accepted", timings.accepted_tokens),
    };
    format!(
        "prompt: {}{cached}; answer: {}{drafts}; first token after {:.3} s",
        part(timings.prompt_tokens, timings.prompt_seconds),
        part(timings.decode_tokens, timings.decode_seconds),
        timings.time_to_first_token_seconds,
    )
}

fn rate(tokens: usize, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| tokens as f64 / seconds)
}
