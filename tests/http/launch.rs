//! The program with the launch lines of the model card.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use super::{Answer, agent};
use crate::support::checkpoint::BUILT_IN;
use crate::support::glm_command;

struct Program {
    child: Child,
    url: String,
    said: Vec<String>,
}

/// Starts `glm serve` and reads what it says until it is ready.
fn start(arguments: &[&str]) -> Program {
    let mut child = glm_command()
        .args(["serve", "--port", "0", "--backend", "cpu"])
        .args(arguments)
        .env_remove("GLM_API_KEY")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut said = Vec::new();
    let mut url = String::new();
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    for line in lines.by_ref() {
        let line = line.expect("a line");
        if let Some((_, rest)) = line.split_once("listening on ") {
            url = rest.split([',', ' ']).next().expect("an address").to_owned();
        }
        let ready = line.contains("ready: ");
        said.push(line);
        if ready {
            break;
        }
    }
    assert!(said.last().is_some_and(|line| line.contains("ready: ")), "{said:#?}");
    // The rest is read, so that the program never waits for us.
    std::thread::spawn(move || lines.for_each(drop));
    Program { child, url, said }
}

impl Program {
    fn models(&self) -> serde_json::Value {
        Answer::of(agent().get(format!("{}/v1/models", self.url)).call()).json()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_two_lines_of_the_model_card_work_with_a_local_model() {
    let vllm = [
        BUILT_IN,
        "--tensor-parallel-size",
        "1",
        "--speculative-config.method",
        "mtp",
        "--speculative-config.num_speculative_tokens",
        "1",
        "--tool-call-parser",
        "glm47",
        "--reasoning-parser",
        "glm45",
        "--enable-auto-tool-choice",
        "--served-model-name",
        "glm-4.7-fp8",
        "--gpu-memory-utilization",
        "0.8",
    ];
    let sglang = [
        "--model-path",
        BUILT_IN,
        "--tp-size",
        "1",
        "--tool-call-parser",
        "glm47",
        "--reasoning-parser",
        "glm45",
        "--speculative-algorithm",
        "EAGLE",
        "--speculative-num-steps",
        "3",
        "--speculative-eagle-topk",
        "1",
        "--speculative-num-draft-tokens",
        "4",
        "--mem-fraction-static",
        "0.8",
        "--served-model-name",
        "glm-4.7-fp8",
        "--host",
        "127.0.0.1",
    ];
    for (line, drafts) in [(&vllm[..], 1), (&sglang[..], 3)] {
        let program = start(line);
        assert_eq!(program.models()["data"][0]["id"], "glm-4.7-fp8");
        let said = program.said.join("\n");
        for wanted in [
            "no key",
            "context of 8192 tokens, cache of ",
            "parser: glm",
            &format!("drafts: up to {drafts}"),
        ] {
            assert!(said.contains(wanted), "{wanted} in {said}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_signal_in_the_middle_of_an_answer_stops_it_after_the_answer() {
    let mut program = start(&[]);
    let address = program.url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).expect("a connection");
    let body = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}], \"stream\": true, \
                \"max_tokens\": 300, \"ignore_eos\": true}";
    let length = body.len();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .expect("written");
    let mut begun = [0; 64];
    stream.read_exact(&mut begun).expect("the beginning of an answer");
    let id = program.child.id().to_string();
    let killed = std::process::Command::new("kill").args(["-TERM", &id]).status();
    assert!(killed.expect("kill").success());
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the rest");
    assert!(rest.contains("\"finish_reason\":\"length\""), "{rest}");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(program.child.wait().expect("an end").code(), Some(0));
}

#[test]
fn what_cannot_be_served_is_refused_before_the_model_is_loaded() {
    for (arguments, code, wanted) in [
        (&["--tensor-parallel-size", "2"][..], 2, "more do not exist yet"),
        (&["--speculative-num-steps", "3", "--speculative-num-draft-tokens", "3"], 2, "wanted 4"),
        (&["--speculative-eagle-topk", "2"], 2, "[possible values: 1]"),
        (&["--tool-call-parser", "qwen"], 2, "glm45"),
        (&["--host", "0.0.0.0"], 1, "give --api-key, or --insecure-no-auth"),
        (&["--host", "nowhere"], 2, "not an address"),
        (&["--tls-cert", "x.pem"], 2, "--tls-key"),
        (&["--tls-cert", "no.pem", "--tls-key", "no.pem"], 1, "cannot use the certificate no.pem"),
        (&["--api-key", ""], 1, "found an empty key"),
        (&["--api-key-file", "/no/where"], 1, "cannot read the API keys in /no/where"),
    ] {
        let output = glm_command()
            .args(["serve", "--port", "0", "--backend", "cpu"])
            .args(arguments)
            .env_remove("GLM_API_KEY")
            .output()
            .expect("the program");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(wanted), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}
