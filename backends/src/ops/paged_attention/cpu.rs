//! Attention on the CPU: pages are read in place, and a token reads its own sequence only.
//!
//! Each token and head is computed by itself, in an order that depends on its position and on
//! nothing else of the step: what shares a batch, a chunk or a thread with it cannot change its
//! bits.
#![expect(unsafe_code, reason = "threads write to places of their own")]

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};

use crate::cpu::{Isa, LANES, Next, Queries, Seen, Shared, State, TILE, Tile, in_pieces};
use crate::kv::{KvLayer, PageTables, Parts};
use crate::ops::flex::{Cached, HeldRows, integers};

/// Most tokens that share a tile.
const BLOCK: usize = 16;
/// Rows whose sums are kept by themselves and put together at the end, so that threads can share a
/// sequence and the numbers do not depend on whether they do.
const SPAN: usize = 512;
/// Multiply-adds from which a second thread pays.
const PARALLEL: usize = 1 << 19;

/// What [`PageTables`] hold, as tensors of a backend.
#[derive(Debug, ExtensionType)]
pub(crate) struct Tables<B: Backend> {
    sequences: IntTensor<B>,
    positions: IntTensor<B>,
    block_tables: IntTensor<B>,
    query_starts: IntTensor<B>,
}

/// Constants of an attention layer.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    pub(crate) kv_heads: usize,
    /// Parts of a cached row.
    pub(crate) parts: Vec<Parts>,
    /// Values of a result: with no values in the cache, the first ones of a key.
    pub(crate) value_width: usize,
    pub(crate) page_size: usize,
    pub(crate) scale: f32,
}

/// Attention as Flex has it.
#[backend_extension(Flex)]
pub(crate) trait PagedAttention: Backend {
    /// `q [tokens, heads, width]` in f32 → `[tokens, heads, width]` in f32.
    fn attend_to_pages(
        q: FloatTensor<Self>,
        #[extension_type] keys: HeldRows<Self>,
        #[extension_type] values: HeldRows<Self>,
        #[extension_type] tables: Tables<Self>,
        form: Form,
    ) -> FloatTensor<Self>;
}

impl PagedAttention for Flex {
    fn attend_to_pages(
        q: FloatTensor<Self>,
        keys: HeldRows<Self>,
        values: HeldRows<Self>,
        tables: Tables<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        let isa = Isa::current();
        let [keys, values] =
            [&keys, &values].map(|rows| Cached::new(isa, rows, &form.parts, form.kv_heads));
        let q = q.to_contiguous();
        let [tokens, heads, _] = q.layout().shape().dims();
        let places = Places::new(&tables, form.page_size);
        let mut out = vec![0.0; tokens * heads * form.value_width];
        let q = q.as_slice().expect("contiguous");
        over_rows(isa, q, heads, [&keys, &values], &places, &form, &mut out);
        FloatTensor::<Flex>::from_data(TensorData::new(out, [tokens, heads, form.value_width]))
    }
}

pub(super) fn paged_attention(
    q: Tensor<3>,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    let [_, _, width] = q.dims();
    let kv_heads = layer.keys().width() / width;
    let form = Form {
        kv_heads,
        parts: vec![Parts { count: kv_heads, width }],
        value_width: width,
        page_size,
        scale: scale as f32,
    };
    let dtype = q.dtype();
    let q = q.cast(DType::F32).into_dispatch();
    let (keys, values) = (layer.keys().into(), layer.values().into());
    let out = Dispatch::attend_to_pages(q, keys, values, tables.into(), form);
    Tensor::<3>::from_dispatch(out).cast(dtype)
}

impl From<&PageTables> for Tables<Dispatch> {
    fn from(tables: &PageTables) -> Self {
        Tables {
            sequences: tables.sequences.clone().into_dispatch(),
            positions: tables.positions.clone().into_dispatch(),
            block_tables: tables.block_tables.clone().into_dispatch(),
            query_starts: tables.query_starts.clone().into_dispatch(),
        }
    }
}

/// Where the rows of a step's sequences are.
#[derive(Debug)]
pub(crate) struct Places {
    sequences: Vec<usize>,
    positions: Vec<usize>,
    /// `[sequences, pages]`
    block_tables: Vec<usize>,
    pages: usize,
    page_size: usize,
}

