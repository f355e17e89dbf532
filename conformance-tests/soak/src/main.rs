//! Soaks pools on real sockets.

use std::io;
use std::process::ExitCode;

use conformance_console::{exit_code, silence_panics};
use conformance_soak::run;

fn main() -> ExitCode {
    silence_panics();
    exit_code(run(
        std::env::args_os(),
        &mut io::stdout(),
        &mut io::stderr(),
    ))
}
