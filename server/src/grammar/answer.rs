//! One answer, token by token: where it is, and what may come next.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glm_runtime::{MaskState, TokenSet};
use llguidance::Matcher;

use super::vocabulary::{Allowed, Tokens};
use super::{Compiled, Shape};

/// Line ends that may come before what the grammar describes, and around calls.
const LINES: usize = 2;
/// Stages that drafts may be taken back over without the whole answer being read again.
const KEPT: usize = 8;
/// What a mask may take, and for how long the masks of an answer may take more in all: the limits
/// of the matcher do not hold for all that an ambiguous grammar has it do.
const QUICK: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_millis(500);

/// The state of an answer. It is a function of the tokens seen: where an answer goes on
/// differently, because drafts were dropped, it is taken back to where it differs.
pub(super) struct Answer {
    compiled: Arc<Compiled>,
    seen: Vec<u32>,
    /// The last parts of the answer, at least one.
    stages: Vec<Stage>,
    overtime: Duration,
}

/// A part of an answer.
struct Stage {
    /// Tokens that were seen when it began.
    start: usize,
    kind: Kind,
}

enum Kind {
    /// In a thought.
    Thought,
    /// Before anything of the grammar; so many line ends were skipped.
    Lead { lines: usize },
    /// In what the matcher is for.
    Body(Body),
    /// Before, between or after calls.
    Between { calls: usize },
    /// After a token that nothing allowed. It is a draft, and will be dropped.
    Lost,
}

struct Body {
    matcher: Box<Matcher>,
    /// Tokens that the matcher has read, and how many of them when the stage began.
    read: usize,
    read_before: usize,
}

impl MaskState for Answer {
    fn allowed(&mut self, output: &[u32], allowed: &mut TokenSet) -> Result<(), String> {
        if self.overtime > PATIENCE {
            return Err("the grammar is too ambiguous to be followed in time".into());
        }
        let start = Instant::now();
        self.follow(output);
        let result = self.add_allowed(allowed);
        self.overtime += start.elapsed().saturating_sub(QUICK);
        result
    }
}

impl Answer {
    pub(super) fn new(compiled: Arc<Compiled>) -> Self {
        let (seen, stages, overtime) = (Vec::new(), Vec::new(), Duration::ZERO);
        let mut answer = Answer { compiled, seen, stages, overtime };
        answer.restart();
        answer
    }

    fn restart(&mut self) {
        let thinking = self.compiled.thinking;
        self.seen.clear();
        self.stages.clear();
        match thinking.starts_inside && thinking.close.is_some() {
            true => self.begin(Kind::Thought),
            false => self.begin_answer(),
        }
    }

    fn begin(&mut self, kind: Kind) {
        self.stages.push(Stage { start: self.seen.len(), kind });
        let surplus = self.stages.len().saturating_sub(KEPT);
        self.stages.drain(..surplus);
    }

    /// Begins what comes outside of a thought.
    fn begin_answer(&mut self) {
        self.begin(match self.compiled.shape {
            Shape::Whole => Kind::Lead { lines: 0 },
            Shape::Calls { .. } => Kind::Between { calls: 0 },
        });
    }

    /// Goes back to what `output` and the tokens seen have in common, and reads the rest.
    fn follow(&mut self, output: &[u32]) {
        let same = self.seen.iter().zip(output).take_while(|(one, other)| one == other).count();
        if same < self.seen.len() && !self.go_back(same) {
            self.restart();
        }
        let unread = &output[self.seen.len()..];
        unread.iter().for_each(|token| self.read(*token));
    }

    /// Whether it was possible.
    fn go_back(&mut self, length: usize) -> bool {
        self.seen.truncate(length);
        while self.stages.last().is_some_and(|stage| stage.start > length) {
            self.stages.pop();
        }
        let Some(Stage { start, kind }) = self.stages.last_mut() else { return false };
        let Kind::Body(body) = kind else { return true };
        let left = body.read.min(body.read_before + length - *start);
        let surplus = body.read - left;
        body.read = left;
        body.matcher.rollback(surplus).is_ok()
    }

