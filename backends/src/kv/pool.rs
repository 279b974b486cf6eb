use burn::tensor::Device;

use super::{KvFormat, KvLayer, KvRows, KvSpec};
use crate::graph::BufferId;

/// The pages of all layers. Page 0 is the sink: padded rows of a step write there, and no
/// sequence ever owns it.
#[derive(Debug)]
pub struct KvPool {
    spec: KvSpec,
    format: KvFormat,
    pages: usize,
    layers: Vec<KvLayer>,
}

impl KvPool {
    /// A pool of `pages` zeroed pages, the sink included.
    pub fn new(spec: KvSpec, pages: usize, format: impl Into<KvFormat>, device: &Device) -> Self {
        let (format, slots) = (format.into(), pages * spec.page_size());
        let layer = |_| KvLayer::zeros(spec, slots, format, device);
        let layers = (0..spec.layers()).map(layer).collect();
        KvPool { spec, format, pages, layers }
    }

    /// Adds zeroed pages until there are `pages`; what is stored stays where it is.
    pub fn grow(&mut self, pages: usize) {
        if pages <= self.pages {
            return;
        }
        for rows in self.layers.iter_mut().flat_map(KvLayer::all_rows_mut) {
            rows.grow((pages - self.pages) * self.spec.page_size());
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

    /// What the values are stored in.
    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// The buffers that the pages of all layers lie in.
    pub fn buffers(&self) -> Vec<BufferId> {
        self.layers.iter().flat_map(KvLayer::all_rows).flat_map(KvRows::buffers).collect()
    }

    /// The cache of layer `index`.
    pub fn layer(&mut self, index: usize) -> &mut KvLayer {
        &mut self.layers[index]
    }

    pub(super) fn all_layers(&self) -> &[KvLayer] {
        &self.layers
    }

    pub(super) fn all_layers_mut(&mut self) -> &mut [KvLayer] {
        &mut self.layers
    }
}
