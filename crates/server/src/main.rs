//! The binary `neo-events`. Everything is in the library beside it, so that tests can start the real server.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A sixth of the server's CPU under load was the C library's allocator: memory is taken on one thread and given back on
/// another, in all sizes.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    neo_events_server::cli::main()
}
