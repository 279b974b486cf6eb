//! Products of NVIDIA's matrix units, instruction by instruction.

use cubecl::prelude::*;

/// `a · b + c` for a plane, of 16 rows of `a` and 8 of `b` that are `k` values of `kind` long: `16` of
/// `bf16` or `f16`, `32` of `e4m3` (`mma.sync.m16n8k` of the
/// [PTX ISA](https://docs.nvidia.com/cuda/parallel-thread-execution/)). Lane `4 * row + part` holds of
/// each operand the words `part` and `part + 4` of a row's eight, of `a` for its row and the eighth
/// below it, and of the result the columns `2 * part` and `2 * part + 1` of both.
///
/// Written out, because CubeCL 0.11.3 asks for a kind of E4M3's that sm_89 and sm_90 do not have.
#[cube]
#[expect(clippy::too_many_arguments, reason = "the operands of an instruction")]
pub(crate) fn multiply(
    a0: u32,
    a1: u32,
    a2: u32,
    a3: u32,
    b0: u32,
    b1: u32,
    c: Vector<f32, Const<4>>,
    #[comptime] k: usize,
    #[comptime] kind: &str,
) -> Vector<f32, Const<4>> {
    let (c0, c1) = (c.extract(0usize), c.extract(1usize));
    let (c2, c3) = (c.extract(2usize), c.extract(3usize));
    let out: Vector<f32, Const<4>>;
    gpu_asm!(
        "mma.sync.aligned.m16n8k{k}.row.col.f32.{kind}.{kind}.f32 ",
        "{d}, {{{a0}, {a1}, {a2}, {a3}}}, {{{b0}, {b1}}}, {{{c0}, {c1}, {c2}, {c3}}};",
        a0 = in(_) a0,
        a1 = in(_) a1,
        a2 = in(_) a2,
        a3 = in(_) a3,
        b0 = in(_) b0,
        b1 = in(_) b1,
        c0 = in(_) c0,
        c1 = in(_) c1,
        c2 = in(_) c2,
        c3 = in(_) c3,
        d = out(_) out,
        options(nomem),
    );
    out
}
