//! Runs random scenarios of a pool in a simulated world, and checks them against a model.

use std::io;
use std::process::ExitCode;

use conformance_console::{exit_code, silence_panics};
use conformance_scenarios::command_line::{Progress, run};

fn main() -> ExitCode {
    silence_panics();
    let progress = Progress::of_standard_error();
    exit_code(run(
        std::env::args_os(),
        &mut io::stdout(),
        &mut io::stderr(),
        progress,
    ))
}
