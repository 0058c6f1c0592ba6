//! How the C library allocates memory.
#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "no crate has a safe interface of mallopt")
)]

/// Returns each block of 128 KiB or more to the operating system when it is freed. By default glibc raises this size whenever
/// such a block is freed (mallopt(3), M_MMAP_THRESHOLD): large answers then leave holes in the heap, and the process keeps
/// several times the memory that it uses. Other C libraries have no such setting. Call it before other threads start.
pub fn return_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::libc::{M_MMAP_THRESHOLD, mallopt};
        // SAFETY: the function takes two numbers and changes only how glibc allocates from now on. It refuses an unknown
        // setting by its result, and then memory use is as by default.
        unsafe {
            mallopt(M_MMAP_THRESHOLD, 128 * 1_024);
        }
    }
}
