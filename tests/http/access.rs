//! Keys, names, health, and what every route has.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use serde_json::{Value, json};

use super::{SHARED, SUM, TestServer, user};

/// Every route of the description, with its method, but for those that have a parameter in the path.
fn routes() -> Vec<(String, String)> {
    let document = SHARED.get("/openapi.json").json();
    let paths = document["paths"].as_object().expect("paths").clone();
    let mut routes: Vec<(String, String)> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let path = path.replace("{name}", "glm-tiny").replace("{id}", "resp_1");
            let methods = methods.as_object().expect("methods").keys();
            methods.map(move |method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    let page =
        ["/", "/page/style.css", "/page/chat.js", "/page/parts.js", "/openapi.json", "/nowhere"];
    routes.extend(page.map(|path| ("GET".to_owned(), path.to_owned())));
    routes
}

fn status(server: &TestServer, method: &str, path: &str, key: Option<(&str, &str)>) -> u16 {
    let mut request = ureq::http::Request::builder().method(method).uri(server.url() + path);
    if let Some((name, value)) = key {
        request = request.header(name, value);
    }
    let request = request.header("content-type", "application/json").body("{}".to_owned());
    let answer = super::agent().run(request.expect("a request"));
    answer.expect("an answer").status().as_u16()
}

#[test]
fn no_route_but_the_two_for_probes_is_open_where_there_is_a_key() {
    let server = TestServer::start(|config| config.keys = vec!["a".into(), "b".into()], |_| ());
    let all = routes();
    assert!(all.len() >= 25, "{all:?}");
    for (method, path) in all {
        let open = path == "/livez" || path == "/readyz";
        let without = status(&server, &method, &path, None);
        let wrong = status(&server, &method, &path, Some(("authorization", "Bearer c")));
        if open {
            assert_eq!((without, wrong), (200, 200), "{method} {path}");
        } else {
            assert_eq!((without, wrong), (401, 401), "{method} {path}");
            for key in [("authorization", "Bearer a"), ("x-api-key", "b")] {
                assert_ne!(status(&server, &method, &path, Some(key)), 401, "{method} {path}");
            }
        }
    }
    // What one key said is not found by the other.
    let ask =
        |path: &str, key: &str, body: &Value| server.post_with(path, &[("x-api-key", key)], body);
    let kept = ask("/v1/responses", "a", &json!({"input": SUM})).json();
    let body = json!({"input": "a", "previous_response_id": kept["id"]});
    assert_eq!(ask("/v1/responses", "b", &body).status, 404);
    let long = json!({"messages": user(&"word ".repeat(150)), "max_tokens": 1});
    let cached = |key: &str| {
        let usage = ask("/v1/chat/completions", key, &long).json()["usage"].clone();
        usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count")
    };
    assert_eq!((cached("a"), cached("b")), (0, 0), "a cache for each key");
    assert!(cached("a") > 0);
}

#[test]
fn a_route_and_a_method_that_are_not_there_say_so() {
    let answer = SHARED.get("/v1/nothing");
    assert_eq!(answer.status, 404);
    assert!(answer.message().contains("GET /v1/nothing"), "{}", answer.text);
    let answer = SHARED.get("/v1/chat/completions");
    assert_eq!(answer.status, 405);
    assert!(answer.message().contains("does not take GET"), "{}", answer.text);
}

#[test]
fn a_name_of_another_machine_is_refused_on_loopback() {
    let port = SHARED.address.port();
    for (host, wanted) in [
        (format!("localhost:{port}"), 200),
        (format!("127.0.0.1:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        (format!("evil.example:{port}"), 403),
        ("localhost.evil.example".into(), 403),
    ] {
        assert_eq!(status(&SHARED, "GET", "/livez", Some(("host", &host))), wanted, "{host}");
    }
    let server =
        TestServer::start(|config| config.allowed_hosts = vec!["model.lan".into()], |_| ());
    assert_eq!(status(&server, "GET", "/livez", Some(("host", "model.lan"))), 200);
}

#[test]
fn names_of_requests_come_back_and_no_other_site_may_ask() {
    let answer = SHARED.post_with("/v1/models", &[("x-request-id", "mine-1")], &json!({}));
    assert_eq!(answer.header("x-request-id"), "mine-1");
    let answer = SHARED.get("/v1/models");
    assert!(answer.header("x-request-id").starts_with("req_"));
    assert_eq!(answer.header("access-control-allow-origin"), "");
    let server =
        TestServer::start(|config| config.cors_origins = vec!["https://a.example".into()], |_| ());
    let origin = |origin: &str| {
        let body = json!({"messages": user("Hello!"), "max_tokens": 1});
        let answer = server.post_with("/v1/chat/completions", &[("origin", origin)], &body);
        answer.header("access-control-allow-origin").to_owned()
    };
    assert_eq!(origin("https://a.example"), "https://a.example");
    assert_eq!(origin("https://b.example"), "");
}

#[test]
fn models_health_and_metrics() {
    let server =
        TestServer::start(|config| config.names = vec!["one".into(), "org/two".into()], |_| ());
    let models = server.get("/v1/models").json();
    let names: Vec<&Value> =
        models["data"].as_array().expect("a list").iter().map(|model| &model["id"]).collect();
    assert_eq!(names, ["one", "org/two"]);
    assert_eq!(server.get("/v1/models/org/two").json()["max_model_len"], 1024);
    assert_eq!(server.get("/v1/models/three").status, 404);
    for model in ["one", "org/two"] {
        let body = json!({"model": model, "messages": user(SUM)});
        assert_eq!(server.ask("/v1/chat/completions", &body)["model"], model);
    }
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.get("/health").json()["status"], "ready");
    let text = server.get("/metrics").text;
    for line in [
        "glm_request_success_total{finished_reason=\"stop\",model_name=\"one\"} 2",
        "vllm:num_requests_running{model_name=\"one\"} 0.0",
        "vllm:time_to_first_token_seconds_count{model_name=\"one\"} 2",
        "glm_open_answers{model_name=\"one\"} 0",
    ] {
        let sorted = |line: &str| {
            let mut labels: Vec<char> = line.chars().collect();
            labels.sort_unstable();
            labels
        };
        // Labels may come in any order.
        assert!(text.lines().any(|found| sorted(found) == sorted(line)), "{line} in\n{text}");
    }
    for name in [
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:num_preemptions_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:inter_token_latency_seconds_bucket",
        "vllm:e2e_request_latency_seconds_sum",
        "vllm:request_queue_time_seconds_sum",
        "vllm:spec_decode_num_accepted_tokens_total",
        "vllm:iteration_tokens_total",
    ] {
        assert!(text.contains(&format!("\n{name}{{")), "{name} in\n{text}");
    }
}

/// A collector that takes one batch and gives its bytes.
fn collector() -> (String, std::thread::JoinHandle<Vec<u8>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let taken = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut reader = BufReader::new(&stream);
        let (mut line, mut length, mut path) = (String::new(), 0, String::new());
        while reader.read_line(&mut line).is_ok() && line != "\r\n" {
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if path.is_empty() {
                line.clone_into(&mut path);
            }
            line.clear();
        }
        assert!(path.starts_with("POST /v1/traces "), "{path}");
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        (&stream).write_all(answer.as_bytes()).expect("written");
        body
    });
    (url, taken)
}

