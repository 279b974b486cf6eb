//! One file per command; `logits` and `golden` are the parts of `inspect` that run the model.

mod bench;
mod chat;
mod devices;
mod doctor;
mod golden;
mod inspect;
mod logits;
mod ops;
mod plan;
mod run;
mod serve;

use anyhow::Result;

use crate::args::Command;

/// How a command ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All that was asked for is done.
    Done,
    /// Ctrl-C ended it early.
    Interrupted,
}

/// Runs what the user asked for.
pub(crate) fn dispatch(command: &Command) -> Result<Outcome> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Serve(args) => serve::serve(args),
        Command::Inspect(args) => inspect::inspect(args),
        Command::Plan(args) => plan::plan(args),
        Command::Bench(args) => bench::bench(args),
        Command::Devices(args) => devices::devices(args),
        Command::Doctor(args) => doctor::doctor(args),
    }
}
