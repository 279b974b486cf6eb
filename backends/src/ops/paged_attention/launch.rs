#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::attend::{Attend, BLOCK, MOST_SPLITS};
use super::combine::combine_kernel;
use super::kernel::{ShapeLaunch, attend_kernel};
use super::tiled::{Tiled, UNITS};
use super::tiles::attend_tiles_kernel;
use crate::cube::{self, Abilities, PageBuffers, vector_size};
use crate::kv::{KvLayer, PageTables};

/// Most bytes of shared memory of a cube, so that a multiprocessor holds several.
const MOST_SHARED: usize = 72 << 10;
/// Teams of a cube and fours of queries of each, by the number of queries.
const SHARES: [[usize; 2]; 8] = [[1, 1], [1, 2], [1, 3], [1, 4], [1, 5], [2, 3], [2, 4], [3, 3]];

/// Buffers of [`PageTables`].
#[derive(Debug, Clone)]
pub(crate) struct TableBuffers {
    /// `[tokens]`
    pub(crate) positions: CubeTensor,
    /// `[sequences, pages]`
    pub(crate) block_tables: CubeTensor,
    /// `[sequences + 1]`
    pub(crate) query_starts: CubeTensor,
    /// `[tiles]`
    pub(crate) tile_sequences: CubeTensor,
    /// `[tiles, size]`
    pub(crate) tile_tokens: CubeTensor,
}

impl TableBuffers {
    pub(crate) fn new(tables: &PageTables) -> Self {
        TableBuffers {
            positions: cube::ints(tables.positions.clone()),
            block_tables: cube::strided_ints(tables.block_tables.clone()),
            query_starts: cube::ints(tables.query_starts.clone()),
            tile_sequences: cube::ints(tables.tiles.sequences.clone()),
            tile_tokens: cube::strided_ints(tables.tiles.tokens.clone()),
        }
    }
}

/// Cached rows and what they consist of.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) keys: PageBuffers,
    pub(crate) values: PageBuffers,
    pub(crate) kv_heads: usize,
    /// Values of a key, in parts that have a scale each; the second may be empty.
    pub(crate) key_parts: [usize; 2],
    pub(crate) value_width: usize,
    pub(crate) page_size: usize,
    /// Whether a value is the first part of its key.
    pub(crate) values_in_keys: bool,
}

/// What [`launch`] gives.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one at a time")]
pub(crate) enum Attended {
    /// `[tokens, heads, value]`
    Whole(CubeTensor),
    Split(Splits),
}

/// Results of the splits of the rows, to be added up.
#[derive(Debug, Clone)]
pub(crate) struct Splits {
    /// `[tokens, heads, splits, value]`, f32
    pub(crate) sums: CubeTensor,
    /// Largest score and sum of the weights, `[tokens, heads, splits, 2]`, f32
    pub(crate) statistics: CubeTensor,
    /// Rows of a split.
    pub(crate) rows: usize,
}

pub(super) fn paged_attention(
    q: Tensor<3>,
    layer: &KvLayer,
    tables: &PageTables,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    let [_, _, head_dim] = q.dims();
    let pages = Pages {
        keys: PageBuffers::new(layer.keys()),
        values: PageBuffers::new(layer.values()),
        kv_heads: layer.keys().width() / head_dim,
        key_parts: [head_dim, 0],
        value_width: head_dim,
        page_size,
        values_in_keys: false,
    };
    let (q, tables) = (cube::floats(q), TableBuffers::new(tables));
    cube::tensor(match launch(&q, &pages, &tables, scale as f32, false) {
        Attended::Whole(out) => out,
        Attended::Split(splits) => combine(&splits, &tables, q.dtype),
    })
}

