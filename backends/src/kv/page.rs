//! Pages as bytes, to be moved between pools of the same shape and format.

use std::ops::Range;

use burn::tensor::DType;

use super::{KvFormat, KvPool, KvSpec};

/// First bytes of an exported page; the last one is the version.
const MAGIC: [u8; 8] = *b"glm-kv\0\x01";
/// The magic and six numbers of four bytes.
const HEADER: usize = MAGIC.len() + 6 * size_of::<u32>();

/// Why bytes are no page of a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvPageError {
    /// They do not begin as a page does.
    #[error("{found} bytes without the header of a KV page, wanted one of version {}", MAGIC[7])]
    NoPage {
        /// Bytes in all.
        found: usize,
    },
    /// A page of a pool of another shape or format.
    #[error("a page of a cache of {found}, wanted {wanted}")]
    Kind {
        /// What the header says.
        found: String,
        /// What the pool holds.
        wanted: String,
    },
    /// Too few or too many bytes.
    #[error("a KV page of {found} bytes, wanted {wanted}")]
    Size {
        /// Bytes in all.
        found: usize,
        /// Header and payload.
        wanted: usize,
    },
}

impl KvPool {
    /// What `page` holds in all layers: a header that says of what shape and format the pool is,
    /// then each layer's tensors in turn (keys before values; for FP8, words before scales), all in
    /// little-endian byte order.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn export_page(&self, page: u32) -> Vec<u8> {
        let slots = self.slots_of(page);
        let mut bytes = header(self.spec(), self.format());
        bytes.reserve_exact(self.spec().bytes_per_page(self.format()));
        for rows in self.all_layers().iter().flat_map(|layer| layer.all_rows()) {
            rows.append_bytes(slots.clone(), &mut bytes);
        }
        bytes
    }

    /// Replaces what `page` holds by what [`Self::export_page`] of such a pool gave.
    ///
    /// # Errors
    /// [`KvPageError`] when the bytes are not those of a page of this shape and format; nothing is
    /// changed then.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn import_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), KvPageError> {
        let slots = self.slots_of(page);
        let wanted = header(self.spec(), self.format());
        if bytes.len() < HEADER || bytes[..MAGIC.len()] != MAGIC {
            return Err(KvPageError::NoPage { found: bytes.len() });
        }
        let (found, mut payload) = bytes.split_at(HEADER);
        if found != wanted {
            return Err(KvPageError::Kind { found: told(found), wanted: told(&wanted) });
        }
        let wanted = HEADER + self.spec().bytes_per_page(self.format());
        if bytes.len() != wanted {
            return Err(KvPageError::Size { found: bytes.len(), wanted });
        }
        for rows in self.all_layers_mut().iter_mut().flat_map(|layer| layer.all_rows_mut()) {
            payload = rows.take_bytes(slots.clone(), payload);
        }
        debug_assert!(payload.is_empty(), "bytes of a page");
        Ok(())
    }

    fn slots_of(&self, page: u32) -> Range<usize> {
        let (page, rows) = (page as usize, self.spec().page_size());
        assert!(page < self.pages(), "page {page} of {}", self.pages());
        page * rows..(page + 1) * rows
    }
}

/// Magic, kind, layers, the two widths, page size and format.
fn header(spec: KvSpec, format: KvFormat) -> Vec<u8> {
    let (kind, widths) = match spec {
        KvSpec::Gqa { kv_heads, head_dim, .. } => (0, [kv_heads, head_dim]),
        KvSpec::Mla { latent, rope, .. } => (1, [latent, rope]),
    };
    let format = match format {
        KvFormat::Float(DType::F32) => 0,
        KvFormat::Float(DType::BF16) => 1,
        KvFormat::Float(DType::F16) => 2,
        KvFormat::Fp8 => 3,
        KvFormat::Float(other) => panic!("a cache in {}", other.name()),
    };
    let numbers = [kind, spec.layers(), widths[0], widths[1], spec.page_size(), format];
    let numbers = numbers.into_iter().flat_map(|number| (number as u32).to_le_bytes());
    MAGIC.into_iter().chain(numbers).collect()
}

