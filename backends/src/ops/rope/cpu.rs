//! Rotation on the CPU.

use super::RopeOrder;

/// Rotates the first values of a head in place.
#[inline]
pub(in crate::ops) fn rotate(order: RopeOrder, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let pairs = cos.len();
    match order {
        RopeOrder::HalfSplit => {
            let (first, rest) = head.split_at_mut(pairs);
            for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
        RopeOrder::Interleaved => {
            for ([a, b], (cos, sin)) in
                head.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin))
            {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}
