//! A repository's objects with the sizes that real ones have.

// Each benchmark uses its own part of this.
#![allow(dead_code)]

use super::common::TestRepo;

/// Sizes in bytes below which a share of a desktop system's objects is: the
/// median is 3.1 KiB, and one in a hundred is larger than 330 KB.
const SIZES: [(f64, f64); 6] = [
    (0.0, 40.0),
    (0.25, 700.0),
    (0.5, 3_174.0),
    (0.9, 40_000.0),
    (0.99, 330_000.0),
    (1.0, 2_000_000.0),
];

/// The size of the median object.
pub const MEDIAN: usize = 3_174;
/// A size that few objects exceed.
pub const LARGE: usize = 330_000;

/// Puts this many objects into the repository, and gives their names in an order
/// that has nothing to do with size.
pub fn plant(repo: &TestRepo, count: usize) -> Vec<String> {
    /// A prime, so that every object has its turn.
    const STRIDE: usize = 7_919;
    (0..count)
        .map(|number| number * STRIDE % count)
        .map(|rank| repo.plant_object(size((rank as f64 + 0.5) / count as f64)))
        .collect()
}

fn size(share: f64) -> usize {
    size_at(&SIZES, share)
}

/// The size below which a share of files is, by a table of such shares. Between two
/// known ones, sizes grow evenly in their logarithm.
pub fn size_at(sizes: &[(f64, f64)], share: f64) -> usize {
    let above = sizes.iter().position(|&(limit, _)| share < limit);
    let above = above.unwrap_or(sizes.len() - 1).max(1);
    let ((from, small), (to, large)) = (sizes[above - 1], sizes[above]);
    let position = (share - from) / (to - from);
    (small * (large / small).powf(position)).round() as usize
}
