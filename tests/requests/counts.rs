//! Counters and maxima of a run.

use std::collections::BTreeMap;
use std::sync::Mutex;

static COUNTS: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Increments a counter.
pub(crate) fn count(what: &'static str) {
    *COUNTS.lock().expect("no panic").entry(what).or_default() += 1;
}

/// Updates a maximum.
pub(crate) fn most(what: &'static str, value: u64) {
    let mut counts = COUNTS.lock().expect("no panic");
    let most = counts.entry(what).or_default();
    *most = value.max(*most);
}

pub(crate) fn print() {
    for (what, count) in &*COUNTS.lock().expect("no panic") {
        println!("{what}: {count}");
    }
}