impl Places {
    pub(crate) fn new(tables: &Tables<Flex>, page_size: usize) -> Self {
        let [_, pages] = tables.block_tables.layout().shape().dims();
        let (mut sequences, mut positions) =
            (integers(&tables.sequences), integers(&tables.positions));
        // Rows after the last sequence are padding.
        let live = integers(&tables.query_starts).last().copied().unwrap_or(0);
        sequences.truncate(live);
        positions.truncate(live);
        let block_tables = integers(&tables.block_tables);
        Places { sequences, positions, block_tables, pages, page_size }
    }

    pub(crate) fn page_size(&self) -> usize {
        self.page_size
    }

    /// Position of each token.
    pub(crate) fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Slot of a row of a sequence.
    pub(crate) fn slot(&self, sequence: usize, row: usize) -> usize {
        let (page, offset) = (row / self.page_size, row % self.page_size);
        self.block_tables[sequence * self.pages + page] * self.page_size + offset
    }

    /// Whether the rows from `first` on lie one after the other.
    fn are_neighbours(&self, first: usize, rows: usize) -> bool {
        first % self.page_size + rows <= self.page_size
    }

    /// Neighbouring tokens of one sequence, at most so many at a time, and the sequence.
    pub(crate) fn blocks(&self, most: usize) -> Vec<(Range<usize>, usize)> {
        let mut blocks: Vec<(Range<usize>, usize)> = Vec::new();
        for (token, sequence) in self.sequences.iter().enumerate() {
            match blocks.last_mut() {
                Some((last, of)) if last.len() < most && of == sequence => last.end = token + 1,
                _ => blocks.push((token..token + 1, *sequence)),
            }
        }
        blocks
    }

    /// Rows that some tokens see between them.
    pub(crate) fn rows(&self, tokens: &Range<usize>) -> usize {
        self.positions[tokens.clone()].iter().max().map_or(0, |position| position + 1)
    }
}

/// Attention to cached rows: `q [tokens, heads, width]` → `out [tokens, heads, value_width]`.
pub(crate) fn over_rows(
    isa: Isa,
    q: &[f32],
    heads: usize,
    [keys, values]: [&Cached<'_>; 2],
    places: &Places,
    form: &Form,
    out: &mut [f32],
) {
    let width =
        form.parts.iter().map(|part| part.count * part.width).sum::<usize>() / form.kv_heads;
    let group = heads / form.kv_heads;
    let step = Step { isa, q, keys, values, places, heads, group, width, form };
    let blocks = places.blocks((BLOCK / group).max(1).max(BLOCK / 2));
    let items: Vec<Item> = (blocks.into_iter())
        .map(|(tokens, sequence)| Item { rows: places.rows(&tokens), tokens, sequence })
        .collect();
    let work: usize = items.iter().map(|item| step.multiply_adds(item)).sum();
    let threads = rayon::current_num_threads();
    let out = Shared::new(out);
    if work < PARALLEL || items.len() >= 4 * threads {
        in_pieces(items.len(), work >= PARALLEL, |index| {
            let item = &items[index];
            let queries = step.queries(item);
            let mut states: Option<Vec<State>> = None;
            for first in (0..item.rows).step_by(SPAN) {
                let later = step.span(item, &queries, first);
                match &mut states {
                    None => states = Some(later),
                    Some(states) => merge(states, &later),
                }
            }
            step.write(item, &states.unwrap_or_default(), out);
        });
        return;
    }

    // Few items: threads take parts of their rows.
    let queries: Vec<Vec<Queries>> = items.iter().map(|item| step.queries(item)).collect();
    let spans: Vec<(usize, usize)> = (items.iter().enumerate())
        .flat_map(|(index, item)| (0..item.rows).step_by(SPAN).map(move |first| (index, first)))
        .collect();
    let mut states: Vec<Vec<State>> = spans.iter().map(|_| Vec::new()).collect();
    let shared = Shared::new(&mut states);
    in_pieces(spans.len(), true, |piece| {
        let (index, first) = spans[piece];
        let states = step.span(&items[index], &queries[index], first);
        // SAFETY: each piece has a place of its own.
        let place = unsafe { shared.part(piece, 1) };
        place[0] = states;
    });
    let mut states = spans.iter().zip(states).peekable();
    while let Some(((index, _), mut first)) = states.next() {
        while let Some((_, later)) = states.next_if(|((next, _), _)| next == index) {
            merge(&mut first, &later);
        }
        step.write(&items[*index], &first, out);
    }
}

/// Adds what the queries of each KV head have seen later.
fn merge(states: &mut [State], later: &[State]) {
    for (state, later) in states.iter_mut().zip(later) {
        state.merge(later);
    }
}

/// All that the items of a step share.
struct Step<'a> {
    isa: Isa,
    /// `[tokens, heads, width]`
    q: &'a [f32],
    keys: &'a Cached<'a>,
    values: &'a Cached<'a>,
    places: &'a Places,
    heads: usize,
    /// Heads that share a KV head.
    group: usize,
    width: usize,
    form: &'a Form,
}

