#![expect(unsafe_code, reason = "kernels are launched without bounds checks")]

use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::kernel::{Written, write_kernel};
use crate::cube::{self, Abilities, PageBuffers, TwoParts};
use crate::kv::{KvRows, Parts};

pub(super) fn kv_write(pages: &mut KvRows, rows: Tensor<2>, slots: Tensor<1, Int>) {
    let parts = match pages {
        // Floats are written as they come, in pieces of any width.
        KvRows::Float(held) => vec![Parts { count: 1, width: held.dims()[1] }],
        KvRows::Fp8(held) => held.parts.clone(),
    };
    let pages = PageBuffers::to_write(pages);
    launch(&cube::floats(rows), &cube::ints(slots), &pages, TwoParts::new(&parts));
}

/// `rows [tokens, width]`, `slots [tokens]`; `pages` are written.
pub(super) fn launch(rows: &CubeTensor, slots: &CubeTensor, pages: &PageBuffers, parts: TwoParts) {
    let abilities = Abilities::of(&rows.client);
    let [tokens, width] = cube::dims(rows);
    assert_eq!(width, parts.width(), "values of a row of the cache");
    let least = abilities.plane.unwrap_or(32);
    let units = (parts.widest() / 4).next_power_of_two().clamp(least, least.max(256));
    let written = Written { parts, layout: pages.layout, units, plane: abilities.plane_size() };
    let none = || cube::empty(rows, [1], DType::F32);
    // SAFETY: cubes past the last token do nothing, slots are rows of the pages, and a part is
    // written within its row.
    unsafe {
        write_kernel::launch_unchecked(
            cube::counted(&rows.client),
            cube::cubes(tokens * parts.count()),
            CubeDim::new_1d(units as u32),
            pages.address_type(),
            rows.clone().into_buffer_arg(),
            slots.clone().into_buffer_arg(),
            pages.elements.clone().into_buffer_arg(),
            pages.scales.clone().unwrap_or_else(none).into_buffer_arg(),
            tokens as u32,
            written,
            [cube::elem(rows.dtype), pages.elem()],
        );
    }
}