/// The numbers of a header in words.
fn told(header: &[u8]) -> String {
    let number = |index: usize| {
        let at = MAGIC.len() + index * size_of::<u32>();
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let [first, second] = [number(2), number(3)];
    let held = match number(0) {
        0 => format!("{first} KV heads of {second}"),
        1 => format!("latents of {first} + {second}"),
        other => format!("kind {other}"),
    };
    let format = match number(5) {
        0 => "f32".into(),
        1 => "bf16".into(),
        2 => "f16".into(),
        3 => "fp8".into(),
        other => format!("format {other}"),
    };
    format!("{held}, {} layers, pages of {} tokens, {format}", number(1), number(4))
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::ops::case::Inputs;

    const GQA: KvSpec = KvSpec::Gqa { layers: 2, kv_heads: 3, head_dim: 6, page_size: 4 };
    const MLA: KvSpec = KvSpec::Mla { layers: 3, latent: 10, rope: 4, page_size: 4 };
    const FORMATS: [KvFormat; 4] = [
        KvFormat::Float(DType::F32),
        KvFormat::Float(DType::BF16),
        KvFormat::Float(DType::F16),
        KvFormat::Fp8,
    ];

    /// A pool of three pages, full of numbers.
    fn filled(spec: KvSpec, format: KvFormat, seed: u64) -> KvPool {
        let device = Device::flex();
        let mut inputs = Inputs::new(seed, &device);
        let mut pool = KvPool::new(spec, 3, format, &device);
        let slots = Tensor::arange(0..12, &device);
        for layer in 0..spec.layers() {
            let mut rows = |width| inputs.floats([12, width], 1.0);
            match spec {
                KvSpec::Gqa { kv_heads, head_dim, .. } => {
                    let (keys, values) = (rows(kv_heads * head_dim), rows(kv_heads * head_dim));
                    pool.layer(layer).write(keys, values, slots.clone());
                }
                KvSpec::Mla { latent, rope, .. } => {
                    pool.layer(layer).write_latents(rows(latent + rope), slots.clone());
                }
            }
        }
        pool
    }

    #[test]
    fn a_page_goes_from_pool_to_pool_in_every_format() {
        for spec in [GQA, MLA] {
            for format in FORMATS {
                let (from, mut to) = (filled(spec, format, 1), filled(spec, format, 2));
                let others = [to.export_page(0), to.export_page(1)];
                let page = from.export_page(1);
                assert_eq!(page.len(), HEADER + spec.bytes_per_page(format), "{format:?}");
                assert_ne!(page, to.export_page(2));
                to.import_page(2, &page).unwrap();
                assert_eq!(to.export_page(2), page, "{spec:?} {format:?}");
                assert_eq!([to.export_page(0), to.export_page(1)], others, "only page 2 changed");
                to.import_page(1, &page).unwrap();
                assert_eq!(to.export_page(1), page);
            }
        }
    }

    #[test]
    fn other_bytes_are_refused_by_what_is_wrong() {
        let mut pool = filled(GQA, KvFormat::Fp8, 1);
        let page = pool.export_page(1);
        let before = pool.export_page(2);
        let mut refused = |bytes: &[u8]| pool.import_page(2, bytes).unwrap_err().to_string();
        assert_eq!(
            refused(b"GGUF"),
            "4 bytes without the header of a KV page, wanted one of version 1"
        );
        let size = page.len();
        let short = format!("a KV page of {} bytes, wanted {size}", size - 1);
        assert_eq!(refused(&page[..size - 1]), short);
        let long = [&page[..], &[0]].concat();
        assert_eq!(refused(&long), format!("a KV page of {} bytes, wanted {size}", size + 1));
        let wanted = "wanted 3 KV heads of 6, 2 layers, pages of 4 tokens, fp8";
        for (spec, format, found) in [
            (
                GQA,
                KvFormat::Float(DType::BF16),
                "3 KV heads of 6, 2 layers, pages of 4 tokens, bf16",
            ),
            (MLA, KvFormat::Fp8, "latents of 10 + 4, 3 layers, pages of 4 tokens, fp8"),
            (
                GQA.with_layers(1),
                KvFormat::Fp8,
                "3 KV heads of 6, 1 layers, pages of 4 tokens, fp8",
            ),
        ] {
            let other = filled(spec, format, 1).export_page(1);
            assert_eq!(refused(&other), format!("a page of a cache of {found}, {wanted}"));
        }
        assert_eq!(pool.export_page(2), before, "nothing has changed");
    }

    #[test]
    fn growing_keeps_what_is_stored() {
        for spec in [GQA, MLA] {
            for format in FORMATS {
                let mut pool = filled(spec, format, 1);
                let before: Vec<_> = (0..3).map(|page| pool.export_page(page)).collect();
                pool.grow(5);
                assert_eq!(pool.pages(), 5);
                let after: Vec<_> = (0..3).map(|page| pool.export_page(page)).collect();
                assert_eq!(after, before, "{spec:?} {format:?}");
                assert!(pool.export_page(4)[HEADER..].iter().all(|byte| *byte == 0));
            }
        }
    }
}
