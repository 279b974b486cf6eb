//! A server that is treated badly.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{SHARED, SUM, TestServer, events, user};

const CHAT: &str = "/v1/chat/completions";

/// A post on a connection of its own, whose answer is not read yet.
fn send(server: &TestServer, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a time");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("written");
    stream.write_all(body.as_bytes()).expect("written");
    stream
}

/// Status and body of an answer, with the sizes of its chunks taken out.
fn receive(stream: TcpStream) -> (u16, String) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a status");
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let mut chunked = false;
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a header");
        chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
        if line == "\r\n" {
            break;
        }
    }
    let mut text = String::new();
    if !chunked {
        reader.read_to_string(&mut text).expect("a body");
        return (status, text);
    }
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a size");
        let size = usize::from_str_radix(line.trim(), 16).expect("a size");
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).expect("a chunk");
        text.push_str(std::str::from_utf8(&chunk[..size]).expect("text"));
        if size == 0 {
            return (status, text);
        }
    }
}

/// Waits until nothing is computed any more.
fn settle(server: &TestServer) {
    let since = Instant::now();
    loop {
        let stats = server.engine.stats();
        if stats.running == 0 && stats.waiting == 0 {
            assert_eq!(stats.pages.held, 0, "{stats:?}");
            assert_eq!(stats.pages.free + stats.pages.cached, stats.pages.total, "{stats:?}");
            let open = server.get("/health").json()["open_answers"].clone();
            if open == 0 {
                return;
            }
        }
        assert!(since.elapsed() < Duration::from_secs(120), "{stats:?}");
        std::thread::yield_now();
    }
}

/// Connections that the server holds, where the system tells: those that are open, and those that
/// the client has closed and the server has not.
fn held(server: &TestServer) -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let port = format!(":{:04X}", server.address.port());
    let is_held = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let is_ours = fields.next().is_some_and(|local| local.ends_with(&port));
        is_ours && fields.nth(1).is_some_and(|state| state == "01" || state == "08")
    };
    table.lines().filter(is_held).count()
}

#[test]
fn many_streams_with_clients_that_leave_err_and_dawdle_leave_nothing_behind() {
    let server = TestServer::start(|_| (), |config| config.max_batch = 16);
    let stream = |index: usize, tokens: usize| {
        let messages = user(&format!("{SUM} This is question {index}."));
        json!({"messages": messages, "stream": true, "max_tokens": tokens, "ignore_eos": true})
            .to_string()
    };
    let streams: Vec<_> = (0..64)
        .map(|index| match index % 10 {
            // Malformed.
            9 => (index, send(&server, CHAT, "{\"messages\": [")),
            _ => (index, send(&server, CHAT, &stream(index, 24))),
        })
        .collect();
    let mut slow = Vec::new();
    let mut read = Vec::new();
    for (index, stream) in streams {
        match index % 10 {
            9 => {
                let (status, text) = receive(stream);
                assert_eq!(status, 400, "{text}");
                assert!(text.contains("the body is not JSON"), "{text}");
            }
            // Gone before or while the answer comes.
            0 | 3 => drop(stream),
            6 => {
                let mut first = [0; 16];
                (&stream).read_exact(&mut first).expect("the beginning");
                drop(stream);
            }
            7 => slow.push(stream),
            _ => read.push(stream),
        }
    }
    for stream in read.into_iter().chain(slow) {
        let (status, text) = receive(stream);
        assert_eq!(status, 200, "{text}");
        let events = events(&text);
        let ends =
            events.iter().filter(|(_, data)| data["choices"][0]["finish_reason"].is_string());
        assert_eq!(ends.count(), 1, "one end");
        assert_eq!(events.last().expect("events").1, "[DONE]");
    }
    settle(&server);
    assert!(server.engine.stats().cancelled >= 1);
    let since = Instant::now();
    while held(&server) > 0 {
        assert!(since.elapsed() < Duration::from_secs(60), "{} connections", held(&server));
        std::thread::yield_now();
    }
    server.ask(CHAT, &json!({"messages": user(SUM)}));
}

#[test]
fn an_unstreamed_answer_ends_with_its_client() {
    let server = TestServer::start(|_| (), |_| ());
    let body = json!({"messages": user(SUM), "max_tokens": 1000, "ignore_eos": true}).to_string();
    let stream = send(&server, CHAT, &body);
    while server.engine.stats().running == 0 {
        std::thread::yield_now();
    }
    drop(stream);
    settle(&server);
    assert_eq!(server.engine.stats().cancelled, 1);
}

