//! How the C library allocates memory.
#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "no crate has a safe interface of mallopt")
)]

/// Makes glibc keep little memory that is free (mallopt(3)); other C libraries have no such settings. Call it before other
/// threads start.
///
/// Each block of 128 KiB or more is returned to the operating system when it is freed (M_MMAP_THRESHOLD). By default glibc
/// raises this size whenever such a block is freed: large answers then leave holes in the heap, and the process keeps several
/// times the memory that it uses.
///
/// All threads share two heaps (M_ARENA_MAX). By default there are up to eight for each processor, and each keeps what its
/// threads needed at most: with a thread for each connection to SQLite the process kept half as much again.
pub fn limit_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, mallopt};
        for (setting, value) in [(M_MMAP_THRESHOLD, 128 * 1_024), (M_ARENA_MAX, 2)] {
            // SAFETY: the function takes two numbers and changes only how glibc allocates from now on. It refuses an
            // unknown setting by its result, and then memory use is as by default.
            unsafe {
                mallopt(setting, value);
            }
        }
    }
}
