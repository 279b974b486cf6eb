//! Behaviour across crates, in one binary.

#![expect(clippy::print_stderr, reason = "long files are listed")]

mod checkpoints; // the same weights in other layouts, and broken ones
mod cli; // runs the program
mod dummy; // random weights of every published configuration
mod engine; // batches, prefix hits, preemption, drafts: the same answers
mod fp8; // FP8 checkpoints, quantisation while loading
mod http; // the server on loopback, and clients that people use
mod inventory; // every tensor by config.json against the files
mod model_parity; // layers, logits and greedy text against recorded references
mod parsers; // thoughts and calls against recorded cases
mod support; // where the program, the fixtures and the references are
mod tidy; // house rules
mod transcripts; // whole conversations with the built-in model
mod validate; // the script that validates a machine with a GPU
