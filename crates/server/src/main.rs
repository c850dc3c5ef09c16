//! The binary `neo-events`. Everything is in the library beside it, so that tests can start the real server.

use std::process::ExitCode;

fn main() -> ExitCode {
    neo_events_server::cli::main()
}
