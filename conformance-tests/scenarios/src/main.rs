//! Runs random scenarios of a pool in a simulated world, and checks them against a model.

use std::io;
use std::process::ExitCode;

use conformance_console::{exit_code, silence_panics};
use conformance_scenarios::command_line::execute;

fn main() -> ExitCode {
    silence_panics();
    let (mut out, mut progress) = (io::stdout(), io::stderr());
    exit_code(execute(std::env::args_os(), &mut out, &mut progress))
}
