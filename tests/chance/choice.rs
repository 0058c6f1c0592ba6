//! Random choices that a seed reproduces.

use crate::random::Random;

/// One of the items.
pub(crate) fn pick<T: Copy>(random: &mut Random, of: &[T]) -> T {
    let count = u64::try_from(of.len()).expect("a slice is not that long");
    of[usize::try_from(random.below(count)).expect("an index fits")]
}

/// True with probability 1/`of`.
pub(crate) const fn one_in(random: &mut Random, of: u64) -> bool {
    random.below(of) == 0
}

/// A random number below `bound`.
pub(crate) fn index(random: &mut Random, bound: usize) -> usize {
    let bound = u64::try_from(bound).expect("a count is not that long");
    usize::try_from(random.below(bound)).expect("an index fits")
}
