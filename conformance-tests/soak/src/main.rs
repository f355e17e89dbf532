//! Soaks pools on real sockets.

use std::io;
use std::process::ExitCode;

use conformance_console::{exit_code, silence_panics};
use conformance_soak::{run, targets};

fn main() -> ExitCode {
    silence_panics();
    let (out, progress) = (&mut io::stdout(), &mut io::stderr());
    exit_code(run(targets(), std::env::args_os(), out, progress))
}