#[test]
fn an_answer_is_a_span_below_the_clients() {
    let (url, taken) = collector();
    let server = TestServer::start(|config| config.otlp_endpoint = Some(url), |_| ());
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let body = json!({"messages": user(SUM)});
    let answer = server.post_with("/v1/chat/completions", &[("traceparent", &parent)], &body);
    assert_eq!(answer.status, 200, "{}", answer.text);
    server.stop();
    let batch = taken.join().expect("a batch");
    let id: Vec<u8> = (0..16)
        .map(|byte| u8::from_str_radix(&trace[2 * byte..2 * byte + 2], 16).expect("a byte"))
        .collect();
    let name = answer.header("x-request-id").as_bytes();
    for wanted in [&id[..], name, b"chat glm-tiny", b"gen_ai.usage.output_tokens"] {
        let found = batch.windows(wanted.len()).any(|window| window == wanted);
        assert!(found, "{wanted:?} in {batch:?}");
    }
}

#[test]
fn the_page_runs_nothing_from_elsewhere() {
    let answer = SHARED.get("/");
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    for file in ["/page/style.css", "/page/chat.js", "/page/parts.js"] {
        let name = file.strip_prefix('/').expect("a slash");
        assert!(answer.text.contains(name) || file.ends_with("parts.js"), "{file} is asked for");
        assert_eq!(SHARED.get(file).status, 200, "{file}");
    }
}

#[test]
fn texts_and_tokens_and_the_parsers_by_themselves() {
    let tokens = SHARED.ask("/tokenize", &json!({"prompt": "The sky", "return_token_strs": true}));
    assert_eq!(tokens["count"], tokens["tokens"].as_array().expect("ids").len());
    let text = SHARED.ask("/detokenize", &json!({"tokens": tokens["tokens"]}));
    assert_eq!(text["prompt"], "The sky");
    let tools = json!([
        {"type": "function", "function": {"name": "now"}},
        {"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}}},
    ]);
    let body = json!({"text": "a<tool_call>f\n<arg_key>n</arg_key><arg_value>3</arg_value></tool_call>", "tools": tools, "tool_call_parser": "glm47"});
    let parsed = SHARED.ask("/parse_function_call", &body);
    let call = json!({"tool_index": 1, "name": "f", "parameters": "{\"n\": 3}"});
    assert_eq!(parsed, json!({"normal_text": "a", "calls": [call]}));
    for (parser, text, wanted) in [
        ("glm45", "<think>a</think>b", json!({"text": "b", "reasoning_text": "a"})),
        ("glm45", "b", json!({"text": "b", "reasoning_text": ""})),
        ("glm47", "a</think>b", json!({"text": "b", "reasoning_text": "a"})),
        ("glm47", "a", json!({"text": "", "reasoning_text": "a"})),
    ] {
        let body = json!({"text": text, "reasoning_parser": parser});
        assert_eq!(SHARED.ask("/separate_reasoning", &body), wanted, "{parser} {text}");
    }
    let body = json!({"text": "a", "reasoning_parser": "deepseek"});
    assert_eq!(SHARED.post("/separate_reasoning", &body).status, 400);
    let body = json!({"text": "a", "tool_call_parser": "qwen"});
    assert_eq!(SHARED.post("/parse_function_call", &body).status, 400);
}