/// `q [tokens, heads, key]`; `split` asks for splits even if it is one.
pub(crate) fn launch(
    q: &CubeTensor,
    pages: &Pages,
    tables: &TableBuffers,
    scale: f32,
    split: bool,
) -> Attended {
    let abilities = Abilities::of(&q.client);
    let [tokens, heads, width] = cube::dims(q);
    let [tiles, size] = cube::dims(&tables.tile_tokens);
    let [sequences, table] = cube::dims(&tables.block_tables);
    let [first, second] = pages.key_parts;
    assert_eq!(width, first + second, "values of a query and of a key");

    let group = heads / pages.kv_heads;
    let lanes = if abilities.plane == Some(64) { 64 } else { 32 };
    let mut attend = Attend {
        group,
        kv_heads: pages.kv_heads,
        key_parts: pages.key_parts,
        value_width: pages.value_width,
        keys: pages.keys.layout,
        values: pages.values.layout,
        page_size: pages.page_size,
        teams: 1,
        fours: 1,
        lanes,
        plane: abilities.plane_size(),
        whole: false,
        scale: scale.to_bits(),
    };
    let tiled = tiled(attend, pages, q.dtype, size * group, abilities);
    if tiled.is_none() {
        [attend.teams, attend.fours] = share(attend, size * group, abilities);
    }
    let queries = tiled.map_or_else(|| attend.queries(), |tiled| tiled.queries);
    let blocks = (size * group).div_ceil(queries);
    let cubes = tiles * blocks * pages.kv_heads;
    let (splits, split_rows) = splits(table * pages.page_size, cubes, abilities);
    attend.whole = splits == 1 && !split;

    let (out, statistics) = match attend.whole {
        true => (
            cube::empty(q, [tokens, heads, pages.value_width], q.dtype),
            cube::empty(q, [1], DType::F32),
        ),
        false => (
            cube::empty(q, [tokens, heads, splits, pages.value_width], DType::F32),
            cube::empty(q, [tokens, heads, splits, 2], DType::F32),
        ),
    };
    let shape = ShapeLaunch::new(
        tokens as u32,
        sequences as u32,
        cube::row_stride(&tables.block_tables) as u32,
        size as u32,
        cube::row_stride(&tables.tile_tokens) as u32,
        blocks as u32,
        splits as u32,
        split_rows as u32,
        (cubes * splits) as u32,
    );
    let (mut key_size, value_size) = vector_sizes(pages);
    if tiled.is_some() && pages.keys.layout.is_fp8() {
        // Sixteen codes at once are more than registers hold.
        key_size = key_size.min(2);
    }
    let none = || cube::empty(q, [1], DType::F32);
    let PageBuffers { elements, scales, .. } = pages.keys.clone();
    macro_rules! launch {
        ($kernel:ident, $units:expr, $constants:expr) => {
            $kernel::launch_unchecked(
                cube::counted(&q.client),
                cube::cubes(cubes * splits),
                CubeDim::new_1d($units as u32),
                pages.keys.address_type(),
                key_size,
                value_size,
                q.clone().into_buffer_arg(),
                elements.into_buffer_arg(),
                pages.values.elements.clone().into_buffer_arg(),
                scales.unwrap_or_else(none).into_buffer_arg(),
                pages.values.scales.clone().unwrap_or_else(none).into_buffer_arg(),
                tables.positions.clone().into_buffer_arg(),
                tables.block_tables.clone().into_buffer_arg(),
                tables.query_starts.clone().into_buffer_arg(),
                tables.tile_sequences.clone().into_buffer_arg(),
                tables.tile_tokens.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                statistics.clone().into_buffer_arg(),
                shape,
                $constants,
                [cube::elem(q.dtype), cube::elem(out.dtype), pages.keys.elem()],
            )
        };
    }
    // SAFETY: cubes past the count do nothing. Tiles name tokens and sequences that there are,
    // rows up to a token's position are in its block table, pages of block tables are in the
    // cache, and a key and a value lie within their row.
    unsafe {
        match tiled {
            Some(tiled) => launch!(attend_tiles_kernel, UNITS, Tiled { attend, ..tiled }),
            None => launch!(attend_kernel, attend.units(), attend),
        }
    }
    match attend.whole {
        true => Attended::Whole(out),
        false => Attended::Split(Splits { sums: out, statistics, rows: split_rows }),
    }
}

