//! The `glm` binary as a user meets it, on the built-in model and the CPU.

mod base;
mod bench;
mod doctor;
mod inspect;
mod plan;
mod weights;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::support::glm_command;

/// The model's answers that the tests rely on (recorded transcripts of glm-tiny).
const SUM: &str = "What is 7 + 5?";
const SUM_THOUGHT: &str = "I need to compute 7 + 5. 7 plus 5 is 12.";
const SUM_ANSWER: &str = "7 + 5 = 12";
const SUM_PROMPT_IDS: [u32; 13] =
    [1990, 1992, 1995, 455, 326, 220, 22, 471, 220, 20, 30, 1996, 2009];
const TURN_ENDS: u32 = 1995;

/// How a run of the program ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn json(&self) -> Value {
        assert_eq!((self.code, self.stdout.lines().count()), (Some(0), 1), "{self:?}");
        serde_json::from_str(&self.stdout).expect("one JSON object")
    }

    /// Exit code 1, nothing on standard output, and a last line `error: …` with all of `parts`.
    fn assert_error(&self, parts: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{self:?}");
        let errors: Vec<&str> =
            self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(
            (errors.len(), errors.first().copied()),
            (1, self.stderr.lines().last()),
            "{self:?}"
        );
        for part in parts {
            assert!(errors[0].contains(part), "`{part}` is not in {self:?}");
        }
        assert!(
            !self.stderr.contains("panicked") && !self.stderr.contains("backtrace"),
            "{self:?}"
        );
    }
}

fn ended(output: Output) -> Ended {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs the program with nothing on standard input.
fn glm(arguments: &[&str]) -> Ended {
    ended(glm_command().args(arguments).output().expect("glm starts"))
}

/// `glm run --backend cpu` with the arguments.
fn run(arguments: &[&str]) -> Ended {
    glm(&[&["run", "--backend", "cpu"], arguments].concat())
}

/// The same with `input` on standard input.
fn run_with_input(arguments: &[&str], input: &str) -> Ended {
    let mut command = glm_command();
    command.args(["run", "--backend", "cpu"]).args(arguments);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("glm starts");
    // A program that does not read its input closes it: that is not this test's failure.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    ended(child.wait_with_output().expect("glm ends"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The folder of the built-in model's files.
fn built_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/assets/glm-tiny")
}

#[test]
fn the_answer_is_all_there_is_on_stdout() {
    let plain = run(&[SUM]);
    assert_eq!((plain.code, plain.stdout.as_str()), (Some(0), "7 + 5 = 12\n"), "{plain:?}");
    for said in [SUM_THOUGHT, "demonstration", "device: "] {
        assert!(plain.stderr.contains(said), "{plain:?}");
    }
    assert!(!plain.stderr.contains('\u{1b}'), "no colours off a terminal: {plain:?}");

    let hidden = run(&[SUM, "--hide-thinking"]);
    assert_eq!(hidden.stdout, plain.stdout);
    assert!(!hidden.stderr.contains("compute 7"), "{hidden:?}");

    let without = run(&["What is 12 - 4?", "--no-thinking", "--verbose"]);
    assert_eq!(without.stdout, "12 - 4 = 8\n");
    assert!(
        without.stderr.contains("tokens/s") && without.stderr.contains("first token"),
        "{without:?}"
    );
    assert_eq!(
        run(&["What is 12 - 4?", "--template-arg", "enable_thinking=false"]).stdout,
        without.stdout
    );
}

#[test]
fn colours_need_consent() {
    let forced = |no_colour: bool| {
        let mut command = glm_command();
        command.args(["run", "--backend", "cpu", SUM]).env("CLICOLOR_FORCE", "1");
        if no_colour {
            command.env("NO_COLOR", "1").env_remove("CLICOLOR_FORCE");
        }
        ended(command.output().expect("glm starts"))
    };
    let coloured = forced(false);
    assert!(
        coloured.stderr.contains("\u{1b}[2m"),
        "the dim style is there to be taken away: {coloured:?}"
    );
    assert!(!coloured.stdout.contains('\u{1b}'), "{coloured:?}");
    assert!(!forced(true).stderr.contains('\u{1b}'));
}

#[test]
fn json_is_one_object_that_agrees_with_the_stream() {
    let object = run(&[SUM, "--json"]).json();
    let keys: Vec<&str> =
        object.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        ["text", "reasoning", "prompt_token_ids", "token_ids", "finish_reason", "timings"]
    );
    assert_eq!((&object["text"], &object["reasoning"]), (&json!(SUM_ANSWER), &json!(SUM_THOUGHT)));
    assert_eq!(object["prompt_token_ids"], json!(SUM_PROMPT_IDS));
    assert_eq!(object["token_ids"].as_array().and_then(|ids| ids.last()), Some(&json!(TURN_ENDS)));
    assert_eq!(object["finish_reason"], "stop");
    assert_eq!(object["timings"]["prompt_tokens"], SUM_PROMPT_IDS.len());
    assert!(
        object["timings"]["time_to_first_token_seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds > 0.0)
    );
    assert_eq!(run(&[SUM]).stdout.trim_end(), SUM_ANSWER);
    let without = run(&[SUM, "--json", "--no-thinking"]).json();
    assert_eq!(without["reasoning"], Value::Null);
}

#[test]
fn a_raw_prompt_goes_as_it_is_and_all_that_comes_is_shown() {
    let answer = run(&["--raw", "[gMASK]<sop><|user|>Hello!<|assistant|></think>"]);
    assert_eq!(answer.stdout, "Hello! How can I help you today?\n", "{answer:?}");
    let thinking = run(&["--raw", "[gMASK]<sop><|user|>What is 7 + 5?<|assistant|><think>"]);
    assert_eq!(thinking.stdout, format!("{SUM_THOUGHT}</think>{SUM_ANSWER}\n"));
}

#[test]
fn the_prompt_may_come_from_standard_input() {
    let piped = run_with_input(&[], "What is 7 + 5?\n");
    assert_eq!((piped.code, piped.stdout.as_str()), (Some(0), "7 + 5 = 12\n"), "{piped:?}");
    let given = run_with_input(&["--json", SUM], "Hello!\n").json();
    assert_eq!(given["prompt_token_ids"], json!(SUM_PROMPT_IDS), "PROMPT wins and nothing is read");
    let raw = run_with_input(&["--raw", "--json", "--max-tokens", "1"], "Hello!\n").json();
    assert_eq!(
        raw["prompt_token_ids"],
        json!([1604, 0, 198]),
        "the line end belongs to a raw prompt"
    );
}

#[test]
fn messages_come_from_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("messages.json");
    let asked = |content: &Value| {
        fs::write(&path, content.to_string()).expect("written");
        run(&["--messages", text(&path)])
    };
    let talk = json!([
        {"role": "user", "content": "My name is Anna."},
        {"role": "assistant", "content": "Nice to meet you, Anna!"},
        {"role": "user", "content": "What is my name?"},
    ]);
    let off = json!({"enable_thinking": false});
    let request = json!({"messages": talk, "chat_template_kwargs": off, "temperature": 1.0});
    let answer = asked(&request);
    assert_eq!(answer.stdout, "Your name is Anna.\n", "{answer:?}");
    assert!(answer.stderr.contains("warning: `temperature`"), "{answer:?}");
    assert_eq!(asked(&talk).code, Some(0));

    for (content, wanted) in [
        (json!({"messages": 3}), "messages: found a number"),
        (json!([]), "`messages` is empty"),
        (json!([{"role": "robot", "content": "x"}]), "found `robot`"),
    ] {
        asked(&content).assert_error(&["messages.json", wanted]);
    }
    run(&["--messages", text(&folder.path().join("none.json"))]).assert_error(&["none.json"]);
}

