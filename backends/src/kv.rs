//! Layout of the paged KV cache: how many bytes a page has and where a slot lies. Which
//! sequence owns which page is the runtime's business.

use burn::tensor::{DType, Device, Int, Tensor};

use crate::ops;

/// Shape of the cache of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvSpec {
    /// Keys and values of every KV head.
    Gqa {
        /// Layers that hold a cache.
        layers: usize,
        /// KV heads per layer.
        kv_heads: usize,
        /// Values per head.
        head_dim: usize,
        /// Tokens per page.
        page_size: usize,
    },
    /// One latent that keys and values of all heads are expanded from, and one rotated key that
    /// all heads share ([DeepSeek-V2 2024](https://arxiv.org/abs/2405.04434), section 2.1).
    Mla {
        /// Layers that hold a cache.
        layers: usize,
        /// Values of the latent.
        latent: usize,
        /// Values of the rotated key.
        rope: usize,
        /// Tokens per page.
        page_size: usize,
    },
}

impl KvSpec {
    /// Tokens per page unless a model says otherwise.
    pub const PAGE_SIZE: usize = 64;

    /// Tokens per page.
    pub fn page_size(&self) -> usize {
        match *self {
            KvSpec::Gqa { page_size, .. } | KvSpec::Mla { page_size, .. } => page_size,
        }
    }

    /// The same cache for another number of layers.
    #[must_use]
    pub fn with_layers(self, layers: usize) -> Self {
        match self {
            KvSpec::Gqa { kv_heads, head_dim, page_size, .. } => {
                KvSpec::Gqa { layers, kv_heads, head_dim, page_size }
            }
            KvSpec::Mla { latent, rope, page_size, .. } => {
                KvSpec::Mla { layers, latent, rope, page_size }
            }
        }
    }

    /// Bytes that one token takes in all layers with values of `dtype`.
    pub fn bytes_per_token(&self, dtype: DType) -> usize {
        let values = match *self {
            KvSpec::Gqa { layers, kv_heads, head_dim, .. } => 2 * layers * kv_heads * head_dim,
            KvSpec::Mla { layers, latent, rope, .. } => layers * (latent + rope),
        };
        values * dtype.size()
    }

    /// Bytes that one page takes in all layers.
    pub fn bytes_per_page(&self, dtype: DType) -> usize {
        self.bytes_per_token(dtype) * self.page_size()
    }

    fn layers(&self) -> usize {
        match *self {
            KvSpec::Gqa { layers, .. } | KvSpec::Mla { layers, .. } => layers,
        }
    }
}

/// The cache of one layer. A slot is `page * page_size + row`.
#[derive(Debug)]
pub struct KvLayer(Rows);

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each layer of a model")]
enum Rows {
    /// Both `[slots, kv_heads * head_dim]`.
    Gqa { keys: Tensor<2>, values: Tensor<2> },
    /// `[slots, latent + rope]`
    Mla(Tensor<2>),
}

impl KvLayer {
    fn zeros(spec: KvSpec, slots: usize, dtype: DType, device: &Device) -> Self {
        let zeros = |width| Tensor::zeros([slots, width], (device, dtype));
        KvLayer(match spec {
            KvSpec::Gqa { kv_heads, head_dim, .. } => {
                let width = kv_heads * head_dim;
                Rows::Gqa { keys: zeros(width), values: zeros(width) }
            }
            KvSpec::Mla { latent, rope, .. } => Rows::Mla(zeros(latent + rope)),
        })
    }

    fn grow(&mut self, slots: usize) {
        let grow = |rows: &mut Tensor<2>| {
            let [_, width] = rows.dims();
            let fresh = Tensor::zeros([slots, width], (&rows.device(), rows.dtype()));
            rows.inplace(|held| Tensor::cat(vec![held, fresh], 0));
        };
        match &mut self.0 {
            Rows::Gqa { keys, values } => {
                grow(keys);
                grow(values);
            }
            Rows::Mla(rows) => grow(rows),
        }
    }

    /// Stores one row of keys and values per token at `slots`.
    ///
    /// Shapes: `keys`, `values` `[tokens, kv_heads * head_dim]`, `slots [tokens]`.
    ///
    /// # Panics
    /// When the layer holds latents.
    pub fn write(&mut self, keys: Tensor<2>, values: Tensor<2>, slots: Tensor<1, Int>) {
        let Rows::Gqa { keys: held_keys, values: held_values } = &mut self.0 else {
            panic!("keys and values for a layer of latents")
        };
        held_keys.inplace(|pages| ops::kv_write(pages, keys, slots.clone()));
        held_values.inplace(|pages| ops::kv_write(pages, values, slots));
    }

    /// Stores one row per token at `slots`: the latent, after its norm, then the rotated key.
    ///
    /// Shapes: `rows [tokens, latent + rope]`, `slots [tokens]`.
    ///
    /// # Panics
    /// When the layer holds keys and values.
    pub fn write_latents(&mut self, rows: Tensor<2>, slots: Tensor<1, Int>) {
        let Rows::Mla(held) = &mut self.0 else { panic!("latents for a layer of keys and values") };
        held.inplace(|pages| ops::kv_write(pages, rows, slots));
    }

