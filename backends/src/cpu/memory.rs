//! Memory of the host.

/// Bytes that are asked for before they are needed.
const AHEAD: usize = 8 << 10;

/// How far the bytes are that are needed soon, where some rows of `stride` bytes are read side by side
/// and those after them next.
#[inline(always)]
pub(super) fn ahead(rows: usize, stride: usize) -> usize {
    let step = rows * stride;
    step * AHEAD.div_ceil(step.max(1)).max(1)
}

/// Asks for the line of the cache that is `offset` bytes after `from`, perhaps past the end of what is
/// there. Processors foresee long rows themselves, but not where the next of short ones begins.
#[inline(always)]
pub(super) fn prefetch(from: *const u8, offset: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing but caches, and one of any address is without effect
        // at worst.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(offset).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, offset);
}

/// The same for what is needed later than the first cache keeps it.
#[inline(always)]
pub(crate) fn prefetch_far(from: *const u8, offset: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(offset).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, offset);
}

/// Asks the system to keep memory in large pages: reading weights, and a long cache, then waits less
/// for the addresses of pages (by a quarter in a virtual machine). What the system makes of it is its
/// own affair, and nothing depends on it.
pub fn use_large_pages<T>(first: *const T, count: usize) {
    #[cfg(target_os = "linux")]
    {
        /// Less is not worth a call.
        const LEAST: usize = 4 << 20;
        const PAGE: usize = 4096;
        let (start, bytes) = (first.addr(), count * size_of::<T>());
        let (from, to) = (start.next_multiple_of(PAGE), (start + bytes) / PAGE * PAGE);
        if bytes >= LEAST {
            let address = first.cast_mut().cast::<u8>().wrapping_add(from - start);
            // SAFETY: the advice changes no contents, and an address that is not the process's own is
            // an error that is not looked at.
            let _ = unsafe { libc::madvise(address.cast(), to - from, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (first, count);
}