/// Queries and rows of a cube on matrix units: as many queries as there are and fit. `None` where
/// the device, the shape or the cache's dtype does not allow it, and for fewer queries than pay.
fn tiled(
    attend: Attend,
    pages: &Pages,
    dtype: DType,
    queries: usize,
    abilities: Abilities,
) -> Option<Tiled> {
    const FEWEST: usize = 8;
    let same = pages.keys.layout.is_fp8() || pages.keys.elements.dtype == dtype;
    let words = |width: usize| pages.keys.layout.elements(width) * pages.keys.layout.values();
    let whole = pages.key_parts.iter().all(|width| words(*width) == *width);
    if !abilities.products_of(dtype) || !same || !whole || queries < FEWEST || !Tiled::fits(&attend)
    {
        return None;
    }
    let of = |queries, rows| Tiled {
        attend,
        queries,
        rows,
        values_in_keys: pages.values_in_keys,
        bf16: dtype == DType::BF16,
    };
    let most = queries.next_power_of_two().clamp(16, 64);
    // Two cubes of a multiprocessor read and multiply in turn.
    let half = abilities.shared_memory / 2;
    let full = abilities.shared_memory;
    let sizes = [
        (most, 64, half),
        (most, 32, half),
        (most, 64, full),
        (most, 32, full),
        (32.min(most), 32, full),
        (16, 32, full),
    ];
    sizes.into_iter().find_map(|(queries, rows, limit)| {
        Some(of(queries, rows)).filter(|tiled| tiled.shared_bytes() <= limit)
    })
}

/// Teams and fours of queries of each: as few as hold the queries of a tile, or as many as fit.
fn share(attend: Attend, queries: usize, abilities: Abilities) -> [usize; 2] {
    let fits = |[teams, fours]: &[usize; 2]| {
        let attend = Attend { teams: *teams, fours: *fours, ..attend };
        attend.shared_bytes() <= abilities.shared_memory.min(MOST_SHARED)
            && attend.units() <= abilities.units
    };
    let mut fitting = SHARES.into_iter().filter(fits).peekable();
    assert!(fitting.peek().is_some(), "shared memory for a key of {} values", attend.padded());
    let holds = |[teams, fours]: &[usize; 2]| 4 * teams * fours >= queries;
    fitting.clone().find(holds).or(fitting.last()).expect("one that fits")
}

/// How many parts `rows` are split into so that there are cubes for every multiprocessor, and rows
/// of each.
fn splits(rows: usize, cubes: usize, abilities: Abilities) -> (usize, usize) {
    let wanted = (3 * abilities.multiprocessors).div_ceil(cubes).min(MOST_SPLITS);
    let rows_of_split = rows.div_ceil(wanted).next_multiple_of(BLOCK);
    (rows.div_ceil(rows_of_split), rows_of_split)
}

/// Elements that one load of a key and of a value takes.
fn vector_sizes(pages: &Pages) -> (usize, usize) {
    let (keys, values) = (pages.keys.layout, pages.values.layout);
    let [first, second] = pages.key_parts.map(|width| keys.elements(width));
    let key = vector_size(pages.keys.elem_size(), &[first, second, keys.stride]);
    // A unit holds four columns of all its queries.
    let value = match values.is_fp8() {
        true => 1,
        false => vector_size(size_of::<f32>(), &[pages.value_width, values.stride]),
    };
    (key, value)
}

/// `[tokens, heads, value]` in `dtype`.
pub(crate) fn combine(splits: &Splits, tables: &TableBuffers, dtype: DType) -> CubeTensor {
    let abilities = Abilities::of(&splits.sums.client);
    let [tokens, heads, count, width] = cube::dims(&splits.sums);
    let units = width.next_power_of_two().clamp(MOST_SPLITS, 256.min(abilities.units));
    let out = cube::empty(&splits.sums, [tokens, heads, width], dtype);
    // SAFETY: cubes past the last head do nothing, and splits past a token's position are not read.
    unsafe {
        combine_kernel::launch_unchecked(
            cube::counted(&out.client),
            cube::cubes(tokens * heads),
            CubeDim::new_1d(units as u32),
            splits.sums.required_address_type(),
            splits.sums.clone().into_buffer_arg(),
            splits.statistics.clone().into_buffer_arg(),
            tables.positions.clone().into_buffer_arg(),
            tables.query_starts.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            tokens as u32,
            cube::dims::<1>(&tables.query_starts)[0] as u32 - 1,
            count as u32,
            splits.rows as u32,
            heads,
            width,
            units,
            cube::elem(dtype),
        );
    }
    out
}