    fn read(&mut self, token: u32) {
        let next = self.next(token);
        self.seen.push(token);
        match next {
            Next::Stay => {}
            Next::Stage(kind) => self.begin(kind),
            Next::Answer => self.begin_answer(),
        }
    }

    /// What a token makes of the stage.
    fn next(&mut self, token: u32) -> Next {
        let compiled = self.compiled.clone();
        let tokens = &compiled.vocabulary;
        let thinking = compiled.thinking;
        let opens_thought = Some(token) == thinking.open && self.may_think();
        let Some(stage) = self.stages.last_mut() else { return Next::Stage(Kind::Lost) };
        match (&mut stage.kind, compiled.shape) {
            (Kind::Lost, _) => Next::Stay,
            (Kind::Thought, _) if Some(token) == thinking.close => Next::Answer,
            (Kind::Thought, Shape::Calls { open, .. }) if token == open => {
                Next::Stage(Kind::Body(Body::new(&compiled)))
            }
            (Kind::Thought, _) if !tokens.end_ids.contains(&token) => Next::Stay,
            (Kind::Lead { .. } | Kind::Between { .. } | Kind::Body(_), _) if opens_thought => {
                Next::Stage(Kind::Thought)
            }
            (Kind::Lead { lines }, _) => {
                let mut body = Body::new(&compiled);
                if body.reads(token, tokens) {
                    body.read_before = 1;
                    return Next::Stage(Kind::Body(body));
                }
                match *lines + tokens.line_ends(token) {
                    sum if sum > *lines && sum <= LINES => Next::Stage(Kind::Lead { lines: sum }),
                    _ => Next::Stage(Kind::Lost),
                }
            }
            (Kind::Body(body), shape) => match (body.reads(token, tokens), shape) {
                (false, _) => Next::Stage(Kind::Lost),
                (true, Shape::Calls { .. }) if body.matcher.is_stopped() => {
                    // Calls before this one count as one: there were some, that is all.
                    Next::Stage(Kind::Between { calls: 1 })
                }
                (true, _) => Next::Stay,
            },
            (Kind::Between { calls }, Shape::Calls { open, required, parallel }) => {
                if token == open && (*calls == 0 || parallel) {
                    return Next::Stage(Kind::Body(Body::new(&compiled)));
                }
                let lines = self.seen.len() - stage.start;
                let stays = match required {
                    true => tokens.line_ends(token) > 0 && lines < LINES,
                    false => tokens.text.contains(token),
                };
                if stays { Next::Stay } else { Next::Stage(Kind::Lost) }
            }
            (Kind::Thought | Kind::Between { .. }, _) => Next::Stage(Kind::Lost),
        }
    }

    /// Whether the model may open a thought: at the beginning, after white space at most.
    fn may_think(&self) -> bool {
        let thinking = self.compiled.thinking;
        !thinking.starts_inside
            && thinking.open.is_some()
            && thinking.close.is_some()
            && self.seen.len() <= LINES
            && self.seen.iter().all(|token| self.compiled.vocabulary.blank.contains(*token))
    }

