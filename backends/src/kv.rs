//! Layout of the paged KV cache: how many bytes a page has and where a slot lies. Which
//! sequence owns which page is the runtime's business.

mod layer;
mod page;
mod pool;
mod rows;
mod tables;

use burn::tensor::DType;

use crate::fp8::CODES_PER_WORD;

pub use layer::KvLayer;
pub use page::KvPageError;
pub use pool::KvPool;
pub use rows::{Fp8Rows, KvRows};
pub use tables::{PageTables, TileShape, TileTables, Tiles};

/// What the values of a cache are stored in, whatever the model computes in: they are converted
/// when they are written and when they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvFormat {
    /// A float dtype.
    Float(DType),
    /// E4M3 codes, four in a 32-bit word, with f32 scales: one for each token and KV head, or (MLA)
    /// one for the latent and one for the rotated key of each token.
    Fp8,
}

impl From<DType> for KvFormat {
    fn from(dtype: DType) -> Self {
        KvFormat::Float(dtype)
    }
}

impl KvFormat {
    /// Name in messages and reports.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::Float(dtype) => dtype.name(),
            KvFormat::Fp8 => "fp8",
        }
    }

    /// Bytes of `width` values that share a scale.
    pub fn bytes(self, width: usize) -> usize {
        match self {
            KvFormat::Float(dtype) => width * dtype.size(),
            KvFormat::Fp8 => (words(width) + 1) * size_of::<f32>(),
        }
    }
}

/// Words that `width` codes take.
pub(crate) fn words(width: usize) -> usize {
    width.div_ceil(CODES_PER_WORD)
}

/// Neighbouring values of a row which are quantised together: `count` times `width`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// How many there are.
    pub count: usize,
    /// Values in each.
    pub width: usize,
}

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

    /// Bytes that one token takes in all layers, scales included.
    pub fn bytes_per_token(&self, format: impl Into<KvFormat>) -> usize {
        let format = format.into();
        match *self {
            KvSpec::Gqa { layers, kv_heads, head_dim, .. } => {
                2 * layers * kv_heads * format.bytes(head_dim)
            }
            KvSpec::Mla { layers, latent, rope, .. } => {
                layers * (format.bytes(latent) + format.bytes(rope))
            }
        }
    }

    /// Bytes that one page takes in all layers, scales included.
    pub fn bytes_per_page(&self, format: impl Into<KvFormat>) -> usize {
        self.bytes_per_token(format) * self.page_size()
    }

    pub(crate) fn layers(&self) -> usize {
        match *self {
            KvSpec::Gqa { layers, .. } | KvSpec::Mla { layers, .. } => layers,
        }
    }

    /// Of what each row of a layer's tensors consists.
    fn parts(&self) -> Vec<Parts> {
        match *self {
            KvSpec::Gqa { kv_heads, head_dim, .. } => {
                vec![Parts { count: kv_heads, width: head_dim }]
            }
            KvSpec::Mla { latent, rope, .. } => {
                vec![Parts { count: 1, width: latent }, Parts { count: 1, width: rope }]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AIR: KvSpec = KvSpec::Gqa { layers: 46, kv_heads: 8, head_dim: 128, page_size: 64 };
    const FLASH: KvSpec = KvSpec::Mla { layers: 47, latent: 512, rope: 64, page_size: 64 };

    #[test]
    fn air_takes_188416_bytes_a_token_in_bf16() {
        assert_eq!(AIR.bytes_per_token(DType::BF16), 188_416);
        assert_eq!(AIR.bytes_per_page(DType::F32), 64 * 2 * 188_416);
        // 128 codes and a scale for each head of the keys and of the values.
        assert_eq!(AIR.bytes_per_token(KvFormat::Fp8), 46 * 2 * 8 * (128 + 4));
    }

    #[test]
    fn flash_takes_54144_bytes_a_token_in_bf16() {
        assert_eq!(FLASH.bytes_per_token(DType::BF16), 54_144);
        assert_eq!(FLASH.with_layers(1).bytes_per_page(DType::BF16), 64 * 1152);
        assert_eq!(FLASH.bytes_per_token(KvFormat::Fp8), 47 * (512 + 64 + 2 * 4));
    }

    #[test]
    fn codes_fill_whole_words() {
        assert_eq!([1, 4, 5].map(|width| KvFormat::Fp8.bytes(width)), [8, 8, 12]);
    }
}
