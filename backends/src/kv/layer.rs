use burn::tensor::{Device, Int, Tensor};

use super::{KvFormat, KvRows, KvSpec};

/// The cache of one layer. A slot is `page * page_size + row`.
#[derive(Debug)]
pub struct KvLayer(Held);

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each layer of a model")]
enum Held {
    /// Both of `kv_heads * head_dim` values a row.
    Gqa { keys: KvRows, values: KvRows },
    /// Of `latent + rope` values.
    Mla(KvRows),
}

impl KvLayer {
    pub(super) fn zeros(spec: KvSpec, slots: usize, format: KvFormat, device: &Device) -> Self {
        let zeros = || KvRows::zeros(&spec.parts(), slots, format, device);
        KvLayer(match spec {
            KvSpec::Gqa { .. } => Held::Gqa { keys: zeros(), values: zeros() },
            KvSpec::Mla { .. } => Held::Mla(zeros()),
        })
    }

    /// A layer of keys and values, or of latents, that are there already.
    #[cfg(any(test, feature = "offline"))]
    pub(crate) fn of(rows: Vec<KvRows>) -> Self {
        match <[KvRows; 2]>::try_from(rows) {
            Ok([keys, values]) => KvLayer(Held::Gqa { keys, values }),
            Err(mut rows) => KvLayer(Held::Mla(rows.remove(0))),
        }
    }

    /// Stores one row of keys and values per token at `slots`.
    ///
    /// Shapes: `keys`, `values` `[tokens, kv_heads * head_dim]`, `slots [tokens]`.
    ///
    /// # Panics
    /// When the layer holds latents.
    pub fn write(&mut self, keys: Tensor<2>, values: Tensor<2>, slots: Tensor<1, Int>) {
        let Held::Gqa { keys: held_keys, values: held_values } = &mut self.0 else {
            panic!("keys and values for a layer of latents")
        };
        held_keys.write(keys, slots.clone());
        held_values.write(values, slots);
    }

    /// Stores one row per token at `slots`: the latent, after its norm, then the rotated key.
    ///
    /// Shapes: `rows [tokens, latent + rope]`, `slots [tokens]`.
    ///
    /// # Panics
    /// When the layer holds keys and values.
    pub fn write_latents(&mut self, rows: Tensor<2>, slots: Tensor<1, Int>) {
        let Held::Mla(held) = &mut self.0 else { panic!("latents for a layer of keys and values") };
        held.write(rows, slots);
    }

    /// Keys, `kv_heads * head_dim` values a row.
    ///
    /// # Panics
    /// When the layer holds latents.
    pub fn keys(&self) -> &KvRows {
        let Held::Gqa { keys, .. } = &self.0 else { panic!("a layer of latents has no keys") };
        keys
    }

    /// Values, `kv_heads * head_dim` a row.
    ///
    /// # Panics
    /// When the layer holds latents.
    pub fn values(&self) -> &KvRows {
        let Held::Gqa { values, .. } = &self.0 else { panic!("a layer of latents has no values") };
        values
    }

    /// Latent and rotated key of each slot, `latent + rope` values a row.
    ///
    /// # Panics
    /// When the layer holds keys and values.
    pub fn latents(&self) -> &KvRows {
        let Held::Mla(rows) = &self.0 else { panic!("a layer of keys has no latents") };
        rows
    }

    /// Keys and values, to be written.
    ///
    /// # Panics
    /// When the layer holds latents.
    #[cfg(feature = "cube")]
    pub(crate) fn keys_and_values_mut(&mut self) -> [&mut KvRows; 2] {
        let Held::Gqa { keys, values } = &mut self.0 else {
            panic!("a layer of latents has no keys and values")
        };
        [keys, values]
    }

    /// Latents and rotated keys, to be written.
    ///
    /// # Panics
    /// When the layer holds keys and values.
    #[cfg(feature = "cube")]
    pub(crate) fn latents_mut(&mut self) -> &mut KvRows {
        let Held::Mla(rows) = &mut self.0 else { panic!("a layer of keys has no latents") };
        rows
    }

    /// All that the layer holds.
    pub(super) fn all_rows(&self) -> Vec<&KvRows> {
        match &self.0 {
            Held::Gqa { keys, values } => vec![keys, values],
            Held::Mla(rows) => vec![rows],
        }
    }

    pub(super) fn all_rows_mut(&mut self) -> Vec<&mut KvRows> {
        match &mut self.0 {
            Held::Gqa { keys, values } => vec![keys, values],
            Held::Mla(rows) => vec![rows],
        }
    }
}
