//! Answers are written at random from what masks allow, and read.

use glm_runtime::{TokenMask, TokenSet};
use serde_json::{Value, json};

use super::*;

const OPEN: u32 = 256;
const CLOSE: u32 = 257;
const CALL: u32 = 258;
const SPECIALS: [&str; 10] = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|user|>",
    "<|observation|>",
];
pub(super) const ENDS: [u32; 2] = [264, 265];
const WORDS: [&str; 12] = [
    "\n\n",
    "{\"",
    "\":",
    "\"}",
    "name",
    "true",
    "},{",
    "get_",
    "weather",
    "</",
    "arg_value>",
    "é",
];
/// Ids that have no bytes.
pub(super) const SIZE: usize = 256 + SPECIALS.len() + WORDS.len() + 40;

pub(super) const NO_THOUGHT: Thinking = Thinking { open: None, close: None, starts_inside: false };
const MAY_THINK: Thinking = Thinking { open: Some(OPEN), close: Some(CLOSE), starts_inside: false };
const THINKS: Thinking = Thinking { open: Some(OPEN), close: Some(CLOSE), starts_inside: true };

pub(super) fn vocabulary() -> Vocabulary {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.extend(SPECIALS.iter().chain(&WORDS).map(|text| text.as_bytes().to_vec()));
    tokens.push(Vec::new());
    let specials: Vec<(String, u32)> =
        SPECIALS.iter().zip(256..).map(|(name, id)| (name.to_string(), id)).collect();
    Vocabulary::new(tokens, &specials, &ENDS).unwrap()
}

/// The text after the thought, which may be of any bytes.
fn text(output: &[u32]) -> String {
    let after = match output.iter().rposition(|id| *id == CLOSE) {
        Some(close) => close + 1,
        None if output.contains(&OPEN) => output.iter().position(|id| *id == CALL).unwrap(),
        None => 0,
    };
    let output = &output[after..];
    let bytes: Vec<u8> = output
        .iter()
        .flat_map(|id| match *id as usize {
            byte @ 0..256 => vec![byte as u8],
            id if id < 256 + SPECIALS.len() => SPECIALS[id - 256].as_bytes().to_vec(),
            id => WORDS[id - 256 - SPECIALS.len()].as_bytes().to_vec(),
        })
        .collect();
    String::from_utf8(bytes).expect("whole characters")
}

fn ids(text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let special = SPECIALS.iter().zip(256..).find(|(name, _)| rest.starts_with(**name));
        let (id, length) =
            special.map_or((rest.as_bytes()[0].into(), 1), |(name, id)| (id, name.len()));
        ids.push(id);
        // Characters of several bytes do not occur here.
        rest = &rest[length..];
    }
    ids
}

/// What may follow a text.
fn after(grammar: &Grammar, output: &str) -> TokenSet {
    let mut allowed = TokenSet::new(SIZE);
    grammar.start().allowed(&ids(output), &mut allowed).unwrap();
    allowed
}

/// Whether a whole text, token by token, may be an answer.
fn takes(grammar: &Grammar, output: &str) -> bool {
    let output = ids(output);
    let mut state = grammar.start();
    for length in 0..=output.len() {
        let mut allowed = TokenSet::new(SIZE);
        state.allowed(&output[..length], &mut allowed).unwrap();
        let next = output.get(length).copied().unwrap_or(ENDS[1]);
        if !allowed.contains(next) {
            return false;
        }
    }
    true
}

