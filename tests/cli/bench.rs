//! `glm bench`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::{Ended, glm, text};

const SMALL: [&str; 6] = ["--backend", "cpu", "--prompt-tokens", "70", "--output-tokens", "5"];

fn bench(arguments: &[&str]) -> Ended {
    glm(&[&["bench"], arguments].concat())
}

fn rows(arguments: &[&str]) -> Vec<Value> {
    let ended = bench(&[arguments, &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let object: Value = serde_json::from_str(&ended.stdout).expect("one JSON object");
    object["rows"].as_array().expect("rows").clone()
}

fn assert_is_share(row: &Value, key: &str) {
    let share = row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
    assert!(share >= 0.0 && share.is_finite(), "{key} is {share}");
}

fn assert_parts_are_a_whole(parts: &Value) {
    let shares = parts.as_object().expect("parts").values().map(|it| it.as_f64().expect("a share"));
    let sum: f64 = shares.sum();
    assert!((sum - 1.0).abs() < 1e-9, "{parts}");
}

#[test]
fn latency_is_told_for_each_depth() {
    let rows = rows(&[&["latency", "--depth", "0,130", "--repeat", "2"], &SMALL[..]].concat());
    assert_eq!(rows.len(), 2);
    for (row, depth) in rows.iter().zip([0, 128]) {
        assert_eq!((&row["depth"], &row["requests"]), (&json!(f64::from(depth)), &json!(2)));
        assert_eq!(row["prompt_tokens"], json!(2 * (depth + 70)));
        assert_eq!((&row["cached_tokens"], &row["output_tokens"]), (&json!(2 * depth), &json!(10)));
        for key in
            ["ttft_ms", "tpot_ms", "output_tokens_per_s", "prompt_tokens_per_s", "flop_share"]
        {
            assert!(row[key].as_f64().expect("a number") > 0.0, "{key}");
        }
        for key in ["mean", "p50", "p90", "p95", "p99"] {
            assert!(row["itl_ms"][key].is_number(), "{row}");
        }
        // On a busy machine all steps may be over when the first token is seen: none are left then.
        for key in ["bandwidth_share", "bound_share"] {
            assert_is_share(row, key);
        }
        assert_parts_are_a_whole(&row["parts"]);
        assert_parts_are_a_whole(&row["prompt_parts"]);
    }
}

#[test]
fn a_sweep_has_a_row_for_each_number_of_streams_and_draws_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plot = folder.path().join("speed.svg");
    let sweep = ["sweep", "--streams", "1,3", "--requests", "2", "--plot", text(&plot)];
    let rows = rows(&[&sweep[..], &SMALL[..]].concat());
    for (row, streams) in rows.iter().zip([1, 3]) {
        assert_eq!(
            (&row["streams"], &row["requests"]),
            (&json!(f64::from(streams)), &json!(2 * streams))
        );
        assert_eq!(row["output_tokens"], json!(2 * streams * 5));
        assert_parts_are_a_whole(&row["parts"]);
    }
    assert_eq!((&rows[0]["speed_up"], &rows[0]["allowed_speed_up"]), (&json!(1.0), &json!(1.0)));
    assert!(rows[1]["allowed_speed_up"].as_f64().expect("a number") > 1.0, "{}", rows[1]);
    let svg = fs::read_to_string(&plot).expect("a picture");
    assert!(svg.starts_with("<svg") && svg.contains("streams"), "{svg}");
}

#[test]
fn the_contexts_of_streams_are_in_the_cache_before_they_begin() {
    let deep = ["sweep", "--streams", "1,2", "--requests", "1", "--depth", "100"];
    let rows = rows(&[&deep[..], &SMALL[..]].concat());
    for (row, streams) in rows.iter().zip([1, 2]) {
        assert_eq!(row["cached_tokens"], json!(64 * streams), "whole pages: {row}");
    }
}

#[test]
fn throughput_is_a_table_with_the_measure_of_the_device() {
    let table = bench(&[&["throughput", "--requests", "5", "--drafts", "2"], &SMALL[..]].concat());
    assert_eq!(table.code, Some(0), "{table:?}");
    for said in ["GB/s", "GFLOP/s", "OUT tok/s", "OF BANDWIDTH", "KERNELS", "DRAFTS ACCEPTED"] {
        assert!(table.stdout.contains(said), "{said}: {table:?}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_before_the_model_is_loaded() {
    for (arguments, parts) in [
        (
            &["latency", "--output-tokens", "9000"][..],
            &["prompt and answer take 9512 tokens, wanted at most"][..],
        ),
        (&["latency", "--plot", "/no/where/a.svg"], &["cannot write /no/where/a.svg"]),
        (
            &["throughput", "--max-batch", "5000"],
            &["max-batch is 5000, wanted a number from 1 to 1024"],
        ),
        (&["serve", "--url", "localhost:80"], &["`localhost:80` is no address"]),
        (
            &["serve", "--url", "http://a", "--key-from", "GLM_NO_KEY"],
            &["--key-from GLM_NO_KEY: there is no such environment variable"],
        ),
        (&["serve", "--url", "http://a", "--prompts", "/no/where"], &["cannot read the prompts"]),
    ] {
        let backend = if arguments[0] == "serve" { &[][..] } else { &["--backend", "cpu"] };
        bench(&[arguments, backend].concat()).assert_error(parts);
    }
    for wrong in [
        &["latency", "--output-tokens", "1"][..],
        &["latency", "--prompt-tokens", "0"],
        &["sweep", "--streams", "0"],
        &["serve"],
        &["serve", "--url", "http://a", "--rate", "0"],
        &["serve", "--url", "http://a", "--rate", "-1"],
    ] {
        assert_eq!(bench(wrong).code, Some(2), "{wrong:?}");
    }
}

/// An OpenAI-compatible server that says three words, `fails` to every fourth request.
struct StandIn {
    url: String,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl StandIn {
    fn start(fails: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let seen = bodies.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let seen = seen.clone();
                thread::spawn(move || answer(&connection, &seen, fails));
            }
        });
        StandIn { url, bodies }
    }
}

fn answer(connection: &TcpStream, seen: &Mutex<Vec<Value>>, fails: bool) {
    let mut reader = BufReader::new(connection);
    let mut writer = connection;
    let (mut request, mut length) = (String::new(), 0);
    reader.read_line(&mut request).expect("a request");
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).expect("a header");
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let reply = |status: &str, kind: &str, text: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        )
    };
    let text = if request.starts_with("GET /v1/models") {
        reply("200 OK", "application/json", r#"{"data":[{"id":"tiny"},{"id":"other"}]}"#)
    } else {
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let number = {
            let mut seen = seen.lock().expect("bodies");
            seen.push(body);
            seen.len()
        };
        if fails && number % 4 == 0 {
            reply("503 Service Unavailable", "application/json", r#"{"error":"busy"}"#)
        } else {
            let chunk = |delta: Value, finish: Value| {
                let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
                format!("data: {}\n\n", json!({ "choices": choices }))
            };
            let mut events = chunk(json!({"role": "assistant", "content": ""}), Value::Null);
            for word in ["one", " two", " three"] {
                events += &chunk(json!({ "content": word }), Value::Null);
            }
            events += &chunk(json!({}), json!("length"));
            let usage = json!({"prompt_tokens": 11, "completion_tokens": 3});
            events +=
                &format!("data: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "usage": usage}));
            reply("200 OK", "text/event-stream", &events)
        }
    };
    // A client that leaves is none of the stand-in's business.
    let _ = writer.write_all(text.as_bytes());
}

#[test]
fn a_server_is_measured_by_what_it_says() {
    let server = StandIn::start(false);
    let arguments = [
        "serve",
        "--url",
        &server.url,
        "--rate",
        "inf,200",
        "--requests",
        "6",
        "--prompt-tokens",
        "9",
        "--output-tokens",
        "3",
        "--max-concurrency",
        "2",
        "--goal-ttft-ms",
        "60000",
    ];
    let rows = rows(&arguments);
    assert_eq!((&rows[0]["rate"], &rows[1]["rate"]), (&Value::Null, &json!(200.0)));
    for row in &rows {
        let counts = ["requests", "failed", "prompt_tokens", "output_tokens"].map(|key| &row[key]);
        assert_eq!(counts, [&json!(6), &json!(0), &json!(66), &json!(18)]);
        assert_eq!(row["goodput_per_s"], row["requests_per_s"]);
        assert!(row["itl_ms"]["p99"].is_number() && row["bandwidth_share"].is_null(), "{row}");
    }
    let bodies = server.bodies.lock().expect("bodies");
    // One to see whether the server is there.
    assert_eq!(bodies.len(), 13);
    for body in bodies.iter() {
        let prompt = body["messages"][0]["content"].as_str().expect("a prompt");
        assert_eq!(prompt.split(' ').count(), 9);
        assert_eq!((&body["model"], &body["stream"]), (&json!("tiny"), &json!(true)));
    }
    let mut prompts: Vec<String> = bodies.iter().map(|body| body["messages"].to_string()).collect();
    prompts.sort();
    prompts.dedup();
    assert_eq!(prompts.len(), 13, "no two prompts are alike");
}

#[test]
fn what_a_server_refuses_is_counted_and_told() {
    let server = StandIn::start(true);
    let url = &server.url;
    let some = ["serve", "--url", url, "--rate", "inf", "--requests", "7", "--endpoint", "chat"];
    let ended = bench(&[&some[..], &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let object: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let row = &object["rows"][0];
    assert_eq!((&row["requests"], &row["failed"]), (&json!(5), &json!(2)), "{row}");
    let warned =
        ended.stderr.contains("warning: some requests failed") && ended.stderr.contains("503");
    assert!(warned, "{ended:?}");

    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    bench(&["serve", "--url", &format!("http://{nobody}")])
        .assert_error(&["cannot ask for the model; name it with --model", "/v1/models"]);
}
