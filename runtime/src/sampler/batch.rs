//! The rows of a step: what the host knows of them, packed into two uploads.

use burn::tensor::{DType, Device, Int, Tensor};
use glm_backends::ops::{Draw, NEVER, Penalties};

use super::{SampledShare, Slot, Uploads, random};
use crate::request::SamplingParams;
use crate::step::RowMask;

/// All rows of a step: `width` for each sequence, of which there may be more than shares.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    shares: Vec<(&'a SampledShare<'a>, &'a Slot)>,
    sequences: usize,
    width: usize,
}

/// A row that is sampled.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    share: &'a SampledShare<'a>,
    slot: &'a Slot,
    mask: &'a RowMask,
}

impl Row<'_> {
    fn params(&self) -> &SamplingParams {
        &self.slot.params
    }

    /// `used` where the row is drawn, else `off`.
    fn drawn(&self, used: f32, off: f32) -> f32 {
        if self.params().temperature > 0.0 { used } else { off }
    }

    /// What is added to single logits.
    fn bias(&self) -> impl Iterator<Item = (u32, f32)> {
        let banned = match self.mask {
            RowMask::Ban(ids) => ids.as_slice(),
            _ => &[],
        };
        self.slot.bias.iter().copied().chain(banned.iter().map(|id| (*id, NEVER)))
    }
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        slots: &'a [Slot],
        shares: &'a [SampledShare<'a>],
        [sequences, width]: [usize; 2],
    ) -> Self {
        assert!(shares.len() <= sequences, "as many sequences of logits as shares");
        assert!(shares.iter().all(|share| share.drafts < width), "a row for each draft");
        let shares = shares.iter().map(|share| (share, &slots[share.slot as usize])).collect();
        Batch { shares, sequences, width }
    }

    pub(super) fn sequences(&self) -> usize {
        self.sequences
    }

    pub(super) fn asks_logprobs(&self) -> bool {
        self.shares.iter().any(|(share, _)| share.logprobs.is_some())
    }

    /// For each share how many rows of log-probabilities it asked for, and how many of the most
    /// probable tokens.
    pub(super) fn rows_and_tops(&self) -> Vec<(usize, usize)> {
        let of_share = |share: &SampledShare<'_>| match share.logprobs {
            Some(top) => (1 + share.drafts, top),
            None => (0, 0),
        };
        self.shares.iter().map(|(share, _)| of_share(share)).collect()
    }

    /// All rows in order; `None` for padding.
    fn rows(&self) -> impl Iterator<Item = Option<Row<'_>>> {
        (0..self.sequences * self.width).map(|row| {
            let (share, slot) = *self.shares.get(row / self.width)?;
            let row = row % self.width;
            let mask = share.masks.get(row).unwrap_or(&RowMask::Free);
            (row <= share.drafts).then_some(Row { share, slot, mask })
        })
    }

    /// A value for each row; `None` where it is `off` for all of them, as it is for padding.
    fn column<T: PartialEq + Copy>(&self, off: T, value: impl Fn(Row<'_>) -> T) -> Option<Vec<T>> {
        let values: Vec<T> = self.rows().map(|row| row.map_or(off, &value)).collect();
        values.iter().any(|value| *value != off).then_some(values)
    }

    /// A value for each sequence, `off` for padding.
    fn each(&self, off: i32, value: impl Fn(&SampledShare<'_>, &Slot) -> i32) -> Vec<i32> {
        let values = self.shares.iter().map(|(share, slot)| value(share, slot));
        values.chain(std::iter::repeat(off)).take(self.sequences).collect()
    }

    /// Sends what the device has to know, as far as some row needs it.
    pub(super) fn upload(&self, uploads: &mut Uploads, vocab_size: usize, device: &Device) -> Plan {
        let mut floats = Pack(Vec::new());
        let mut ints = Pack(Vec::new());
        let penalises = self.shares.iter().any(|(_, slot)| slot.params.penalises());
        let drawn = self.shares.iter().any(|(_, slot)| slot.params.temperature > 0.0);
        let drafts = self.shares.iter().any(|(share, _)| share.drafts > 0);
        let bias = self.bias();
        let uniforms = drawn.then(|| self.uniforms());
        let further = uniforms.as_ref().filter(|(_, reach)| *reach > self.width);

        let parts = Parts {
            repetition: floats.add(self.column(1.0, |row| row.params().repetition_penalty)),
            presence: floats.add(self.column(0.0, |row| row.params().presence_penalty)),
            frequency: floats.add(self.column(0.0, |row| row.params().frequency_penalty)),
            temperature: floats.add(drawn.then(|| {
                let temperature = |row: Row<'_>| row.drawn(row.params().temperature, 1.0);
                self.rows().map(|row| row.map_or(1.0, temperature)).collect()
            })),
            greedy: floats.add(self.column(0.0, |row| row.drawn(0.0, 1.0)).filter(|_| drawn)),
            top_k: floats.add(self.column(f32::MAX, |row| match row.params().top_k {
                0 => f32::MAX,
                top_k => row.drawn(top_k as f32, f32::MAX),
            })),
            top_p: floats.add(self.column(2.0, |row| match row.params().top_p {
                1.0.. => 2.0,
                top_p => row.drawn(top_p, 2.0),
            })),
            min_p: floats.add(self.column(0.0, |row| row.drawn(row.params().min_p, 0.0))),
            slots: ints.add(penalises.then(|| {
                self.rows().map(|row| row.map_or(0, |row| row.share.slot as i32)).collect()
            })),
            further: ints.add(further.map(|_| self.each(0, |share, _| i32::from(share.shifted)))),
            uniforms: floats.add(uniforms.map(|(values, _)| values)),
            bias_ids: ints.add(bias.as_ref().map(|(ids, _)| ids.clone())),
            bias: floats.add(bias.map(|(_, values)| values)),
            forced: ints.add(self.column(-1, |row| match row.mask {
                RowMask::Force(id) => *id as i32,
                _ => -1,
            })),
            allowed: ints.add(self.allowed(vocab_size)),
            logprob_rows: ints.add(self.logprob_rows()),
            drafts: ints.add(drafts.then(|| self.each(0, |share, _| share.drafts as i32))),
            starts: ints.add(
                penalises
                    .then(|| self.each(0, |share, _| (share.slot as usize * vocab_size) as i32)),
            ),
            counted: ints.add(penalises.then(|| self.each(-1, |_, _| 0))),
        };
        Plan {
            floats: (!floats.0.is_empty()).then(|| uploads.floats(floats.0, device)),
            ints: (!ints.0.is_empty()).then(|| uploads.ints(ints.0, device)),
            parts,
            sequences: self.sequences,
            width: self.width,
            vocab_size,
        }
    }

    /// For each sequence the random numbers of all places that its rows may have, and how many
    /// these are.
    fn uniforms(&self) -> (Vec<f32>, usize) {
        let shifts =
            self.shares.iter().map(|(share, slot)| if share.shifted { slot.drafts } else { 0 });
        let reach = self.width + shifts.max().unwrap_or(0);
        let place = |index: usize| {
            let Some((share, slot)) = self.shares.get(index / reach) else { return 0.5 };
            random::unit(slot.seed, share.output_index + index % reach)
        };
        ((0..self.sequences * reach).map(place).collect(), reach)
    }

    /// Ids and what is added to their logits, as many for each row: few lengths, so that the device
    /// sees few shapes. Adding 0 to the first id fills up.
    fn bias(&self) -> Option<(Vec<i32>, Vec<f32>)> {
        let most = self.rows().flatten().map(|row| row.bias().count()).max().unwrap_or(0);
        let width = most.next_power_of_two();
        (most > 0).then(|| {
            self.rows()
                .flat_map(|row| {
                    let bias = row.into_iter().flat_map(|row| row.bias().collect::<Vec<_>>());
                    bias.chain(std::iter::repeat((0, 0.0))).take(width)
                })
                .map(|(id, value)| (id as i32, value))
                .unzip()
        })
    }

    /// A bit for each id that is allowed, where some row has a set.
    fn allowed(&self, vocab_size: usize) -> Option<Vec<i32>> {
        let width = vocab_size.div_ceil(32);
        let sets = self.rows().map(|row| match row?.mask {
            RowMask::Allow(set) => Some(set.words()),
            _ => None,
        });
        let sets: Vec<Option<&[u32]>> = sets.collect();
        sets.iter().any(Option::is_some).then(|| {
            let mut words = Vec::with_capacity(sets.len() * width);
            for (row, set) in sets.into_iter().enumerate() {
                match set {
                    None => words.resize((row + 1) * width, -1),
                    Some(set) => {
                        words.extend(set.iter().take(width).map(|word| word.cast_signed()));
                        words.resize((row + 1) * width, 0);
                    }
                }
            }
            words
        })
    }

    /// The rows whose log-probabilities are asked for; `None` where that is all or none.
    fn logprob_rows(&self) -> Option<Vec<i32>> {
        let asks = |row: Option<Row<'_>>| row.is_some_and(|row| row.share.logprobs.is_some());
        let rows: Vec<i32> =
            self.rows().zip(0..).filter(|(row, _)| asks(*row)).map(|(_, index)| index).collect();
        let some = !rows.is_empty() && rows.len() < self.sequences * self.width;
        some.then_some(rows)
    }
}

/// Values on their way to the device.
struct Pack<T>(Vec<T>);

impl<T> Pack<T> {
    fn add(&mut self, part: Option<Vec<T>>) -> Option<Part> {
        let part = part?;
        let start = self.0.len();
        self.0.extend(part);
        Some(Part { start, length: self.0.len() - start })
    }
}

/// A part of what was uploaded.
#[derive(Debug, Clone, Copy)]
struct Part {
    start: usize,
    length: usize,
}

/// Where everything lies in the two uploads; what no row needs is `None`.
#[derive(Debug)]
struct Parts {
    repetition: Option<Part>,
    presence: Option<Part>,
    frequency: Option<Part>,
    temperature: Option<Part>,
    greedy: Option<Part>,
    top_k: Option<Part>,
    top_p: Option<Part>,
    min_p: Option<Part>,
    slots: Option<Part>,
    /// 1 for sequences that are shifted.
    further: Option<Part>,
    uniforms: Option<Part>,
    bias_ids: Option<Part>,
    bias: Option<Part>,
    forced: Option<Part>,
    allowed: Option<Part>,
    logprob_rows: Option<Part>,
    drafts: Option<Part>,
    /// First place of each sequence's row in the flat `seen`.
    starts: Option<Part>,
    /// 0 for sequences, -1 for padding.
    counted: Option<Part>,
}

/// What the device knows of a step.
#[derive(Debug)]
pub(super) struct Plan {
    floats: Option<Tensor<1>>,
    ints: Option<Tensor<1, Int>>,
    parts: Parts,
    sequences: usize,
    width: usize,
    vocab_size: usize,
}

/// How the tokens of all rows are chosen.
#[expect(clippy::large_enum_variant, reason = "one a step")]
pub(super) enum Choice {
    Best,
    Draw(Draw),
}

impl Plan {
    fn floats(&self, part: Option<Part>) -> Option<Tensor<1>> {
        Some(self.floats.clone()?.narrow(0, part?.start, part?.length))
    }

    fn ints(&self, part: Option<Part>) -> Option<Tensor<1, Int>> {
        Some(self.ints.clone()?.narrow(0, part?.start, part?.length))
    }

    pub(super) fn penalises(&self) -> bool {
        self.parts.slots.is_some()
    }

    pub(super) fn penalties(&self, seen: Tensor<2>, drafts: Option<Tensor<2, Int>>) -> Penalties {
        Penalties {
            repetition: self.floats(self.parts.repetition),
            presence: self.floats(self.parts.presence),
            frequency: self.floats(self.parts.frequency),
            seen,
            slots: self.ints(self.parts.slots).expect("some row has penalties"),
            drafts,
        }
    }

    /// Ids and what is added to their logits, `[rows, _]`.
    pub(super) fn bias(&self) -> Option<(Tensor<2, Int>, Tensor<2>)> {
        let rows = self.sequences * self.width;
        let ids = self.ints(self.parts.bias_ids)?.reshape([rows as i64, -1]);
        Some((ids, self.floats(self.parts.bias)?.reshape([rows as i64, -1])))
    }

    /// The sets of allowed tokens, `[rows, words]`.
    pub(super) fn allowed(&self) -> Option<Tensor<2, Int>> {
        Some(self.ints(self.parts.allowed)?.reshape([(self.sequences * self.width) as i64, -1]))
    }

    /// The forced token of each row, -1 where none is, `[rows]`.
    pub(super) fn forced(&self) -> Option<Tensor<1, Int>> {
        self.ints(self.parts.forced)
    }

    /// The rows whose log-probabilities are asked for; `None` where that is all.
    pub(super) fn rows_with_logprobs(&self) -> Option<Tensor<1, Int>> {
        self.ints(self.parts.logprob_rows)
    }

    /// Drafts of each sequence, `[sequences]`.
    pub(super) fn drafts(&self) -> Tensor<1, Int> {
        self.ints(self.parts.drafts).expect("some share has drafts")
    }

    pub(super) fn choice(&self, shift: Option<Tensor<1, Int>>) -> Choice {
        let Some(temperature) = self.floats(self.parts.temperature) else { return Choice::Best };
        Choice::Draw(Draw {
            temperature,
            greedy: self.floats(self.parts.greedy),
            top_k: self.floats(self.parts.top_k),
            top_p: self.floats(self.parts.top_p),
            min_p: self.floats(self.parts.min_p),
            uniform: self.uniform(shift),
        })
    }

    /// The random number of each row, `[rows]`.
    fn uniform(&self, shift: Option<Tensor<1, Int>>) -> Tensor<1> {
        let numbers = self.floats(self.parts.uniforms).expect("some row is drawn");
        let Some(further) = self.ints(self.parts.further) else { return numbers };
        let shift = shift.expect("shifted shares come with their shift") * further;
        let places = shift.unsqueeze_dim::<2>(1) + self.row_index(&numbers.device());
        numbers.reshape([self.sequences as i64, -1]).gather(1, places).reshape([-1])
    }

    /// Index of a row in its sequence, `[1, width]`.
    fn row_index(&self, device: &Device) -> Tensor<2, Int> {
        Tensor::<1, Int>::arange(0..self.width as i64, device).unsqueeze()
    }

    /// What is added to [`Penalties::seen`], as a list of places and counts: `ids [sequences,
    /// width]` up to the row after the `accepted [sequences]` drafts.
    pub(super) fn occurrences(
        &self,
        ids: &Tensor<2, Int>,
        accepted: &Tensor<1, Int>,
    ) -> (Tensor<1, Int>, Tensor<1>) {
        let shape = ids.dims();
        let part = |part| self.ints(part).expect("some row has penalties").unsqueeze_dim::<2>(1);
        let starts: Tensor<2, Int> = part(self.parts.starts);
        let limit = self.vocab_size as i64;
        // Padding has no row at all: -1 with nothing accepted stands before the first.
        let last = part(self.parts.counted) * limit + accepted.clone().unsqueeze_dim::<2>(1);
        let kept = self.row_index(&ids.device()).expand(shape).lower_equal(last.expand(shape));
        let kept = kept.bool_and(ids.clone().lower_elem(limit));
        let places = ids.clone().clamp_max(limit - 1) + starts;
        (places.reshape([-1]), kept.float().cast(DType::F32).reshape([-1]))
    }
}