/// Random numbers that are the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// An answer that is drawn from what is allowed; drafts are tried and dropped on the way, and the
/// masks after them compared with those of a state that has not seen them.
fn walk(grammar: &Grammar, random: &mut Random) -> String {
    let mut state = grammar.start();
    let mut output: Vec<u32> = Vec::new();
    let mut allowed = TokenSet::new(SIZE);
    for turn in 0..2_000 {
        allowed.clear();
        state.allowed(&output, &mut allowed).unwrap();
        if turn % 7 == 3 {
            let mut fresh = TokenSet::new(SIZE);
            grammar.start().allowed(&output, &mut fresh).unwrap();
            assert_eq!(allowed, fresh, "{output:?}");
        }
        let choices: Vec<u32> = (0..SIZE as u32).filter(|id| allowed.contains(*id)).collect();
        assert!(!choices.is_empty(), "nothing may follow {output:?}");
        assert!(choices.iter().all(|id| (*id as usize) < 256 + SPECIALS.len() + WORDS.len()));
        let ends = choices.iter().any(|id| ENDS.contains(id));
        if ends && (choices.len() == ENDS.len() || turn > 60 || random.below(8) == 0) {
            return text(&output);
        }
        // What closes comes sooner than by chance.
        let closing: Vec<u32> = choices
            .iter()
            .copied()
            .filter(|id| b"\"}],:0".iter().any(|byte| u32::from(*byte) == *id) || *id >= OPEN)
            .filter(|id| !ENDS.contains(id))
            .collect();
        let choices = if closing.is_empty() || random.below(3) == 0 {
            choices.into_iter().filter(|id| !ENDS.contains(id)).collect()
        } else {
            closing
        };
        let next = choices[random.below(choices.len())];
        if turn % 5 == 1 {
            let mut drafts = output.clone();
            for _ in 0..1 + random.below(4) {
                drafts.push(random.below(SIZE) as u32);
                state.allowed(&drafts, &mut TokenSet::new(SIZE)).unwrap();
            }
            let accepted = [output.as_slice(), &[next, 34, 44]].concat();
            state.allowed(&accepted, &mut TokenSet::new(SIZE)).unwrap();
        }
        output.push(next);
    }
    panic!("no end: {output:?}")
}

fn compile(format: &Format, thinking: Thinking) -> Grammar {
    vocabulary().compile(format, thinking).unwrap()
}

#[test]
fn random_answers_are_json_by_the_schema() {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 5},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
            "tags": {"type": "array", "items": {"enum": ["a", "bc"]}, "maxItems": 3},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
            "either": {"oneOf": [{"type": "boolean"}, {"const": "x"}]}
        },
        "required": ["name", "count"],
        "additionalProperties": false
    });
    let grammar = compile(&Format::JsonSchema(schema), NO_THOUGHT);
    for seed in 0..30 {
        let answer = walk(&grammar, &mut Random(seed));
        let value: Value =
            serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{answer}: {e}"));
        assert!(value["name"].as_str().unwrap().chars().count() <= 5, "{answer}");
        assert!(value["count"].as_u64().unwrap() < 100, "{answer}");
        for tag in value["tags"].as_array().unwrap_or(&Vec::new()) {
            assert!(tag == "a" || tag == "bc", "{answer}");
        }
    }
    let object = compile(&Format::JsonObject, MAY_THINK);
    assert!(
        takes(&object, "\n{ \"a\" :\n [1, {}]}") && !takes(&object, "{} ") && !takes(&object, "[]")
    );
    for seed in 0..10 {
        let answer = walk(&object, &mut Random(seed));
        assert!(serde_json::from_str::<Value>(&answer).unwrap().is_object(), "{answer}");
    }
}

#[test]
fn texts_by_choice_regex_and_lark() {
    let choice = Format::Choice(vec!["yes".into(), "yes, \"sir\"\n".into(), "no".into()]);
    let choice = compile(&choice, NO_THOUGHT);
    assert!(takes(&choice, "yes") && takes(&choice, "yes, \"sir\"\n") && takes(&choice, "no"));
    assert!(!takes(&choice, "ye") && !takes(&choice, "nono"));
    let regex = compile(&Format::Regex(r"\d{2}/[a-c]+".into()), NO_THOUGHT);
    assert!(takes(&regex, "12/ab") && !takes(&regex, "1/ab") && !takes(&regex, "12/"));
    let lark = "start: \"(\" start \")\" | NUMBER\nNUMBER: /[0-9]+/";
    let lark = compile(&Format::Grammar(lark.into()), NO_THOUGHT);
    assert!(takes(&lark, "((7))") && !takes(&lark, "((7)"));
    // Nothing may follow: only the ends are left.
    let mut ends = TokenSet::new(SIZE);
    ENDS.iter().for_each(|id| ends.insert(*id));
    assert_eq!(after(&lark, "(7)"), ends);
    // A grammar that names an end gets it at its end only.
    let early = Format::Grammar("start: \"a\" (<|user|> | \"b\")".into());
    let early = compile(&early, NO_THOUGHT);
    assert!(!after(&early, "a").contains(ENDS[0]) && after(&early, "ab").contains(ENDS[0]));
    let empty = compile(&Format::Choice(vec![String::new()]), NO_THOUGHT);
    assert_eq!(after(&empty, "").words()[8], ends.words()[8]);
}