/// Some tokens of one sequence.
struct Item {
    tokens: Range<usize>,
    sequence: usize,
    /// Cached rows that the tokens see between them.
    rows: usize,
}

impl Step<'_> {
    fn multiply_adds(&self, item: &Item) -> usize {
        item.tokens.len() * self.heads * item.rows * (self.width + self.form.value_width)
    }

    /// Those of each KV head.
    fn queries(&self, item: &Item) -> Vec<Queries> {
        let count = item.tokens.len() * self.group;
        let of_head = |kv_head: usize| {
            Queries::new(count, self.width, self.form.scale, |query, into| {
                let token = item.tokens.start + query / self.group;
                let head = kv_head * self.group + query % self.group;
                let first = (token * self.heads + head) * self.width;
                into.copy_from_slice(&self.q[first..first + self.width]);
            })
        };
        (0..self.form.kv_heads).map(of_head).collect()
    }

    /// What an item's queries see of the span that begins with a row, for each KV head.
    fn span(&self, item: &Item, queries: &[Queries], start: usize) -> Vec<State> {
        let value_width = self.form.value_width;
        let mut states: Vec<State> =
            queries.iter().map(|queries| State::new(queries.count(), value_width)).collect();
        let shares_rows = std::ptr::eq(self.keys, self.values);
        let (wide, wide_values) =
            (self.width.next_multiple_of(LANES), value_width.next_multiple_of(LANES));
        let mut key_rows = Vec::new();
        let mut value_rows = Vec::new();
        let end = item.rows.min(start + SPAN);
        let positions = &self.places.positions[item.tokens.clone()];
        for first in (start..end).step_by(TILE) {
            let rows = TILE.min(end - first);
            for (kv_head, (queries, state)) in queries.iter().zip(&mut states).enumerate() {
                let range = first..first + rows;
                let keys = self.rows(self.keys, item, kv_head, range.clone(), wide, &mut key_rows);
                let values = match shares_rows {
                    true => keys,
                    false => {
                        self.rows(self.values, item, kv_head, range, wide_values, &mut value_rows)
                    }
                };
                let next = first + TILE..end.min(first + 2 * TILE);
                let tile = Tile {
                    rows,
                    keys: keys.0,
                    key_stride: keys.1,
                    values: values.0,
                    value_stride: values.1,
                    next: self.next(item, kv_head, next, shares_rows),
                };
                let seen = Seen { positions, heads: self.group, first };
                queries.attend(self.isa, tile, seen, state);
            }
        }
        states
    }

    /// Some rows in f32, and how far they are apart: where they lie, or in `buffer`.
    fn rows<'b>(
        &'b self,
        cached: &'b Cached<'_>,
        item: &Item,
        kv_head: usize,
        rows: Range<usize>,
        wide: usize,
        buffer: &'b mut Vec<f32>,
    ) -> (&'b [f32], usize) {
        let slot = |row| self.places.slot(item.sequence, row);
        if let Some(in_place) = self.in_place(cached, item, kv_head, rows.clone()) {
            return in_place;
        }
        buffer.resize(TILE * wide, 0.0);
        for (row, into) in rows.zip(buffer.chunks_exact_mut(wide)) {
            if row + TILE < item.rows {
                cached.prefetch(slot(row + TILE), kv_head);
            }
            cached.read(slot(row), kv_head, &mut into[..cached.width(kv_head)]);
        }
        (buffer, wide)
    }

    /// The same where they lie, if they do in this form.
    fn in_place<'b>(
        &self,
        cached: &'b Cached<'_>,
        item: &Item,
        kv_head: usize,
        rows: Range<usize>,
    ) -> Option<(&'b [f32], usize)> {
        let first = self.places.slot(item.sequence, rows.start);
        match self.places.are_neighbours(rows.start, rows.len()) {
            true => cached.in_place(first, kv_head),
            false => None,
        }
    }

    /// Rows that come after a tile, where they lie; none after the last.
    fn next(
        &self,
        item: &Item,
        kv_head: usize,
        rows: Range<usize>,
        shares_rows: bool,
    ) -> Option<Next<'_>> {
        if rows.is_empty() {
            return None;
        }
        let (keys, _) = self.in_place(self.keys, item, kv_head, rows.clone())?;
        let values = match shares_rows {
            true => None,
            false => Some(self.in_place(self.values, item, kv_head, rows.clone())?.0),
        };
        Some(Next { rows: rows.len(), keys, values })
    }

    fn write(&self, item: &Item, states: &[State], out: Shared<'_, f32>) {
        let width = self.form.value_width;
        for (kv_head, state) in states.iter().enumerate() {
            for query in 0..item.tokens.len() * self.group {
                let token = item.tokens.start + query / self.group;
                let head = kv_head * self.group + query % self.group;
                // SAFETY: each item has tokens of its own.
                let out = unsafe { out.part((token * self.heads + head) * width, width) };
                state.write(query, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::kv::{KvFormat, KvPool, KvSpec};
    use crate::ops::case::{Inputs, PagedCase, kv_format};
    use crate::ops::paged_attention::reference;

    /// A step over cached sequences, `[cached, queries]` each.
    fn attended(
        sequences: &[[usize; 2]],
        [heads, kv_heads, head_dim, page_size]: [usize; 4],
        format: KvFormat,
        seed: u64,
    ) -> [Vec<f32>; 2] {
        let device = Device::flex();
        let case = PagedCase::new(sequences, page_size, &device);
        let spec = KvSpec::Gqa { layers: 1, kv_heads, head_dim, page_size };
        let mut pool = KvPool::new(spec, case.pages, format, &device);
        // Each sequence has numbers of its own, whatever its neighbours are.
        let (mut keys, mut values, mut q) = (vec![], vec![], vec![]);
        for [cached, queries] in sequences {
            let mut inputs = Inputs::new(seed ^ (cached * 1000 + queries) as u64, &device);
            keys.push(inputs.floats([cached + queries, kv_heads * head_dim], 1.0));
            values.push(inputs.floats([cached + queries, kv_heads * head_dim], 1.0));
            q.push(inputs.floats([*queries, heads, head_dim], 2.0));
        }
        pool.layer(0).write(Tensor::cat(keys, 0), Tensor::cat(values, 0), case.slots);
        let (q, layer, scale) = (Tensor::cat(q, 0), pool.layer(0), (head_dim as f64).powf(-0.5));
        let read = |out: Tensor<3>| out.into_data().try_into_vec_as::<f32>().unwrap();
        [
            read(paged_attention(q.clone(), layer, &case.tables, page_size, scale)),
            read(reference::paged_attention(q, layer, &case.tables, page_size, scale)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_kernel_agrees_with_the_reference(
            sequences in prop::collection::vec([0..90_usize, 1..20_usize], 1..5),
            (kv_heads, group, head_dim) in (1..4_usize, 1..7_usize, 1..40_usize),
            page_size in 1..20_usize,
            format in 0..4_usize,
            seed: u64,
        ) {
            let shape = [kv_heads * group, kv_heads, head_dim, page_size];
            let format = Inputs::new(0, &Device::flex()).kv_format(format);
            let [got, want] = attended(&sequences, shape, format, seed);
            prop_assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{got} {want}");
            }
        }
    }

    /// Alone, among others, in one chunk or token by token: the same bits.
    #[test]
    fn what_shares_the_step_does_not_change_a_bit() {
        for format in [kv_format::F32, kv_format::FP8] {
            let format = Inputs::new(0, &Device::flex()).kv_format(format);
            let shape = [12, 2, 24, 8];
            let run = |sequences: &[[usize; 2]]| attended(sequences, shape, format, 5)[0].clone();
            let alone = run(&[[70, 9]]);
            let crowd = run(&[[3, 1], [70, 9], [200, 1], [64, 30]]);
            let width = shape[0] * shape[2];
            assert_eq!(crowd[width..10 * width], alone);
        }
    }
}
