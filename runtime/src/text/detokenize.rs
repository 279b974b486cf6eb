//! From token ids to text while they arrive.

use std::str;

use super::{TextError, Tokenizer};

/// Turns token ids into text one by one. Special tokens are hidden, think and tool tags shown.
///
/// All that [`push`](Self::push) and [`finish`](Self::finish) return, joined, is
/// `Tokenizer::decode(ids, true)`. The byte-level decoder maps each token to bytes whatever its
/// neighbours are, so the state is no more than the at most three bytes of an unfinished
/// character, and a token costs its own length.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    unfinished: Vec<u8>,
}

impl Detokenizer {
    /// Starts an empty text.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self { tokenizer: tokenizer.clone(), unfinished: Vec::new() }
    }

    /// Adds a token and returns the text that became certain: it ends at a character, and holds
    /// U+FFFD only for bytes that no later token can complete.
    ///
    /// # Errors
    /// An id without a token.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        let bytes = self.tokenizer.bytes(id)?;
        if self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        self.unfinished.extend(bytes);
        let certain = self.unfinished.len() - unfinished_tail(&self.unfinished);
        let text = String::from_utf8_lossy(&self.unfinished[..certain]).into_owned();
        self.unfinished.drain(..certain);
        Ok(text)
    }

    /// What is left at the end: U+FFFD for a character that was never completed, else nothing.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.unfinished)).into_owned()
    }
}

/// Length of the last bytes that are the beginning of a character, 0 to 3.
fn unfinished_tail(bytes: &[u8]) -> usize {
    let begins_a_character = |tail: &[u8]| {
        str::from_utf8(tail).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
    };
    let longest = bytes.len().min(3);
    (1..=longest).find(|&n| begins_a_character(&bytes[bytes.len() - n..])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token per byte, then `ab`, `Ã©` (é whole), `<think>` and the special `<|user|>`.
    fn byte_tokenizer() -> Tokenizer {
        let mut alphabet: Vec<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let mut vocab: serde_json::Map<_, _> =
            alphabet.iter().zip(0..).map(|(c, id)| (c.to_string(), id.into())).collect();
        vocab.insert("ab".into(), 256.into());
        vocab.insert("Ã©".into(), 257.into());
        let added = |id: u32, content: &str, special: bool| {
            serde_json::json!({"id": id, "content": content, "special": special, "lstrip": false,
                "rstrip": false, "single_word": false, "normalized": false})
        };
        let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": false});
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [added(258, "<think>", false), added(259, "<|user|>", true)],
            "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["Ã", "©"]]},
        });
        Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
    }

    fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
        let mut detokenizer = Detokenizer::new(tokenizer);
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
        text.push_str(&detokenizer.finish());
        text
    }

    #[test]
    fn pieces_join_to_the_full_decode_for_any_bytes() {
        let tokenizer = byte_tokenizer();
        assert_eq!(tokenizer.vocab_len(), 260);
        for text in
            ["", "abé", "你好，世界", "😀👩‍👩‍👧 e\u{301}", "<think>ab<|user|>é", "\0\u{ad}\u{ffff}"]
        {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(stream(&tokenizer, &ids), text.replace("<|user|>", ""));
        }
        // Every pair of bytes, and long pseudo-random runs that are rarely UTF-8.
        for pair in 0..256 * 256 {
            let ids = [pair / 256, pair % 256];
            assert_eq!(stream(&tokenizer, &ids), tokenizer.decode(&ids, true).unwrap());
        }
        let mut state = 1_u32;
        let random: Vec<u32> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % 260
        })
        .take(60_000)
        .collect();
        for ids in random.chunks(37) {
            assert_eq!(stream(&tokenizer, ids), tokenizer.decode(ids, true).unwrap());
        }
    }

    #[test]
    fn half_a_character_waits_and_a_lost_one_is_replaced() {
        let tokenizer = byte_tokenizer();
        let id = |byte: u8| (0..256).find(|&id| tokenizer.bytes(id).unwrap() == [byte]).unwrap();
        let mut detokenizer = Detokenizer::new(&tokenizer);
        let mut push = |byte| detokenizer.push(id(byte)).unwrap();
        let smile = "😀".bytes().map(&mut push).collect::<Vec<_>>();
        assert_eq!(smile, ["", "", "", "😀"]);
        assert_eq!([push(0xE4), push(0xBD), push(b'a')], ["", "", "\u{fffd}a"]);
        assert_eq!([push(0xFF), push(0xE4)], ["\u{fffd}", ""]);
        assert_eq!([detokenizer.finish(), detokenizer.finish()], ["\u{fffd}", ""]);
    }

    #[test]
    fn an_id_without_a_token_is_refused() {
        let tokenizer = byte_tokenizer();
        let error = Detokenizer::new(&tokenizer).push(260).unwrap_err().to_string();
        assert_eq!(error, "token id 260: not in the tokenizer, whose ids end at 259");
        assert_eq!(tokenizer.decode(&[0, 260], false).unwrap_err().to_string(), error);
    }
}
