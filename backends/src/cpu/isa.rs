//! Instruction sets, found out at run time.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Instructions that kernels are written for, each with all of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// What every CPU of the architecture has.
    Portable,
    /// 128 bits of ARM.
    Neon,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with VBMI and VNNI: Ice Lake, Zen 4 and later.
    Vnni,
    /// Tiles of bf16 (AMX).
    Amx,
}

impl Isa {
    /// All of them, from the least to the most.
    pub const ALL: [Isa; 6] =
        [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Vnni, Isa::Amx];

    /// Its name, as [`Isa::by_name`] takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Vnni => "vnni",
            Isa::Amx => "amx",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// The instruction sets of this CPU, from the least to the most.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// What kernels take: the most there is, or what [`Isa::limit`] left.
    #[must_use]
    pub fn current() -> Isa {
        let limit = LIMIT.load(Ordering::Relaxed);
        let allowed = |isa: &&Isa| **isa as u8 <= limit;
        AVAILABLE.iter().rev().find(allowed).copied().unwrap_or(Isa::Portable)
    }

    /// f32 values of a vector, as [`Vector::LANES`](super::vector::Vector::LANES) says.
    pub(super) fn lanes(self) -> usize {
        if self >= Isa::Avx512 { 16 } else { 8 }
    }

    /// Takes nothing past this one from now on, for tests of the paths of other CPUs.
    pub fn limit(self) {
        LIMIT.store(self as u8, Ordering::Relaxed);
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma") && has!("f16c");
        let avx512 =
            avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
        let vnni = avx512 && has!("avx512vnni") && has!("avx512vbmi");
        match self {
            Isa::Portable => true,
            Isa::Neon => false,
            Isa::Avx2 => avx2,
            Isa::Avx512 => avx512,
            Isa::Vnni => vnni,
            Isa::Amx => vnni && super::amx::is_available(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            // Every 64-bit ARM has it.
            Isa::Neon => cfg!(target_arch = "aarch64"),
            Isa::Avx2 | Isa::Avx512 | Isa::Vnni | Isa::Amx => false,
        }
    }
}

static AVAILABLE: LazyLock<Vec<Isa>> = LazyLock::new(Isa::available);
static LIMIT: AtomicU8 = AtomicU8::new(u8::MAX);

/// Runs a function of a [`Vector`](super::vector::Vector) with the vectors of an instruction set, in
/// code that is compiled for it.
macro_rules! dispatch {
    ($isa:expr, $function:ident ( $($name:ident : $type:ty),* $(,)? ) $(-> $result:ty)?) => {{
        use $crate::cpu::vector;
        use $crate::cpu::isa::Isa;
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Vnni | Isa::Amx => {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                unsafe fn compiled($($name: $type),*) $(-> $result)? {
                    // SAFETY: the caller's.
                    unsafe { $function::<vector::Avx512>($($name),*) }
                }
                compiled($($name),*)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn compiled($($name: $type),*) $(-> $result)? {
                    // SAFETY: the caller's.
                    unsafe { $function::<vector::Avx2>($($name),*) }
                }
                compiled($($name),*)
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => $function::<vector::Neon>($($name),*),
            _ => $function::<vector::Portable>($($name),*),
        }
    }};
}
pub(crate) use dispatch;