#[test]
fn the_grammar_begins_after_the_thought() {
    let choice = Format::Choice(vec!["no".into()]);
    let inside = compile(&choice, THINKS);
    let first = after(&inside, "any thing");
    assert!(first.contains(CLOSE) && first.contains(u32::from(b'x')) && first.contains(CALL));
    assert!(!ENDS.iter().any(|id| first.contains(*id)));
    assert!(takes(&inside, "why?</think>no") && takes(&inside, "</think>\n\nno"));
    assert!(!takes(&inside, "no") && !takes(&inside, "a</think>\n\n\nno"));
    assert!(!takes(&inside, "a</think><think>b</think>no"));
    let outside = compile(&choice, MAY_THINK);
    for answer in ["no", "\nno", "\n<think>hm</think>\nno", "<think></think>no"] {
        assert!(takes(&outside, answer), "{answer}");
    }
    for answer in ["x", "\n\n\nno", "\n\n\n<think></think>no", "n<think></think>o", "no<think>"] {
        assert!(!takes(&outside, answer), "{answer}");
    }
    // Line ends that the grammar knows itself are its own.
    let lines = compile(&Format::Regex("\n*x".into()), MAY_THINK);
    assert!(takes(&lines, "\n\n\n\nx") && takes(&lines, "\n<think>a</think>\n\n\nx"));
}

