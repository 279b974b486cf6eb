//! The tokens as bytes, and sets of them that do not depend on a grammar.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use glm_models::chat::GLM4;
use glm_runtime::TokenSet;
use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use super::{Format, Grammar, GrammarError, Thinking, compile};

/// The tokens of a model, made ready for masks. Clones share them.
#[derive(Clone)]
pub(crate) struct Vocabulary {
    pub(super) tokens: Arc<Tokens>,
    pub(super) factory: Arc<ParserFactory>,
    specials: Arc<HashMap<String, u32>>,
}

/// What masks have to know of the tokens.
pub(super) struct Tokens {
    /// How many there are.
    pub(super) count: usize,
    pub(super) end_ids: Vec<u32>,
    /// Everything that has bytes, but the ends.
    pub(super) all: TokenSet,
    /// Of these, everything but the tags of thoughts and calls.
    pub(super) text: TokenSet,
    /// Tokens of one and of two line ends.
    pub(super) lines: [Vec<u32>; 2],
    /// Tokens of white space.
    pub(super) blank: TokenSet,
}

/// What may come next.
#[derive(Debug, Clone)]
pub(super) struct Allowed {
    /// Sets of ids, as [`TokenSet::words`] has them, without the ends.
    pub(super) words: Vec<u32>,
    /// Whether the answer may end.
    pub(super) complete: bool,
}

/// Within these, a mask takes at most some 20 ms and a grammar at most some 100 MB.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 1_000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000,
    max_grammar_size: 200_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// Tags that no text may hold where calls are expected.
pub(super) const TAGS: [&str; 8] = GLM4.tags();

impl Vocabulary {
    /// Of the bytes of each token, empty where an id has none; of the names and ids of those that
    /// are no text (tags and marks of roles); and of the ids that end an answer. Ids past the bytes
    /// are never allowed.
    ///
    /// # Errors
    /// No end among the tokens, or more tokens than a tree of them can hold.
    pub(crate) fn new(
        mut tokens: Vec<Vec<u8>>,
        specials: &[(String, u32)],
        end_ids: &[u32],
    ) -> Result<Self, GrammarError> {
        // What the tree of tokens has bits for.
        const MOST: usize = 2_000_000;
        const LONGEST: usize = 1024;
        let count = tokens.len();
        if count > MOST || tokens.iter().any(|token| token.len() > LONGEST) {
            let what = format!("vocabulary: at most {MOST} tokens of at most {LONGEST} bytes");
            return Err(GrammarError::new(what));
        }
        let end_ids: Vec<u32> =
            end_ids.iter().copied().filter(|id| (*id as usize) < count).collect();
        if end_ids.is_empty() {
            return Err(GrammarError::new("vocabulary: no end token is among the tokens"));
        }
        let known = |id: &u32| (*id as usize) < count;
        let specials: HashMap<String, u32> =
            specials.iter().filter(|(_, id)| known(id)).cloned().collect();
        let mut all = TokenSet::new(count);
        let mut blank = TokenSet::new(count);
        let mut lines = [Vec::new(), Vec::new()];
        let named: Vec<u32> = specials.values().chain(&end_ids).copied().collect();
        let mut is_special = TokenSet::new(count);
        named.iter().for_each(|id| is_special.insert(*id));
        for (id, token) in (0..).zip(&mut tokens) {
            if token.is_empty() {
                continue;
            }
            all.insert(id);
            if is_special.contains(id) {
                continue;
            }
            if token.iter().all(u8::is_ascii_whitespace) {
                blank.insert(id);
            }
            match token.as_slice() {
                b"\n" => lines[0].push(id),
                b"\n\n" => lines[1].push(id),
                // It would be taken for a special token; no UTF-8 begins like this.
                [TokTrie::SPECIAL_TOKEN_MARKER, _, ..] => token.clear(),
                _ => {}
            }
        }
        for id in &named {
            let name = specials.iter().find(|(_, other)| *other == id).map(|(name, _)| name);
            let token = &mut tokens[*id as usize];
            let name = name.map_or_else(|| format!("<[{id}]>"), Clone::clone);
            *token = [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat();
        }
        end_ids.iter().for_each(|id| all.remove(*id));
        let mut text = all.clone();
        TAGS.iter().filter_map(|tag| specials.get(*tag)).for_each(|id| text.remove(*id));

        let info = TokRxInfo::new(count as u32, end_ids[0]);
        let trie = TokTrie::from(&info, &tokens).with_eos_tokens(&end_ids);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let capabilities = InferenceCapabilities::default();
        let mut factory = ParserFactory::new(&environment, capabilities, &slices)
            .map_err(|error| GrammarError::new(format!("vocabulary: {error}")))?;
        *factory.limits_mut() = LIMITS;
        factory.quiet();
        Ok(Vocabulary {
            tokens: Arc::new(Tokens { count, end_ids, all, text, lines, blank }),
            factory: Arc::new(factory),
            specials: Arc::new(specials),
        })
    }

    /// The grammar of a format. Takes milliseconds, or some hundreds of them for what is large: not
    /// for threads that others wait for.
    ///
    /// # Errors
    /// What is wrong with the format, or that it is past a limit.
    pub(crate) fn compile(
        &self,
        format: &Format,
        thinking: Thinking,
    ) -> Result<Grammar, GrammarError> {
        compile::compile(self, format, thinking)
    }

    /// Id of a special token.
    pub(super) fn special(&self, name: &str) -> Result<u32, GrammarError> {
        let id = self.specials.get(name).copied();
        id.ok_or_else(|| GrammarError::new(format!("the tokenizer has no token {name}")))
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("tokens", &self.tokens.count).finish_non_exhaustive()
    }
}