    fn add_allowed(&mut self, allowed: &mut TokenSet) -> Result<(), String> {
        let compiled = self.compiled.clone();
        let tokens = &compiled.vocabulary;
        if self.may_think()
            && let Some(open) = compiled.thinking.open
        {
            allowed.insert(open);
        }
        let Some(stage) = self.stages.last_mut() else { return Ok(()) };
        match (&mut stage.kind, compiled.shape) {
            (Kind::Thought, _) => allowed.union_words(tokens.all.words()),
            (Kind::Lost, _) => {
                allowed.union_words(tokens.all.words());
                tokens.add_ends(allowed);
            }
            (Kind::Lead { lines }, _) => {
                compiled.first.add_to(allowed, tokens);
                let is_over = compiled.first.words.iter().all(|word| *word == 0);
                if !is_over {
                    tokens.add_lines(allowed, LINES.saturating_sub(*lines));
                }
            }
            (Kind::Body(body), _) if body.matcher.is_stopped() && !body.matcher.is_error() => {
                tokens.add_ends(allowed);
            }
            (Kind::Body(body), _) if body.read == 0 => compiled.first.add_to(allowed, tokens),
            (Kind::Body(body), _) => {
                Allowed::of(&mut body.matcher, tokens)?.add_to(allowed, tokens);
            }
            (Kind::Between { calls }, Shape::Calls { open, required, parallel }) => {
                let more = *calls == 0 || parallel;
                if more {
                    allowed.insert(open);
                }
                if *calls > 0 || !required {
                    tokens.add_ends(allowed);
                }
                match required {
                    false => allowed.union_words(tokens.text.words()),
                    true if more => {
                        let lines = self.seen.len() - stage.start;
                        tokens.add_lines(allowed, LINES.saturating_sub(lines));
                    }
                    true => {}
                }
            }
            (Kind::Between { .. }, Shape::Whole) => {}
        }
        Ok(())
    }
}

/// What a token leads to.
enum Next {
    Stay,
    Stage(Kind),
    /// What comes after a thought.
    Answer,
}

impl Body {
    fn new(compiled: &Compiled) -> Self {
        // What its lexer learns stays the answer's own, and so does what breaks it.
        let matcher = Box::new(compiled.matcher.deep_clone());
        Body { matcher, read: 0, read_before: 0 }
    }

    /// Reads a token if the grammar allows it. An end is never part of a grammar.
    fn reads(&mut self, token: u32, tokens: &Tokens) -> bool {
        // The matcher breaks at ids that it does not know.
        let known = (token as usize) < tokens.count && !tokens.end_ids.contains(&token);
        let reads = known && self.matcher.try_consume_tokens(&[token]).is_ok_and(|read| read == 1);
        self.read += usize::from(reads);
        reads
    }
}

impl Allowed {
    /// What a matcher that is not stopped allows.
    ///
    /// # Errors
    /// That a limit was hit, or that no token fits what the grammar wants next.
    pub(super) fn of(matcher: &mut Matcher, tokens: &Tokens) -> Result<Self, String> {
        let short = |error: &str| match error.lines().next().unwrap_or_default() {
            "NoExtensionBias" => "no token fits what the grammar wants next".to_owned(),
            line => line.to_owned(),
        };
        let mask = matcher.compute_mask().map_err(|error| short(&error.to_string()))?;
        let complete = matcher.is_accepting().map_err(|error| short(&error.to_string()))?;
        let mut words = mask.as_slice().to_vec();
        // Grammars may name special tokens, but ends are allowed where they are complete only.
        words.iter_mut().zip(tokens.all.words()).for_each(|(word, all)| *word &= all);
        Ok(Allowed { words, complete })
    }

    fn add_to(&self, allowed: &mut TokenSet, tokens: &Tokens) {
        allowed.union_words(&self.words);
        if self.complete {
            tokens.add_ends(allowed);
        }
    }
}

impl Tokens {
    fn add_ends(&self, allowed: &mut TokenSet) {
        self.end_ids.iter().for_each(|id| allowed.insert(*id));
    }

    /// Adds tokens of at most so many line ends.
    fn add_lines(&self, allowed: &mut TokenSet, most: usize) {
        self.lines.iter().take(most).flatten().for_each(|id| allowed.insert(*id));
    }

    /// Line ends of a token that is nothing else, if there are few enough.
    fn line_ends(&self, token: u32) -> usize {
        self.lines.iter().position(|ids| ids.contains(&token)).map_or(0, |index| index + 1)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("tokens", &self.seen.len()).finish_non_exhaustive()
    }
}
