//! Prompts of random tokens.

use fastrand::Rng;

/// Makes prompts that differ from each other in their first tokens already, so that no two of them
/// share a page of the cache.
#[derive(Debug, Clone)]
pub struct Prompts {
    random: Rng,
    made: u32,
    /// Ids from here on are not used.
    tokens: u32,
}

impl Prompts {
    /// For a tokenizer of `tokens` ids; the same prompts for the same seed.
    ///
    /// # Panics
    /// With less than two ids.
    pub fn new(tokens: usize, seed: u64) -> Self {
        assert!(tokens > 1, "ids to choose from");
        Prompts { random: Rng::with_seed(seed), made: 0, tokens: tokens as u32 }
    }

    /// The next prompt, of `length` ids.
    pub fn next(&mut self, length: usize) -> Vec<u32> {
        let mut prompt: Vec<u32> = (0..length).map(|_| self.random.u32(..self.tokens)).collect();
        // A number in as many digits as it takes stands in front.
        let mut number = self.made;
        for id in &mut prompt {
            *id = number % self.tokens;
            number /= self.tokens;
            if number == 0 {
                break;
            }
        }
        self.made += 1;
        prompt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_at_once_and_repeat_by_seed() {
        let three = |seed| {
            let mut prompts = Prompts::new(300, seed);
            [prompts.next(5), prompts.next(5), prompts.next(5)]
        };
        assert_eq!(three(1), three(1));
        assert_ne!(three(1)[0][1..], three(2)[0][1..]);
        let mut prompts = Prompts::new(300, 1);
        let mut begun = std::collections::HashSet::new();
        for _ in 0..400 {
            let prompt = prompts.next(8);
            assert!(prompt.iter().all(|id| *id < 300));
            assert!(begun.insert(prompt[..2].to_vec()));
        }
    }
}
