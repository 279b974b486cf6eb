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
}

impl KvSpec {
    /// Tokens per page unless a model says otherwise.
    pub const PAGE_SIZE: usize = 64;

    /// Tokens per page.
    pub fn page_size(&self) -> usize {
        let KvSpec::Gqa { page_size, .. } = self;
        *page_size
    }

    /// Bytes that one token takes in all layers with values of `dtype`.
    pub fn bytes_per_token(&self, dtype: DType) -> usize {
        let KvSpec::Gqa { layers, kv_heads, head_dim, .. } = self;
        2 * layers * kv_heads * head_dim * dtype.size()
    }

    /// Bytes that one page takes in all layers.
    pub fn bytes_per_page(&self, dtype: DType) -> usize {
        self.bytes_per_token(dtype) * self.page_size()
    }
}

/// The cache of one layer. A slot is `page * page_size + row`.
#[derive(Debug)]
pub struct KvLayer {
    /// `[slots, kv_heads * head_dim]`
    keys: Tensor<2>,
    /// `[slots, kv_heads * head_dim]`
    values: Tensor<2>,
}

impl KvLayer {
    /// Stores one row of keys and values per token at `slots`.
    ///
    /// Shapes: `keys`, `values` `[tokens, kv_heads * head_dim]`, `slots [tokens]`.
    pub fn write(&mut self, keys: Tensor<2>, values: Tensor<2>, slots: Tensor<1, Int>) {
        self.keys.inplace(|pages| ops::kv_write(pages, keys, slots.clone()));
        self.values.inplace(|pages| ops::kv_write(pages, values, slots));
    }

    /// Key rows, `[slots, kv_heads * head_dim]`.
    pub fn keys(&self) -> &Tensor<2> {
        &self.keys
    }

    /// Value rows, `[slots, kv_heads * head_dim]`.
    pub fn values(&self) -> &Tensor<2> {
        &self.values
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
        let KvSpec::Gqa { layers, kv_heads, head_dim, page_size } = spec;
        let shape = [pages * page_size, kv_heads * head_dim];
        let zeros = || Tensor::zeros(shape, (device, dtype));
        let layers = (0..layers).map(|_| KvLayer { keys: zeros(), values: zeros() }).collect();
        KvPool { spec, pages, layers }
    }

    /// Adds zeroed pages until there are `pages`; what is stored stays where it is.
    pub fn grow(&mut self, pages: usize) {
        let KvSpec::Gqa { kv_heads, head_dim, page_size, .. } = self.spec;
        if pages <= self.pages {
            return;
        }
        let shape = [(pages - self.pages) * page_size, kv_heads * head_dim];
        for layer in &mut self.layers {
            for rows in [&mut layer.keys, &mut layer.values] {
                let fresh = Tensor::zeros(shape, (&rows.device(), rows.dtype()));
                rows.inplace(|held| Tensor::cat(vec![held, fresh], 0));
            }
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
    #[cfg(feature = "cpu")]
    fn growing_keeps_what_is_stored() {
        let device = Device::flex();
        let spec = KvSpec::Gqa { layers: 1, kv_heads: 1, head_dim: 2, page_size: 2 };
        let mut pool = KvPool::new(spec, 2, DType::F32, &device);
        let row = || Tensor::<2>::from_data([[1.0, 2.0]], &device);
        pool.layer(0).write(row(), row(), Tensor::from_data([3], &device));
        pool.grow(4);
        let keys = pool.layer(0).keys().to_data().try_to_vec_as::<f32>().unwrap();
        assert_eq!(keys[6..8], [1.0, 2.0]);
        assert_eq!(keys.len(), 16);
        assert!(keys.iter().enumerate().all(|(i, v)| *v == 0.0 || (6..8).contains(&i)));
    }
}
