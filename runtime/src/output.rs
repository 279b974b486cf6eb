//! The text of an answer while it grows: whole characters, and nothing of a stop text.

use crate::text::{Detokenizer, TextError, Tokenizer};

/// Turns generated ids into text that can be shown.
#[derive(Debug)]
pub(crate) struct Output {
    detokenizer: Detokenizer,
    stops: Vec<String>,
    /// All text that was let out.
    text: String,
    /// Text that may be the beginning of a stop text.
    held: String,
    /// The stop text that was met.
    met: Option<String>,
}

impl Output {
    /// An empty answer that ends before any of `stops`.
    pub(crate) fn new(tokenizer: &Tokenizer, stops: &[String]) -> Self {
        Output {
            detokenizer: Detokenizer::new(tokenizer),
            stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
            text: String::new(),
            held: String::new(),
            met: None,
        }
    }

    /// The stop text that ended the answer.
    pub(crate) fn stop_text(&self) -> Option<&str> {
        self.met.as_deref()
    }

    /// Adds a token; returns the text that became certain and whether a stop text was met.
    pub(crate) fn push(&mut self, id: u32) -> Result<(&str, bool), TextError> {
        let new = self.detokenizer.push(id)?;
        Ok(self.add(&new))
    }

    /// Lets out what was held back; returns it.
    pub(crate) fn finish(&mut self) -> &str {
        let rest = self.detokenizer.finish();
        let start = self.text.len();
        let (_, stopped) = self.add(&rest);
        if !stopped {
            self.text.push_str(&std::mem::take(&mut self.held));
        }
        &self.text[start..]
    }

    fn add(&mut self, new: &str) -> (&str, bool) {
        let start = self.text.len();
        self.held.push_str(new);
        let found = |stop: &String| Some((self.held.find(stop.as_str())?, stop.clone()));
        let (met, stop) = self.stops.iter().filter_map(found).min().unzip();
        let certain = met.unwrap_or_else(|| self.held.len() - self.beginning_of_a_stop());
        self.text.push_str(&self.held[..certain]);
        match met {
            Some(_) => {
                self.held.clear();
                self.met = stop;
            }
            None => drop(self.held.drain(..certain)),
        }
        (&self.text[start..], met.is_some())
    }

    /// Length of the longest end of the held text that a stop text begins with.
    fn beginning_of_a_stop(&self) -> usize {
        let held = &self.held;
        let starts = held.char_indices().map(|(at, _)| at);
        starts
            .filter(|at| self.stops.iter().any(|stop| stop.starts_with(&held[*at..])))
            .map(|at| held.len() - at)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer with one token per ASCII character of the tests.
    fn tokenizer() -> Tokenizer {
        let vocab: Vec<String> =
            ('a'..='z').enumerate().map(|(i, c)| format!("\"{c}\":{i}")).collect();
        let json = format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}},
            "post_processor":null,"decoder":{{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}},
            "model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
            "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{{{}}},"merges":[]}}}}"#,
            vocab.join(",")
        );
        Tokenizer::from_bytes(json.as_bytes()).unwrap()
    }

    /// Pushes letter by letter; returns what came out at each push, the text, and whether it stopped.
    fn stream(letters: &str, stops: &[&str]) -> (Vec<String>, String, bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut output = Output::new(&tokenizer(), &stops);
        let mut pieces = Vec::new();
        for letter in letters.bytes() {
            let (piece, stopped) = output.push(u32::from(letter - b'a')).unwrap();
            pieces.push(piece.to_owned());
            if stopped {
                return (pieces, output.text, true);
            }
        }
        pieces.push(output.finish().to_owned());
        (pieces, output.text, false)
    }

    #[test]
    fn a_stop_text_is_cut_and_its_beginning_held_back() {
        let (pieces, text, stopped) = stream("abcdxyz", &["cdx"]);
        assert_eq!(pieces, ["a", "b", "", "", ""]);
        assert_eq!((text.as_str(), stopped), ("ab", true));
    }

    #[test]
    fn a_false_beginning_comes_out_later() {
        let (pieces, text, stopped) = stream("ababc", &["abz", "bq"]);
        assert_eq!(pieces, ["", "", "ab", "", "abc", ""]);
        assert_eq!((text.as_str(), stopped), ("ababc", false));
    }

    #[test]
    fn the_end_lets_out_what_was_held() {
        let (_, text, stopped) = stream("xab", &["abc"]);
        assert_eq!((text.as_str(), stopped), ("xab", false));
    }

    #[test]
    fn the_earliest_of_several_stop_texts_counts() {
        let (_, text, stopped) = stream("abcd", &["d", "bc"]);
        assert_eq!((text.as_str(), stopped), ("a", true));
        let mut output = Output::new(&tokenizer(), &["c".into(), "bc".into()]);
        for letter in 0..3 {
            output.push(letter).unwrap();
        }
        assert_eq!(output.stop_text(), Some("bc"));
    }
}