#[test]
fn what_ends_an_answer() {
    let stopped = run(&["--no-thinking", "--json", "--stop", " =", "What is 12 - 4?"]).json();
    assert_eq!((&stopped["text"], &stopped["finish_reason"]), (&json!("12 - 4"), &json!("stop")));
    let whole = run(&["--no-thinking", "--json", "What is 12 - 4?"]).json();
    let second = whole["token_ids"][1].to_string();
    let token =
        run(&["--no-thinking", "--json", "--stop-token", &second, "What is 12 - 4?"]).json();
    assert_eq!(
        token["token_ids"],
        json!([whole["token_ids"][0], whole["token_ids"][1]]),
        "the stop token counts"
    );
    assert_eq!(token["finish_reason"], "stop");
    let short = run(&["--json", "--max-tokens", "3", SUM]).json();
    assert_eq!(
        (short["token_ids"].as_array().map(Vec::len), &short["finish_reason"]),
        (Some(3), &json!("length"))
    );
    assert_eq!((&short["text"], short["reasoning"].is_string()), (&json!(""), true));
}

#[test]
fn a_seed_repeats_the_answer() {
    let story = |seed: &str| {
        let arguments =
            ["--json", "--temperature", "5", "--top-p", "1", "--max-tokens", "30", "--seed", seed];
        run(&[&arguments[..], &["Tell me a story."]].concat()).json()["token_ids"].clone()
    };
    assert_eq!(story("1"), story("1"));
    assert!(
        ["2", "3", "4"].iter().any(|seed| story(seed) != story("1")),
        "another seed draws other tokens"
    );
    let greedy = run(&[SUM, "--greedy", "--json"]).json();
    assert_eq!(
        greedy["token_ids"],
        run(&[SUM, "--json"]).json()["token_ids"],
        "the built-in model is greedy anyway"
    );
}

