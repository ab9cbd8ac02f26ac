//! The catchall server.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Every request allocates a dozen small things. Events cost clearly less CPU
/// than with the system's allocator (docs/performance.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const _: () = assert!(
    !foundation::planted::POSSIBLE,
    "the server that ships cannot have a bug planted"
);

fn main() -> ExitCode {
    catchall::cli::main()
}
