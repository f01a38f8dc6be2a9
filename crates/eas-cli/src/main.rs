//! The `eas` command with the built-in plugins.

use std::process::ExitCode;

/// Training allocates and frees large buffers in every step; the system's allocator hands them back
/// to the kernel each time, which zeroes them anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    eas_cli::main()
}
