//! The suite from the command line, on the runtimes that have an adapter.

use std::io::{self, Write};
use std::process::ExitCode;

use conformance_tests::command_line::{CommandLine, silence_panics};
use conformance_tests::runtimes;

fn main() -> ExitCode {
    silence_panics();
    let command_line = CommandLine::new(runtimes::columns());
    #[cfg(feature = "scenarios")]
    let command_line =
        command_line.progress(conformance_tests::command_line::Progress::of_standard_error());
    let told = command_line.run(std::env::args_os(), &mut io::stdout(), &mut io::stderr());
    match told {
        Ok(status) => status.into(),
        // Nobody reads how far it is: it gave up before all was checked.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            // Perhaps it is this very stream that cannot be written to.
            let _ = writeln!(io::stderr(), "error: the result cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}
