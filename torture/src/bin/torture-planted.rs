//! The server and the power cuts, built with bugs that can be turned on.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some("serve") => catchall::cli::main(),
        _ => torture::cli::main(),
    }
}
