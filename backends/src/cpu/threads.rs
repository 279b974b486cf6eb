//! Work in pieces, which the threads of rayon take one after the other. None of them spins for long
//! where there is no work.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `work` with `0..pieces`, on all threads where it is `parallel`.
pub(crate) fn in_pieces(pieces: usize, parallel: bool, work: impl Fn(usize) + Sync) {
    let threads = rayon::current_num_threads().min(pieces);
    if !parallel || threads < 2 {
        (0..pieces).for_each(work);
        return;
    }
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                break;
            }
            work(piece);
        }
    };
    // A thread that wakes late finds nothing left.
    rayon::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| run());
        }
        run();
    });
}

/// Values that several threads write, each to places of its own.
#[derive(Debug)]
pub(crate) struct Shared<'a, T> {
    first: *mut T,
    count: usize,
    values: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: `write` and `part` ask for places of the caller's own.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Shared { first: values.as_mut_ptr(), count: values.len(), values: PhantomData }
    }

    /// Writes one value.
    ///
    /// # Safety
    /// Nobody else reads or writes it meanwhile.
    ///
    /// # Panics
    /// Past the end.
    #[inline(always)]
    pub(crate) unsafe fn write(self, place: usize, value: T) {
        assert!(place < self.count, "a place within {}", self.count);
        // SAFETY: within the values, and the caller's alone.
        unsafe { self.first.add(place).write(value) }
    }

    /// Some of the values.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the part lives.
    ///
    /// # Panics
    /// Past the end.
    #[inline(always)]
    pub(crate) unsafe fn part(self, first: usize, count: usize) -> &'a mut [T] {
        let end = first.checked_add(count).expect("a length");
        assert!(end <= self.count, "{first} and {count} within {}", self.count);
        // SAFETY: within the values, and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(first), count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_worked_on_once() {
        for (pieces, parallel) in [(0, true), (1, true), (1000, true), (7, false)] {
            let mut counts = vec![0; pieces];
            let shared = Shared::new(&mut counts);
            // SAFETY: a piece has its own place.
            in_pieces(pieces, parallel, |piece| unsafe { shared.part(piece, 1)[0] += 1 });
            assert!(counts.iter().all(|count| *count == 1), "{counts:?}");
        }
    }
}