    /// Key rows, `[slots, kv_heads * head_dim]`.
    ///
    /// # Panics
    /// When the layer holds latents.
    pub fn keys(&self) -> &Tensor<2> {
        let Rows::Gqa { keys, .. } = &self.0 else { panic!("a layer of latents has no keys") };
        keys
    }

    /// Value rows, `[slots, kv_heads * head_dim]`.
    ///
    /// # Panics
    /// When the layer holds latents.
    pub fn values(&self) -> &Tensor<2> {
        let Rows::Gqa { values, .. } = &self.0 else { panic!("a layer of latents has no values") };
        values
    }

    /// Latent and rotated key of each slot, `[slots, latent + rope]`.
    ///
    /// # Panics
    /// When the layer holds keys and values.
    pub fn latents(&self) -> &Tensor<2> {
        let Rows::Mla(rows) = &self.0 else { panic!("a layer of keys has no latents") };
        rows
    }
}

/// The pages of all layers. Page 0 is the sink: padded rows of a step write there, and no
/// sequence ever owns it.
#[derive(Debug)]
pub struct KvPool {
    spec: KvSpec,
    pages: usize,
    layers: Vec<KvLayer>,
}

impl KvPool {
    /// A pool of `pages` zeroed pages, the sink included.
    pub fn new(spec: KvSpec, pages: usize, dtype: DType, device: &Device) -> Self {
        let slots = pages * spec.page_size();
        let layer = |_| KvLayer::zeros(spec, slots, dtype, device);
        let layers = (0..spec.layers()).map(layer).collect();
        KvPool { spec, pages, layers }
    }

    /// Adds zeroed pages until there are `pages`; what is stored stays where it is.
    pub fn grow(&mut self, pages: usize) {
        if pages <= self.pages {
            return;
        }
        for layer in &mut self.layers {
            layer.grow((pages - self.pages) * self.spec.page_size());
        }
        self.pages = pages;
    }

    /// Pages in the pool, the sink included.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Shape of the cache.
    pub fn spec(&self) -> KvSpec {
        self.spec
    }

    /// The cache of layer `index`.
    pub fn layer(&mut self, index: usize) -> &mut KvLayer {
        &mut self.layers[index]
    }
}

/// Which cached rows each token of a step may see. All fields are device tensors of a fixed
/// shape, so that a captured step can be replayed with new contents.
#[derive(Debug)]
pub struct PageTables {
    /// Sequence row of each token, `[tokens]`; a padded token belongs to sequence 0.
    pub sequences: Tensor<1, Int>,
    /// Position of each token in its sequence, `[tokens]`; 0 for a padded token.
    pub positions: Tensor<1, Int>,
    /// Pages of each sequence in order, `[sequences, pages]`, filled up with the sink.
    pub block_tables: Tensor<2, Int>,
    /// First token of each sequence and one past the last, `[sequences + 1]`.
    pub query_starts: Tensor<1, Int>,
    /// Tokens of each sequence in the cache once this step is done, `[sequences]`.
    pub lengths: Tensor<1, Int>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const AIR: KvSpec = KvSpec::Gqa { layers: 46, kv_heads: 8, head_dim: 128, page_size: 64 };

    #[test]
    fn air_takes_188416_bytes_a_token_in_bf16() {
        assert_eq!(AIR.bytes_per_token(DType::BF16), 188_416);
        assert_eq!(AIR.bytes_per_page(DType::F32), 64 * 2 * 188_416);
    }

    #[test]
    fn flash_takes_54144_bytes_a_token_in_bf16() {
        let flash = KvSpec::Mla { layers: 47, latent: 512, rope: 64, page_size: 64 };
        assert_eq!(flash.bytes_per_token(DType::BF16), 54_144);
        assert_eq!(flash.with_layers(1).bytes_per_page(DType::BF16), 64 * 1152);
    }

    #[test]
    #[cfg(feature = "cpu")]
    fn growing_keeps_what_is_stored() {
        let device = Device::flex();
        let gqa = KvSpec::Gqa { layers: 1, kv_heads: 1, head_dim: 2, page_size: 2 };
        let mla = KvSpec::Mla { layers: 1, latent: 1, rope: 1, page_size: 2 };
        let row = || Tensor::<2>::from_data([[1.0, 2.0]], &device);
        let slot = || Tensor::from_data([3], &device);
        for spec in [gqa, mla] {
            let mut pool = KvPool::new(spec, 2, DType::F32, &device);
            match spec {
                KvSpec::Gqa { .. } => pool.layer(0).write(row(), row(), slot()),
                KvSpec::Mla { .. } => pool.layer(0).write_latents(row(), slot()),
            }
            pool.grow(4);
            let rows = match spec {
                KvSpec::Gqa { .. } => pool.layer(0).values().to_data(),
                KvSpec::Mla { .. } => pool.layer(0).latents().to_data(),
            };
            let rows = rows.try_to_vec_as::<f32>().unwrap();
            assert_eq!(rows[6..8], [1.0, 2.0]);
            assert_eq!(rows.len(), 16);
            assert!(rows.iter().enumerate().all(|(i, v)| *v == 0.0 || (6..8).contains(&i)));
        }
    }
}
