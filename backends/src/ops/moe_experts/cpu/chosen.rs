//! The experts of a step, and who chose them.

use std::ops::Range;

/// The experts of one buffer.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(super) first: usize,
    pub(super) count: usize,
}

/// Which tokens chose each expert of a group.
pub(super) struct Chosen {
    /// Expert within the group and its part of `places`; experts that nobody chose are left out.
    pub(super) experts: Vec<(usize, Range<usize>)>,
    /// Token and place in the flattened `[tokens, choices]` table, by expert.
    pub(super) places: Vec<(usize, usize)>,
}

impl Chosen {
    pub(super) fn new(ids: &[usize], choices: usize, group: &Group) -> Self {
        let mut by_expert = vec![Vec::new(); group.count];
        for (place, id) in ids.iter().enumerate() {
            // A padded token names the first id past the experts.
            if let Some(list) = id.checked_sub(group.first).and_then(|id| by_expert.get_mut(id)) {
                list.push((place / choices, place));
            }
        }
        let (mut experts, mut places) = (Vec::new(), Vec::new());
        for (expert, list) in by_expert.into_iter().enumerate().filter(|(_, it)| !it.is_empty()) {
            experts.push((expert, places.len()..places.len() + list.len()));
            places.extend(list);
        }
        Chosen { experts, places }
    }
}
