//! The `glm` command line: the only crate that knows the terminal, environment variables
//! and the exit code.
//!
//! - `args`: what the user typed; `resolve`: what that means; `model`: which model is meant;
//!   `download`: hub models
//! - `commands`: one file per command; `answer`: one answer of the engine
//! - `conversation`: OpenAI messages; `files`: files written whole; `editor`: the chat's prompt
//! - `kept`: where later runs find what was found out on a device
//! - `ui`: all printing; `interrupt`: Ctrl-C; `builtin`: the model inside the binary

mod answer;
mod args;
mod builtin;
mod commands;
mod conversation;
mod download;
mod editor;
mod files;
mod interrupt;
mod kept;
mod model;
mod resolve;
mod ui;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

use crate::commands::Outcome;

/// Steps ask for large buffers again and again. This allocator keeps them, where the system's gives them
/// back and has every page cleared once more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = args::Args::parse();
    ui::note_panics();
    let run = || {
        interrupt::install()?;
        kept::install();
        commands::dispatch(&args.command)
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(Outcome::Done)) => ExitCode::SUCCESS,
        Ok(Ok(Outcome::Interrupted)) => ExitCode::from(interrupt::EXIT_CODE),
        Ok(Err(error)) => failure(&error),
        Err(_) => {
            ui::internal_error();
            ExitCode::FAILURE
        }
    }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        // Nobody is left to tell when standard error is closed.
        let _ = usage.print();
        return ExitCode::from(2);
    }
    if error.downcast_ref::<ui::OutputError>().is_some_and(ui::OutputError::is_closed_pipe) {
        return ExitCode::SUCCESS;
    }
    ui::error(error);
    ExitCode::FAILURE
}
