//! What was meant where a model forgot a tag.

use glm_models::chat::GLM4;

use super::parser::{CALL, CALL_END, first_tag, possible_tag};

const KEY: &str = GLM4.arg_key_open;
const KEY_END: &str = GLM4.arg_key_close;
const VALUE: &str = GLM4.arg_value_open;
const VALUE_END: &str = GLM4.arg_value_close;

/// What a tag in a value means.
pub(super) enum Meaning {
    /// It is a letter of the value.
    Letter,
    /// The value ends before it, and what follows begins this many bytes later.
    End(usize),
    /// That has to be seen.
    Unknown,
}

/// What a tag in a value means, by what follows it: whether `</arg_value>` was forgotten, or the
/// value speaks of tags.
pub(super) fn meaning(tag: &str, rest: &str, is_end: bool) -> Meaning {
    let next = rest.trim_start();
    let begins = |tags: &[&str]| tags.iter().any(|tag| next.starts_with(tag));
    let may_begin = |tags: &[&str]| !is_end && tags.iter().any(|tag| tag.starts_with(next));
    match tag {
        // `<arg_key>name</arg_key><arg_value>` is the next argument.
        KEY => {
            let Some((name, after)) = rest.split_once(KEY_END) else {
                let name = &rest[..rest.len() - possible_tag(rest, &[KEY_END])];
                let open = !is_end && is_name(name);
                return if open { Meaning::Unknown } else { Meaning::Letter };
            };
            let after = after.trim_start();
            match is_name(name) {
                true if after.starts_with(VALUE) => Meaning::End(0),
                true if VALUE.starts_with(after) && !is_end => Meaning::Unknown,
                _ => Meaning::Letter,
            }
        }
        // Closed by the wrong tag.
        KEY_END if begins(&[KEY, CALL_END]) || (is_end && next.is_empty()) => {
            Meaning::End(KEY_END.len())
        }
        KEY_END if may_begin(&[KEY, CALL_END]) => Meaning::Unknown,
        KEY_END => Meaning::Letter,
        // The call ends, unless the value does before another call begins.
        _ => match first_tag(rest, &[CALL, VALUE_END]) {
            Some((_, VALUE_END)) => Meaning::Letter,
            None if !is_end => Meaning::Unknown,
            _ => Meaning::End(0),
        },
    }
}

/// Whether a text may be an argument's name.
fn is_name(text: &str) -> bool {
    const LONGEST: usize = 256;
    text.len() <= LONGEST && !text.contains('<')
}
