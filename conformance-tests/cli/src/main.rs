//! The conformance suite's command line for runtimes with an adapter.

use std::io;
use std::process::ExitCode;

use conformance_cli::{CommandLine, worlds};
use conformance_console::{exit_code, silence_panics};

fn main() -> ExitCode {
    silence_panics();
    let command_line = CommandLine::new(worlds::columns());
    exit_code(command_line.run(std::env::args_os(), &mut io::stdout(), &mut io::stderr()))
}
