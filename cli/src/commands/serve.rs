//! `glm serve`: from the flags to a server that runs until it is asked to stop.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::error::ErrorKind;
use glm_runtime::{DraftChoice, Engine, SamplingParams};
use glm_server::{Server, ServerConfig};
use tracing_subscriber::EnvFilter;

use super::Outcome;
use crate::args::{ListenArgs, LogFormat, ServerArgs};
use crate::interrupt::Serving;
use crate::model::ModelChoice;
use crate::resolve::{self, Place};
use crate::{builtin, ui};

/// Listens, loads the model, and answers until Ctrl-C or SIGTERM.
pub(crate) fn serve(args: &ServerArgs) -> Result<Outcome> {
    let model = args.model.as_deref().or(args.compatible.model_path.as_deref());
    let model = ModelChoice::new(model)?;
    model.note_unused(&args.source);
    log(&args.listen)?;
    let mut place = Place::open(&args.engine)?;
    args.tuning.apply(&mut place.config);
    place.config.max_batch = args.load.max_batch;
    let compatible = &args.compatible;
    let drafts = compatible.drafts();
    let drafts =
        drafts.map_err(|text| resolve::usage("serve", ErrorKind::ArgumentConflict, &text))?;
    if let Some(drafts) = drafts {
        place.config.drafts = DraftChoice::Fixed(drafts);
    }
    place.config.memory_fraction = compatible.mem_fraction_static.or(place.config.memory_fraction);
    place.config.max_context = compatible.max_model_len.or(place.config.max_context);
    place.config.validate()?;
    if model == ModelChoice::BuiltIn {
        ui::note(builtin::NOTICE);
    }
    let files = model.open(&args.source, &place)?;
    let mut config = server_config(args, &model)?;
    config.sampling = SamplingParams::from_defaults(&files.generation);
    if model == ModelChoice::BuiltIn {
        config.sampling.temperature = 0.0;
    }
    config.max_tokens = files.generation.max_new_tokens;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let who = match config.keys.len() {
        0 if config.address.ip().is_loopback() => "no key: everybody on this machine may ask",
        0 => "NO KEY: everybody who reaches it may ask (--insecure-no-auth)",
        1 => "with the API key",
        _ => "with one of the API keys",
    };
    let names = config.names.join(", ");
    let server = Server::bind(config)?;
    let url = format!("{scheme}://{}", server.address());
    ui::note(format!("listening on {url}, {who}"));
    let serving = Serving::begin(server.shutdown());
    let has_template = files.template.is_some();
    let load = || place.load(files);
    let ready = |engine: &Engine| announce(engine, &names, &url, has_template);
    server.run(load, ready)?;
    drop(serving);
    ui::note("stopped");
    Ok(Outcome::Done)
}

/// What a client has to know, once the model answers.
fn announce(engine: &Engine, names: &str, url: &str, has_template: bool) {
    let limits = engine.limits();
    ui::note(format!(
        "model: {names}; context of {} tokens, cache of {}",
        limits.context_length, limits.kv_tokens,
    ));
    let parser = match has_template {
        true => "glm (thoughts and tool calls, by the model's own format)",
        false => "none: the model has no chat template, ask /v1/completions",
    };
    ui::note(format!("parser: {parser}; drafts: up to {}", limits.most_drafts));
    ui::note(format!(
        "ready: {url}/v1 for OpenAI's clients, {url} for Anthropic's and for a browser"
    ));
}

fn server_config(args: &ServerArgs, model: &ModelChoice) -> Result<ServerConfig> {
    let ListenArgs { host, port, served_model_name, .. } = &args.listen;
    let listen = &args.listen;
    let mut config = ServerConfig::new(model.name());
    config.address = SocketAddr::from((*host, *port));
    if !served_model_name.is_empty() {
        config.names.clone_from(served_model_name);
    }
    let empty = config.names.iter().any(|name| name.trim().is_empty());
    ensure!(!empty, "--served-model-name: found an empty name, wanted one that clients can send");
    config.keys.clone_from(&listen.api_key);
    if let Some(path) = &listen.api_key_file {
        config.keys.extend(keys(path)?);
    }
    if config.keys.iter().any(|key| key.is_empty()) {
        bail!("--api-key: found an empty key, wanted at least one character");
    }
    config.insecure_no_auth = listen.insecure_no_auth;
    config.allowed_hosts.clone_from(&listen.allowed_host);
    config.cors_origins.clone_from(&listen.cors_origin);
    config.tls = listen.tls_cert.clone().zip(listen.tls_key.clone());
    config.max_queue = args.load.max_queue;
    config.request_timeout = args.load.request_timeout.map(Duration::from_secs_f64);
    config.drain = Duration::from_secs(args.load.drain);
    config.otlp_endpoint.clone_from(&listen.otlp_endpoint);
    config.vllm_metrics = !listen.no_vllm_metrics;
    config.strip_billing_line = !listen.keep_billing_line;
    Ok(config)
}

/// Keys of a file, one a line; empty lines and those that begin with # say nothing.
fn keys(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read the API keys in {}", path.display()))?;
    let lines = text.lines().map(str::trim);
    let keys: Vec<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    ensure!(!keys.is_empty(), "{}: found no API key, wanted one a line", path.display());
    Ok(keys)
}

/// Sends what the server says to standard error.
fn log(args: &ListenArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log_level)
        .with_context(|| format!("--log-level {}", args.log_level))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ui::colours())
        .with_target(false);
    let started = match args.log {
        LogFormat::Off => return Ok(()),
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow!("cannot start the log: {error}"))
}
