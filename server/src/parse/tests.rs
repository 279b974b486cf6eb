use serde_json::json;

use super::{Ending, Message, Parser, Part, Start, ToolCall, Tools};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
const CALL: &str = "<tool_call>";
const CALL_END: &str = "</tool_call>";

/// What becomes of a text that is pushed in the given pieces.
fn parse<'a>(
    start: Start,
    tools: &Tools,
    ending: Ending,
    pieces: impl IntoIterator<Item = &'a str>,
) -> Message {
    let mut parser = Parser::new(start, tools.clone());
    let mut message = Message::default();
    for piece in pieces {
        message.extend(parser.push(piece));
    }
    message.extend(parser.finish(ending));
    message
}

/// The same, whole and in any two pieces and in single characters, which has to be equal.
fn message(start: Start, tools: &Tools, ending: Ending, text: &str) -> Message {
    let whole = parse(start, tools, ending, [text]);
    for (at, _) in text.char_indices() {
        let (first, second) = text.split_at(at);
        assert_eq!(parse(start, tools, ending, [first, second]), whole, "{first:?} + {second:?}");
    }
    let characters = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
    assert_eq!(parse(start, tools, ending, characters), whole, "{text:?} in characters");
    whole
}

fn tools() -> Tools {
    let string = json!({"type": "string"});
    let weather = json!({"type": "object", "properties": {"city": string, "days": {"type": "integer"}, "note": {"type": ["string", "null"]}}});
    Tools::new(&[
        json!({"function": {"name": "weather", "parameters": weather}}),
        json!({"function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}),
    ])
    .unwrap()
}

/// Start, the model's text, its thought, its answer, without tools.
const THOUGHTS: &[(Start, &str, &str, &str)] = &[
    (Start::Outside, "<think>a\nb</think>c\nd", "a\nb", "c\nd"),
    (Start::Outside, "<think></think>a", "", "a"),
    (Start::Outside, "<think>never closed", "never closed", ""),
    (Start::Inside, "a</think>b</think>c", "a", "bc"),
    (Start::Outside, "<think><think>a</think>b", "a", "b"),
    // White space belongs to the answer unless it precedes the opening tag.
    (Start::Outside, "\n<think>a\n</think>\nb\n", "a\n", "\nb\n"),
    (Start::Outside, " \n b", "", " \n b"),
    (Start::Outside, " \n", "", " \n"),
    (Start::Inside, "\n<think>a</think>b", "\na", "b"),
    (Start::Outside, "", "", ""),
    // An opening tag later in the answer is text, and so is all that only looks like a tag.
    (Start::Outside, "the tag <think> opens", "", "the tag <think> opens"),
    (Start::Outside, "</think>b<</think", "", "b<</think"),
    (Start::Inside, "a < b <thin </thi", "a < b <thin </thi", ""),
    (Start::Inside, "é<</think>é", "é<", "é"),
    // Without tools a call is text to the letter, and the text after it is an answer again.
    (
        Start::Inside,
        "a<tool_call>f</think><think></tool_call>b</think>c",
        "a",
        "<tool_call>f</think><think></tool_call>bc",
    ),
    (Start::Outside, "<tool_call>f</think>", "", "<tool_call>f</think>"),
    (Start::Answer, "<think>a</think>b", "", "<think>a</think>b"),
];

#[test]
fn thought_and_answer() {
    for &(start, text, reasoning, answer) in THOUGHTS {
        let message = message(start, &Tools::default(), Ending::Complete, text);
        assert_eq!((&*message.reasoning, &*message.text), (reasoning, answer), "{text:?}");
        assert_eq!(message.calls, []);
    }
}

/// Names and arguments.
type Calls = &'static [(&'static str, &'static str)];

/// The model's text after an open thought, its thought, its answer, its calls.
const CALLS: &[(&str, &str, &str, Calls)] = &[
    ("</think><tool_call>now</tool_call>", "", "", &[("now", "{}")]),
    ("I look<tool_call>now\n</tool_call>", "I look", "", &[("now", "{}")]),
    (
        "</think>A \n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value> x\n</arg_value>\n<arg_key>days</arg_key><arg_value>2</arg_value>\n</tool_call>\n B",
        "",
        "A \n\n B",
        &[("weather", r#"{"city": " x\n", "days": 2}"#)],
    ),
    // White space alone is no answer beside a call.
    ("</think>\n\n<tool_call>now</tool_call>\n", "", "", &[("now", "{}")]),
    // No tool of this name, no name, no call at all.
    ("</think><tool_call>later</tool_call>.", "", "<tool_call>later</tool_call>.", &[]),
    ("</think><tool_call></tool_call>", "", "<tool_call></tool_call>", &[]),
    ("</think>say <tool_call> twice", "", "say <tool_call> twice", &[]),
    ("the tag <tool_call> opens</think>b", "the tag <tool_call> opens", "b", &[]),
    ("a<tool_call>now", "a", "<tool_call>now", &[]),
    ("</think><tool_call><tool_call>now</tool_call>", "", "<tool_call>", &[("now", "{}")]),
    // Forgotten tags.
    (
        "<tool_call>weather<arg_key>city<arg_value>x</arg_value></tool_call>",
        "",
        "",
        &[("weather", r#"{"city": "x"}"#)],
    ),
    (
        "<tool_call>weather\ncity</arg_key><arg_value>x</arg_value></tool_call>",
        "",
        "",
        &[("weather", r#"{"city": "x"}"#)],
    ),
    (
        "<tool_call>weather<arg_key>city</arg_key>x</arg_value></tool_call>",
        "",
        "",
        &[("weather", r#"{"city": "x"}"#)],
    ),
    (
        "<tool_call>weather<arg_key>city</arg_key><arg_value>x\n<arg_key>days</arg_key><arg_value>3\n</tool_call>",
        "",
        "",
        &[("weather", r#"{"city": "x", "days": 3}"#)],
    ),
    (
        "<tool_call>weather<arg_key>city</arg_key><arg_value>x</arg_key></tool_call>",
        "",
        "",
        &[("weather", r#"{"city": "x"}"#)],
    ),
    (
        "<tool_call>weather<arg_key>city</arg_key><arg_value>x</tool_call> and <tool_call>now</tool_call>",
        "",
        " and ",
        &[("weather", r#"{"city": "x"}"#), ("now", "{}")],
    ),
    (
        "<tool_call>weather<arg_key>city</arg_key><arg_value>x</arg_value><tool_call>now</tool_call>",
        "",
        "",
        &[("weather", r#"{"city": "x"}"#), ("now", "{}")],
    ),
    ("<tool_call>now\nplease</tool_call>", "", "\nplease", &[("now", "{}")]),
    ("<tool_call>now<arg_key>a</tool_call>", "", "<arg_key>a", &[("now", "{}")]),
    (
        "<tool_call>now<arg_key>a</arg_key></tool_call>",
        "",
        "<arg_key>a</arg_key>",
        &[("now", "{}")],
    ),
    // Values that speak of tags.
    (
        "<tool_call>weather<arg_key>city</arg_key><arg_value>a </tool_call> b <arg_key> c</arg_key> d</arg_value></tool_call>",
        "",
        "",
        &[("weather", r#"{"city": "a </tool_call> b <arg_key> c</arg_key> d"}"#)],
    ),
    (
        "<tool_call>weather<arg_key>city</arg_key><arg_value></think><b></arg_value></tool_call>",
        "",
        "",
        &[("weather", r#"{"city": "</think><b>"}"#)],
    ),
    // A text or null.
    (
        "<tool_call>weather<arg_key>note</arg_key><arg_value>null</arg_value></tool_call>",
        "",
        "",
        &[("weather", r#"{"note": null}"#)],
    ),
    (
        "<tool_call>weather<arg_key>note</arg_key><arg_value>nullify \"é\"</arg_value></tool_call>",
        "",
        "",
        &[("weather", r#"{"note": "nullify \"é\""}"#)],
    ),
];

#[test]
fn calls_of_tools() {
    for &(text, reasoning, answer, calls) in CALLS {
        let message = message(Start::Inside, &tools(), Ending::Complete, text);
        let calls: Vec<_> = calls
            .iter()
            .map(|&(name, arguments)| ToolCall {
                name: name.into(),
                arguments: arguments.into(),
                complete: true,
            })
            .collect();
        let wanted = Message { reasoning: reasoning.into(), text: answer.into(), calls };
        assert_eq!(message, wanted, "{text:?}");
    }
}

#[test]
fn an_end_of_the_turn_completes_a_call_and_a_cut_does_not() {
    let begun = "<tool_call>weather<arg_key>city</arg_key><arg_value>Beij";
    let call = |ending, text: &str| {
        let mut message = message(Start::Outside, &tools(), ending, text);
        assert_eq!(message.text, "");
        let call = message.calls.pop().unwrap();
        (call.arguments, call.complete)
    };
    let complete = |text| call(Ending::Complete, text);
    let cut = |text| call(Ending::Cut, text);
    assert_eq!(complete(begun), (r#"{"city": "Beij"}"#.into(), true));
    assert_eq!(cut(begun), (r#"{"city": "Beij"#.into(), false));
    let key = "<tool_call>weather<arg_key>ci";
    assert_eq!(cut(key), (r#"{"ci"#.into(), false));
    let number = "<tool_call>weather<arg_key>days</arg_key><arg_value>12";
    assert_eq!(complete(number), (r#"{"days": 12}"#.into(), true));
    assert_eq!(cut(number), (r#"{"days": "#.into(), false));
    let between = "<tool_call>weather\n<arg_key>days</arg_key><arg_value>12</arg_value>\n";
    assert_eq!(complete(between), (r#"{"days": 12}"#.into(), true));
    assert_eq!(cut(between), (r#"{"days": 12"#.into(), false));
}

#[test]
fn texts_go_out_while_they_come() {
    let mut parser = Parser::new(Start::Inside, tools());
    assert_eq!(parser.push("so </th"), [Part::Reasoning("so ".into())]);
    assert_eq!(parser.push("ese <"), [Part::Reasoning("</these ".into())]);
    assert_eq!(parser.push("/think>12"), [Part::Text("12".into())]);
    assert_eq!(parser.push("<tool_call>weath"), []);
    assert_eq!(parser.push("er\n"), [Part::Call { name: "weather".into() }]);
    assert_eq!(
        parser.push("<arg_key>city</arg_key><arg_value>Bei"),
        [Part::Arguments("{\"city\": \"Bei".into())]
    );
    assert_eq!(parser.push("jing<"), [Part::Arguments("jing".into())]);
    assert_eq!(parser.push("/arg_value>"), [Part::Arguments("\"".into())]);
    assert_eq!(parser.push("<arg_key>days</arg_key><arg_value>1"), []);
    assert_eq!(parser.push("2</arg_value>"), [Part::Arguments(", \"days\": 12".into())]);
    assert_eq!(
        parser.push("</tool_call>\n"),
        [Part::Arguments("}".into()), Part::CallEnd, Part::Text("\n".into())]
    );
    assert_eq!(parser.finish(Ending::Complete), []);
}

#[test]
fn a_type_that_hangs_on_a_later_argument_waits_for_it() {
    let branch = |kind: &str, of: &str| json!({"properties": {"kind": {"const": kind}, "value": {"type": of}}});
    let schema = json!({"oneOf": [branch("text", "string"), branch("count", "integer")]});
    let tools = Tools::new(&[json!({"name": "set", "parameters": schema})]).unwrap();
    for (kind, wanted) in [
        ("text", r#"{"value": "7", "kind": "text"}"#),
        ("count", r#"{"value": 7, "kind": "count"}"#),
    ] {
        let text = format!(
            "<tool_call>set<arg_key>value</arg_key><arg_value>7</arg_value><arg_key>kind</arg_key><arg_value>{kind}</arg_value></tool_call>"
        );
        let message = message(Start::Outside, &tools, Ending::Complete, &text);
        assert_eq!(message.calls[0].arguments, wanted);
    }
}

#[test]
fn random_tags_parse_the_same_in_any_pieces_and_lose_nothing() {
    let words = [
        OPEN,
        CLOSE,
        CALL,
        CALL_END,
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "weather",
        "now",
        "city",
        "days",
        "a",
        "7",
        "<",
        "</",
        "\n",
        " ",
        "_call>",
        "é",
        "null",
    ];
    let mut state = 7_u64;
    let mut draw = move |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for round in 0..20_000 {
        let length = 4 + draw(20);
        let pieces: Vec<&str> = (0..length).map(|_| words[draw(words.len())]).collect();
        let text: String = pieces.concat();
        let tools = if round % 4 == 0 { Tools::default() } else { tools() };
        for start in [Start::Outside, Start::Inside, Start::Answer] {
            for ending in [Ending::Complete, Ending::Cut] {
                let whole = parse(start, &tools, ending, [&*text]);
                let most = 1 + draw(8);
                let runs: Vec<String> = pieces.chunks(most).map(|run| run.concat()).collect();
                let runs = runs.iter().map(String::as_str);
                assert_eq!(parse(start, &tools, ending, runs), whole, "{text:?} in runs of {most}");
                let characters = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
                assert_eq!(parse(start, &tools, ending, characters), whole, "{text:?}");
                for call in whole.calls.iter().filter(|call| call.complete) {
                    let arguments = serde_json::from_str::<serde_json::Value>(&call.arguments);
                    assert!(arguments.is_ok_and(|a| a.is_object()), "{call:?} of {text:?}");
                }
                let all: String = [&*whole.reasoning, &*whole.text]
                    .into_iter()
                    .chain(whole.calls.iter().flat_map(|call| [&*call.name, &*call.arguments]))
                    .collect();
                for word in ["é", "a", "city"] {
                    let (found, wanted) = (all.matches(word).count(), text.matches(word).count());
                    // The letter is also one of other words and of tags.
                    assert!(
                        word == "a" || found == wanted || ending == Ending::Cut,
                        "{word} of {text:?} in {whole:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_prompt_decides_where_the_text_starts() {
    const TURN: &str = "[gMASK]<sop><|system|>\nYou help.<|user|>\nFrance?<|assistant|>";
    for (tail, wanted) in [
        ("<think>", Start::Inside),
        ("\n<think>\n", Start::Inside),
        ("", Start::Outside),
        ("</think>", Start::Outside),
        ("\n<think></think>", Start::Outside),
        ("\n<think>The user is asking for the capital of", Start::Inside),
        ("\n<think>The user asks.</think>\nParis.", Start::Outside),
        ("\n<think>x<tool_call>y", Start::Outside),
        ("<think></think>Paris.<|user|>Chile?<|assistant|>\n<think>The user", Start::Inside),
        ("<think>x<tool_call>y</tool_call><|observation|>z<|assistant|><think>", Start::Inside),
        ("<think>x<|user|>What does <think> do?<|assistant|>", Start::Outside),
    ] {
        assert_eq!(Start::after(&format!("{TURN}{tail}")), wanted, "{tail:?}");
    }
    assert_eq!(Start::after("What does <think> do?"), Start::Outside);
    assert_eq!(Start::after("Raw text <think> "), Start::Inside);
}
