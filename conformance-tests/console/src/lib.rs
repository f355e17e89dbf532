//! Code shared by the command lines of the conformance tests: exit codes, panics, and output to a reader that may stop
//! early.

mod grouped;
mod panics;
mod while_read;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

pub use self::grouped::grouped;
pub use self::panics::{caught, silence_panics};
pub use self::while_read::WhileRead;

/// The result of a command line, which becomes the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Everything holds, or the requested output is printed.
    Success,
    /// A check failed or did not run.
    Broken,
    /// The arguments or the environment are invalid.
    Usage,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(match status {
            Status::Success => 0,
            Status::Broken => 1,
            Status::Usage => 2,
        })
    }
}

/// A limit is spent in this many parts, so that a machine that stalls uses up only one of them.
const PARTS: u32 = 20;

/// Receives a value within a limit.
///
/// # Errors
///
/// If no value arrives in that time, or the sender is gone.
pub fn receive<T>(from: &Receiver<T>, limit: Duration) -> Result<T, RecvTimeoutError> {
    let received = (1..PARTS)
        .map(|_| from.recv_timeout(limit / PARTS))
        .find(|received| !matches!(received, Err(RecvTimeoutError::Timeout)));
    received.unwrap_or_else(|| from.recv_timeout(limit / PARTS))
}

/// Converts the result of a command line to its exit code, and prints an error of writing to standard error.
pub fn exit_code(ended: io::Result<Status>) -> ExitCode {
    match ended {
        Ok(status) => status.into(),
        // The reader stopped before the end.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            // Standard error may be the very stream that cannot be written.
            let _ = writeln!(io::stderr(), "error: the result cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the parser's message about rejected arguments: help to `out`, an error to `progress`.
///
/// # Errors
///
/// The errors of writing.
pub fn write_usage(
    text: &dyn std::fmt::Display,
    is_error: bool,
    out: &mut dyn Write,
    progress: &mut dyn Write,
) -> io::Result<Status> {
    if is_error {
        write!(progress, "{text}")?;
        return Ok(Status::Usage);
    }
    write!(out, "{text}")?;
    Ok(Status::Success)
}