#[test]
fn a_backend_that_is_not_there_is_one_line() {
    let listed: Value = serde_json::from_str(&glm(&["devices", "--json"]).stdout).expect("JSON");
    for backend in ["cuda", "rocm"] {
        let here = |entry: &&Value| entry["backend"] == backend && entry["available"] == true;
        if listed.as_array().expect("an array").iter().any(|entry| here(&entry)) {
            drop(writeln!(std::io::stderr(), "skipped: this machine has {backend}"));
            continue;
        }
        glm(&["run", "--backend", backend, SUM]).assert_error(&[backend]);
        glm(&["run", "--backend", &format!("{backend}:3"), SUM]).assert_error(&[backend]);
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &["run", "--no-such-flag"][..],
        &["run", "--backend", "abacus", SUM],
        &["run", "--backend", "cuda:x", SUM],
        &["run", "--dtype", "int3", SUM],
        &["run", "--fp8", "w4a4", SUM],
        &["run", "--temperature", "warm", SUM],
        &["run", "--top-p", "1.5", SUM],
        &["run", "--logit-bias", "7", SUM],
        &["run", "--template-arg", "thinking", SUM],
        &["run", "--template-arg", "messages=[]", SUM],
        &["run", "--greedy", "--temperature", "1", SUM],
        &["run", "--messages", "x.json", SUM],
        &["run", "--stop", "", SUM],
        &["run", "-m", "glm-tiny", "two", "prompts"],
        &["run", "one", "two", "three"],
        &["inspect", "--logits", "ids.json"],
        &["dance"],
        &[],
    ] {
        let wrong = glm(arguments);
        assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(2), ""), "{arguments:?}: {wrong:?}");
        assert!(
            wrong.stderr.contains("Usage: ") || wrong.stderr.contains("--help"),
            "{arguments:?}: {wrong:?}"
        );
    }
    let conflict = glm(&["run", "--raw", "--no-thinking", SUM]);
    assert!(conflict.stderr.contains("[MODEL] [PROMPT]"), "both may be left out: {conflict:?}");
    let help = glm(&["run", "--help"]);
    assert_eq!(help.code, Some(0));
    for said in ["Examples:", "Sampling:", "--messages", "owner/name"] {
        assert!(help.stdout.contains(said), "{}", help.stdout);
    }
}

#[test]
fn prompts_that_cannot_be_answered() {
    for empty in
        [run(&[""]), run(&["  \n"]), run(&[]), run_with_input(&[], "\n"), run(&["--raw", ""])]
    {
        empty.assert_error(&["the prompt is empty"]);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for model in ["nobody/nothing", text(folder.path())] {
        run(&[model]).assert_error(&["the prompt is empty", model, "taken as the MODEL", "-m"]);
    }
    run_with_input(&["--raw"], &"banana ".repeat(9000)).assert_error(&["8191"]);
    run(&["--stop-token", "4711", SUM]).assert_error(&["stop-token is 4711"]);
    run(&["-m", "./nowhere", SUM]).assert_error(&["./nowhere", "folder"]);
    run(&["-m", "nobody/nothing", SUM]).assert_error(&["nobody/nothing"]);
}

#[test]
fn a_broken_folder_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = text(folder.path());
    run(&["-m", path, SUM]).assert_error(&["config.json"]);
    fs::write(folder.path().join("tokenizer.json"), "{}").expect("written");
    fs::write(folder.path().join("config.json"), r#"{"model_type": "parrot"}"#).expect("written");
    run(&[path, SUM]).assert_error(&["parrot"]);
    glm(&["inspect", path]).assert_error(&["parrot"]);
    fs::copy(built_in().join("config.json"), folder.path().join("config.json")).expect("copied");
    run(&[path, SUM]).assert_error(&[&format!("error: {path}/tokenizer.json: ")]);
}

/// An answer that does not end by itself: the stop tokens are out of reach.
const ENDLESS: [&str; 8] = [
    "--logit-bias",
    "1988=-1000",
    "--logit-bias",
    "1995=-1000",
    "--logit-bias",
    "1997=-1000",
    "--no-thinking",
    "Hello!",
];

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_came() {
    let mut command = glm_command();
    command.args(["run", "--backend", "cpu"]).args(ENDLESS);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("glm starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut first = [0; 5];
    stdout.read_exact(&mut first).expect("the answer begins");
    let id = child.id().to_string();
    assert!(
        std::process::Command::new("kill").args(["-INT", &id]).status().expect("kill").success()
    );
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("UTF-8");
    assert_eq!(child.wait().expect("glm ends").code(), Some(130));
    assert_eq!(&first, b"Hello");
    assert!(rest.ends_with('\n'), "the line is ended: {rest:?}");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut command = glm_command();
    command.args(["run", "--backend", "cpu"]).args(ENDLESS);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("glm starts");
    let mut first = [0; 5];
    child.stdout.take().expect("piped").read_exact(&mut first).expect("the answer begins");
    let ended = ended(child.wait_with_output().expect("glm ends"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("error"), "{ended:?}");
}
