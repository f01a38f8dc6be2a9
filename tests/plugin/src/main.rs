//! The `eas` command with this package's plugins in it.

use std::process::ExitCode;

// Naming the library links it, and with it what it registers.
use demo_plugin as _;

fn main() -> ExitCode {
    eas_cli::main()
}