#[test]
fn a_stop_waits_for_what_was_admitted_and_takes_no_more() {
    let server = TestServer::start(|_| (), |config| config.max_batch = 2);
    let body =
        json!({"messages": user(SUM), "stream": true, "max_tokens": 400, "ignore_eos": true});
    let streams: Vec<_> = (0..6).map(|_| send(&server, CHAT, &body.to_string())).collect();
    while server.engine.stats().running == 0 || server.get("/health").json()["open_answers"] != 6 {
        std::thread::yield_now();
    }
    let stopping = std::thread::scope(|scope| {
        let readers: Vec<_> =
            streams.into_iter().map(|stream| scope.spawn(move || receive(stream))).collect();
        let address = server.address;
        let stopped = scope.spawn(move || server.stop());
        for reader in readers {
            let (status, text) = reader.join().expect("an answer");
            assert_eq!(status, 200, "{text}");
            let events = events(&text);
            assert_eq!(events.last().expect("events").1, "[DONE]");
            let tokens =
                events.iter().filter(|(_, data)| data["choices"][0]["finish_reason"] == "length");
            assert_eq!(tokens.count(), 1, "a whole answer");
        }
        stopped.join().expect("it stopped");
        TcpStream::connect(address)
    });
    assert!(stopping.is_err(), "nobody listens any more");
}

#[test]
fn too_many_requests_are_told_to_come_back() {
    let server = TestServer::start(|config| config.max_queue = 1, |config| config.max_batch = 1);
    let body =
        json!({"messages": user(SUM), "stream": true, "max_tokens": 900, "ignore_eos": true});
    let held: Vec<_> = (0..2).map(|_| send(&server, CHAT, &body.to_string())).collect();
    while server.get("/health").json()["open_answers"] != 2 {
        std::thread::yield_now();
    }
    let answer = server.post(CHAT, &json!({"messages": user(SUM)}));
    assert_eq!((answer.status, answer.header("retry-after")), (429, "1"), "{}", answer.text);
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    drop(held);
    settle(&server);
    server.ask(CHAT, &json!({"messages": user(SUM)}));
}

#[test]
fn bodies_that_are_no_requests_are_refused() {
    let deep = format!("{{\"messages\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    for (body, wanted) in [
        ("", "the body is not JSON"),
        ("[]", "the body: found a list, wanted an object"),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}",
            "the body is not JSON",
        ),
        (deep.as_str(), "recursion limit"),
        ("{\"n\": 1e999, \"messages\": []}", "the body is not JSON"),
    ] {
        let (status, text) = receive(send(&SHARED, CHAT, body));
        assert_eq!(status, 400, "{text}");
        assert!(text.contains(wanted), "{text}");
    }
    let answer = SHARED.post_with(CHAT, &[("content-type", "text/plain")], &json!({}));
    assert_eq!(answer.status, 415, "{}", answer.text);
}

#[test]
fn heads_and_bodies_that_are_too_long_are_refused() {
    let mut stream = TcpStream::connect(SHARED.address).expect("a connection");
    let many: String = (0..100).map(|index| format!("X-{index}: y\r\n")).collect();
    write!(stream, "GET /livez HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").expect("written");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a status");
    assert!(line.contains("431"), "{line}");

    let stream = TcpStream::connect(SHARED.address).expect("a connection");
    let length = (33 << 20).to_string();
    write!(&stream, "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")
        .expect("written");
    let piece = vec![b' '; 1 << 20];
    // It may stop reading on the way.
    let _ = (0..33).try_for_each(|_| (&stream).write_all(&piece));
    let mut line = String::new();
    match BufReader::new(&stream).read_line(&mut line) {
        Ok(_) => assert!(line.contains("413"), "{line}"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    SHARED.get("/livez");
}

/// Forms that would take for ever, or all memory, end as refusals.
#[test]
fn hostile_forms_of_answers_hurt_nobody() {
    let many: Vec<String> = (0..50_000).map(|index| format!("value-{index}")).collect();
    let mut nested = json!({"type": "object"});
    for _ in 0..100 {
        nested = json!({"type": "object", "properties": {"a": nested}, "required": ["a"]});
    }
    for form in [
        json!({"structured_outputs": {"regex": "((a{0,1000}){0,1000}){0,1000}"}}),
        json!({"structured_outputs": {"regex": "(?=a)b"}}),
        json!({"structured_outputs": {"grammar": "start: start start | \"a\""}}),
        json!({"structured_outputs": {"grammar": "nonsense"}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": many}}}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"schema": nested}}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}}}),
    ] {
        let mut body = json!({"messages": user(SUM), "max_tokens": 8, "thinking": false});
        body.as_object_mut().expect("an object").extend(form.as_object().expect("one").clone());
        let answer = SHARED.post(CHAT, &body);
        assert!(answer.status == 200 || answer.status == 400, "{}", answer.text);
    }
    SHARED.ask(CHAT, &json!({"messages": user(SUM)}));
}