fn tools() -> Vec<ToolForm> {
    let tool =
        |name: &str, parameters: Value, strict| ToolForm { name: name.into(), parameters, strict };
    vec![
        tool(
            "get_weather",
            json!({
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "unit": {"enum": ["c", "f"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                    "place": {"$ref": "#/$defs/Place"}
                },
                "required": ["city", "place"],
                "$defs": {"Place": {
                    "type": "object",
                    "properties": {"x": {"type": "boolean"}, "in": {"$ref": "#/$defs/Place"}},
                    "required": ["x"],
                    "additionalProperties": false
                }}
            }),
            true,
        ),
        tool("get", json!({"type": "object"}), false),
        tool("now", Value::Null, true),
    ]
}

fn calls(required: bool, parallel: bool) -> Format {
    Format::Calls { tools: tools(), required, parallel }
}

const PLACE: &str = "<arg_key>place</arg_key><arg_value>{\"x\":true}</arg_value>";
const CITY: &str = "<arg_key>city</arg_key><arg_value> N 7\"\n</arg_value>";

/// An argument with the line ends of GLM-4.5.
fn argument(key: &str, value: &str) -> String {
    format!("<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n")
}

#[test]
fn calls_hold_what_their_tool_wants() {
    let grammar = compile(&calls(true, false), MAY_THINK);
    let call = |parts: &[&str]| format!("<tool_call>{}</tool_call>", parts.concat());
    let [unit, quoted] = ["f", "\"f\""].map(|value| argument("unit", value));
    let [few, many, before, after] = ["3", "10", " 3", "3 "].map(|value| argument("days", value));
    for answer in [
        call(&["now"]),
        format!("\n{}", call(&["now\n"])),
        format!("\n<think>so</think>\n{}", call(&["now\n"])),
        format!("<think>so{}", call(&["now"])),
        call(&["get_weather", CITY, PLACE]),
        call(&["get_weather\n", CITY, "\n", &unit, &few, PLACE, "\n"]),
        call(&["get", &argument("a b", "x"), &argument("c", "")]),
    ] {
        assert!(takes(&grammar, &answer), "{answer}");
    }
    for answer in [
        "now".to_owned(),
        String::new(),
        call(&["no"]),
        call(&["now", &argument("a", "x")]),
        call(&["get_weather", CITY]),
        call(&["get_weather", PLACE, CITY]),
        call(&["get_weather", CITY, CITY, PLACE]),
        call(&["get_weather", CITY, &quoted, PLACE]),
        call(&["get_weather", CITY, &many, PLACE]),
        call(&["get_weather", CITY, &before, PLACE]),
        call(&["get_weather", CITY, &after, PLACE]),
        call(&["now"]) + &call(&["now"]),
        call(&["now"]) + "done",
    ] {
        assert!(!takes(&grammar, &answer), "{answer}");
    }
    // A value that spells a tag would be read as one.
    let mut spelled = ids("<tool_call>get<arg_key>a</arg_key><arg_value>");
    spelled.extend(b"a > b </arg_value".map(u32::from));
    let mut allowed = TokenSet::new(SIZE);
    grammar.start().allowed(&spelled, &mut allowed).unwrap();
    assert!(allowed.contains(u32::from(b'x')) && !allowed.contains(u32::from(b'>')));
    let several = compile(&calls(true, true), NO_THOUGHT);
    assert!(takes(&several, "<tool_call>now</tool_call>\n<tool_call>get</tool_call>"));
    let free = compile(&calls(false, true), THINKS);
    for answer in
        ["</think>Hi.", "</think>So: <tool_call>now</tool_call> and", "a<tool_call>now</tool_call>"]
    {
        assert!(takes(&free, answer), "{answer}");
    }
    assert!(!takes(&free, "</think>Hi</tool_call>") && !takes(&free, "</think><tool_call>x"));
}

#[test]
fn random_calls_are_well_formed() {
    let grammar = compile(&calls(true, true), MAY_THINK);
    for seed in 0..30 {
        let answer = walk(&grammar, &mut Random(seed));
        let mut rest = &answer[answer.find("<tool_call>").unwrap()..];
        while let Some(call) = rest.trim().strip_prefix("<tool_call>") {
            let (call, after) = call.split_once("</tool_call>").unwrap();
            rest = after;
            let mut parts = call.split("<arg_key>");
            let name = parts.next().unwrap().trim();
            assert!(tools().iter().any(|tool| tool.name == name), "{answer}");
            for argument in parts {
                let (key, value) = argument.split_once("</arg_key>").unwrap();
                let value = value.trim_start().strip_prefix("<arg_value>").unwrap();
                let (value, end) = value.split_once("</arg_value>").unwrap();
                assert_eq!(end.trim(), "", "{answer}");
                if name == "get_weather" && key == "place" {
                    assert!(serde_json::from_str::<Value>(value).unwrap()["x"].is_boolean());
                }
            }
        }
        assert_eq!(rest.trim(), "", "{answer}");
    }
}

#[test]
fn what_cannot_be_kept_to_is_named() {
    let not = json!({"type": "integer", "not": {"const": 3}});
    let parameters = json!({"type": "object", "properties": {"a": not}});
    let format = |strict| Format::Calls {
        tools: vec![ToolForm { name: "t".into(), parameters: parameters.clone(), strict }],
        required: true,
        parallel: false,
    };
    let error = vocabulary().compile(&format(true), NO_THOUGHT).unwrap_err().to_string();
    assert!(error.starts_with("tool `t`: argument `a`: ") && error.contains("not"), "{error}");
    let lax = compile(&format(false), NO_THOUGHT);
    assert!(takes(&lax, "<tool_call>t<arg_key>a</arg_key><arg_value>x</arg_value></tool_call>"));
    for (format, wanted) in [
        (Format::JsonSchema(not), "schema: "),
        (Format::JsonSchema(json!(3)), "schema: a JSON schema is an object"),
        (Format::JsonSchema(json!(false)), "schema: "),
        (Format::JsonSchema(json!({"$ref": "#/$defs/a"})), "schema: $ref \"#/$defs/a\" is not to"),
        (Format::Regex("(".into()), "regex: "),
        (Format::Regex(r"(?=a)b".into()), "regex: "),
        (Format::Choice(vec![]), "choice: there is nothing"),
        (Format::Grammar("root ::= \"a\"".into()), "grammar: `::=` is GBNF"),
        (Format::Grammar("begin: \"a\"".into()), "grammar: "),
        (Format::Grammar("start: <|nothing|>".into()), "grammar: "),
        (Format::Calls { tools: vec![], required: true, parallel: true }, "tools: there is none"),
    ] {
        let error = vocabulary().compile(&format, NO_THOUGHT).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
}
