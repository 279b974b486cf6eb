//! The checkpoint's tokenizer.

use std::fmt;
use std::sync::Arc;

use tokenizers::DecoderWrapper;

use super::TextError;

/// A byte-level BPE tokenizer, as `tokenizer.json` describes it. A clone shares its tables.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    vocab_len: usize,
}

impl Tokenizer {
    /// Reads the contents of a `tokenizer.json`.
    ///
    /// # Errors
    /// The file is broken, or its decoder is not the byte-level one of the GLM-4 family.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| TextError::Tokenizer(error.to_string()))?;
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(TextError::Tokenizer(format!(
                "decoder: found {:?}, wanted ByteLevel",
                inner.get_decoder()
            )));
        }
        // A saved tokenizer may carry the settings of its training run.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        let after_added = inner.get_added_tokens_decoder().keys().max().map_or(0, |id| id + 1);
        let vocab_len = inner.get_vocab_size(false).max(after_added as usize);
        Ok(Self { inner: Arc::new(inner), vocab_len })
    }

    /// Token ids of `text`. Special tokens are those written in the text: none is added.
    ///
    /// # Errors
    /// The tokenizer fails on this text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| TextError::Encoding(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`, bytes that are not UTF-8 as U+FFFD. With `skip_special`, tokens that the
    /// tokenizer marks as special (role tags, end of text) are left out.
    ///
    /// # Errors
    /// An id without a token.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        if let Some(&id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(self.unknown(id));
        }
        self.inner.decode(ids, skip_special).map_err(|error| TextError::Encoding(error.to_string()))
    }

    /// Number of ids with a meaning. The rows of the embedding from here on are padding.
    pub fn vocab_len(&self) -> usize {
        self.vocab_len
    }

    /// Id of a token by its exact content, such as `<|user|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Content of a token, in the byte-level alphabet for ordinary tokens (`Ġthe` for ` the`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Tokens that stand for themselves and are no pieces of text: tags, and marks of turns.
    pub fn added_tokens(&self) -> Vec<(String, u32)> {
        let added = self.inner.get_added_tokens_decoder().into_iter();
        added.map(|(id, token)| (token.content, id)).collect()
    }

    /// Whether the tokenizer marks the token as special. The think and tool tags are not.
    pub fn is_special(&self, id: u32) -> bool {
        let is_special = |token: String| self.inner.get_added_vocabulary().is_special_token(&token);
        self.token(id).is_some_and(is_special)
    }

    /// Bytes that a token stands for, by the rule of the byte-level decoder: one byte for each
    /// character, or the content as it is when it holds a character outside the alphabet.
    ///
    /// # Errors
    /// An id without a token.
    pub fn bytes(&self, id: u32) -> Result<Vec<u8>, TextError> {
        let token = self.token(id).ok_or_else(|| self.unknown(id))?;
        Ok(token.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| token.into_bytes()))
    }

    fn unknown(&self, id: u32) -> TextError {
        TextError::UnknownToken { id, last: self.vocab_len.saturating_sub(1) }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_len", &self.vocab_len).finish_non_exhaustive()
    }
}

/// The byte behind a character of the byte-level alphabet: printable Latin-1 stands for itself,
/// the other 68 bytes are U+0100 and up, in order (GPT-2's `bytes_to_unicode`).
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_holds_every_byte_once() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut bytes: Vec<u8> = alphabet.into_iter().filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!((byte_of('Ġ'), byte_of('Ċ'), byte_of('你')), (Some(b' '), Some(b'\n'), None));
    }

    #[test]
    fn a_broken_file_is_refused_with_a_reason() {
        let message = |json: &str| Tokenizer::from_bytes(json.as_bytes()).unwrap_err().to_string();
        assert_eq!(message("{"), "tokenizer.json: EOF while parsing an object at line 1 column 1");
        let model = r#""model":{"type":"BPE","vocab":{"a":0},"merges":[]}"#;
        let other = message(&format!(
            r#"{{"version":"1.0","added_tokens":[],{model},"decoder":{{"type":"Fuse"}}}}"#
        ));
        assert!(other.starts_with("tokenizer.json: decoder: found Some(Fuse"), "{other}");
    }
}
