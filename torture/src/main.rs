//! The fault harness.

use std::process::ExitCode;

fn main() -> ExitCode {
    torture::cli::main()
}
