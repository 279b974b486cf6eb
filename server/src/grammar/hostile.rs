//! Formats that are written to hurt.

use std::time::{Duration, Instant};

use glm_runtime::{TokenMask, TokenSet};
use serde_json::{Map, Value, json};

use super::tests::{ENDS, NO_THOUGHT, SIZE, vocabulary};
use super::{Format, ToolForm};

/// Formats that would take a careless compiler hours, or its stack.
fn hostile() -> Vec<(&'static str, Format)> {
    let chain = |count: usize, link: &dyn Fn(String) -> Value| {
        let definitions: Map<String, Value> = (0..count)
            .map(|index| (format!("a{index}"), link(format!("#/$defs/a{}", index + 1))))
            .chain([(format!("a{count}"), json!({"type": "integer"}))])
            .collect();
        json!({"$ref": "#/$defs/a0", "$defs": definitions})
    };
    let object = |reference: String| {
        let inner = json!({"$ref": reference, "minProperties": 0});
        json!({"type": "object", "properties": {"x": inner, "y": inner}})
    };
    let named = |count: usize, name: &str, schema: Value| -> Map<String, Value> {
        (0..count).map(|n| (format!("{name}{n}"), schema.clone())).collect()
    };
    let branches = |count: usize, key: &str| {
        let branches: Vec<Value> = (0..count)
            .map(|n| json!({"type": "object", "required": [format!("{key}{n}")]}))
            .collect();
        json!({"anyOf": branches})
    };
    let deep = |count: usize| {
        (0..count).fold(json!({}), |inner, _| json!({"items": inner, "type": "array"}))
    };
    let schemas = [
        ("deep arrays", deep(400)),
        (
            "a chain of deep arrays",
            chain(20, &|next| {
                (0..400).fold(
                    json!({"$ref": next}),
                    |inner, _| json!({"items": inner, "type": "array"}),
                )
            }),
        ),
        ("a long enum", json!({"enum": (0..150_000).collect::<Vec<i32>>()})),
        ("enum past the size", json!({"enum": (0..1_000_000).collect::<Vec<i32>>()})),
        (
            "a long list of texts",
            json!({"enum": (0..70_000).map(|n| format!("{n:x}~{n}")).collect::<Vec<_>>()}),
        ),
        ("a chain of references", chain(10_000, &|next| json!({"$ref": next}))),
        (
            "a chain in objects",
            chain(2_000, &|next| json!({"type": "object", "properties": {"a": {"$ref": next}}})),
        ),
        ("definitions put in twice each", chain(40, &object)),
        (
            "all of each twice",
            chain(40, &|next| json!({"allOf": [{"$ref": next}, {"$ref": next}]})),
        ),
        (
            "any of each twice",
            chain(40, &|next| json!({"anyOf": [{"$ref": next, "minimum": 1}, {"$ref": next}]})),
        ),
        (
            "branches times branches",
            json!({"allOf": (["a", "b", "c", "d"].map(|key| branches(60, key)))}),
        ),
        (
            "one of many",
            json!({"oneOf": (0..20_000).map(|n| json!({"const": n})).collect::<Vec<_>>()}),
        ),
        (
            "many properties",
            json!({"type": "object", "properties": named(30_000, "p", json!({"type": "integer"}))}),
        ),
        ("long texts", json!({"type": "string", "minLength": 1_000_000, "maxLength": 2_000_000})),
        (
            "long arrays",
            json!({"minItems": 1_000_000, "type": "array", "items": {
                "type": "array", "minItems": 100_000, "items": {"type": "object"}
            }}),
        ),
        ("a large multiple", json!({"type": "integer", "multipleOf": 9_999_991})),
        ("two multiples", json!({"allOf": [{"multipleOf": 9_973}, {"multipleOf": 9_967}]})),
        ("a multiple", json!({"type": "number", "multipleOf": 0.01})),
        ("a pattern that backtracks", json!({"type": "string", "pattern": "^(a+)+$"})),
        ("a pattern of counts", json!({"type": "string", "pattern": "((a{0,100}){0,100}){0,100}"})),
        ("many patterns", json!({"patternProperties": named(2_000, "^a*b", json!({}))})),
    ];
    let mut all: Vec<(&str, Format)> =
        schemas.into_iter().map(|(name, schema)| (name, Format::JsonSchema(schema))).collect();
    let nested = format!("start: {}\"a\"{}", "(".repeat(500_000), ")".repeat(500_000));
    let some = format!("start: {}\"a\"{}", "(".repeat(9_000), ")".repeat(9_000));
    let rules: String = (0..80_000).map(|n| format!("a{n}: a{}\n", n + 1)).collect();
    let some_rules: String = (0..9_000).map(|n| format!("a{n}: a{}\n", n + 1)).collect();
    let ambiguous = "start: a\na: a a | \"x\" | a a a |".to_owned();
    all.extend([
        ("(a+)+b", Format::Regex("(a+)+b".into())),
        ("counts of counts", Format::Regex("(((a{1,1000}){1,1000}){1,1000}){1,1000}b".into())),
        ("a wide window", Format::Regex("(.*a.{5000}){3}".into())),
        (
            "many alternatives",
            Format::Regex((0..100_000).map(|n| format!("{n}x")).collect::<Vec<_>>().join("|")),
        ),
        ("a megabyte of letters", Format::Regex("ab".repeat(500_000))),
        (
            "nested groups",
            Format::Regex(format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000))),
        ),
        ("unicode classes", Format::Regex(r"(\w+\s*\p{L}){1,500}".into())),
        ("many choices", Format::Choice((0..80_000).map(|n| format!("{n}")).collect())),
        ("a long choice", Format::Choice(vec!["x".repeat(1_000_000)])),
        ("brackets", Format::Grammar(nested)),
        ("some brackets", Format::Grammar(some)),
        ("a chain of rules", Format::Grammar(format!("start: a0\n{rules}a80000: \"x\""))),
        ("a shorter chain", Format::Grammar(format!("start: a0\n{some_rules}a9000: \"x\""))),
        ("everything means everything", Format::Grammar(ambiguous)),
        ("schemas in a grammar", Format::Grammar(format!("start: %json {}", chain(40, &object)))),
        (
            "parts of a long text",
            Format::Grammar(format!(
                "start: A\nA: %regex {{\"substring_chars\": \"{}\"}}",
                "abcd".repeat(100_000)
            )),
        ),
        ("repeated rules", Format::Grammar("start: a~1000000000\na: b \"x\"\nb: \"y\" | a".into())),
        ("repeated texts", Format::Grammar("start: A\nA: \"ab\"~1000000~2000000".into())),
        ("not not often", Format::Grammar(format!("start: A\nA: {}\"a\"", "~".repeat(9_000)))),
        ("not not", Format::Grammar(format!("start: A\nA: {}\"a\"", "~".repeat(100_000)))),
    ]);
    let properties: Map<String, Value> =
        (0..3_000).map(|n| (format!("p{n}"), json!({"type": "integer", "maximum": n}))).collect();
    let few = properties.clone().into_iter().take(400).collect::<Map<_, _>>();
    let few = json!({"type": "object", "properties": few});
    let parameters = json!({"type": "object", "properties": properties});
    let tools = |count: usize, parameters: Value| Format::Calls {
        tools: (0..count)
            .map(|n| ToolForm {
                name: format!("t{n}"),
                parameters: parameters.clone(),
                strict: true,
            })
            .collect(),
        required: true,
        parallel: true,
    };
    all.push(("a tool of many arguments", tools(1, parameters)));
    all.push(("a tool of some arguments", tools(1, few)));
    all.push(("many tools", tools(10_000, json!({}))));
    all
}

#[test]
fn hostile_formats_are_refused_or_quick() {
    let vocabulary = vocabulary();
    for (name, format) in hostile() {
        let start = Instant::now();
        let result = vocabulary.compile(&format, NO_THOUGHT);
        let seconds = start.elapsed();
        assert!(seconds < Duration::from_secs(10), "{name}: {seconds:?}");
        let Ok(grammar) = result else { continue };
        let mut state = grammar.start();
        let mut output = Vec::new();
        for _ in 0..50 {
            let mut allowed = TokenSet::new(SIZE);
            let start = Instant::now();
            let result = state.allowed(&output, &mut allowed);
            assert!(start.elapsed() < Duration::from_secs(1), "{name}: {:?}", start.elapsed());
            let next =
                (0..SIZE as u32).rev().find(|id| allowed.contains(*id) && !ENDS.contains(id));
            match (result, next) {
                (Ok(()), Some(next)) => output.push(next),
                _ => break,
            }
        }
    }
}
