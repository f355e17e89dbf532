//! What the command lines of the conformance tests share: exit codes, panics, and output as long as it is read.

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

/// How a run of a command line ended; it becomes the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All holds, or what was asked for is printed.
    Success,
    /// Something does not hold, or was not checked.
    Broken,
    /// The arguments or the environment have no meaning.
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

/// A limit is used up in this many parts: a machine that stands still for a while uses up one of them.
const PARTS: u32 = 20;

/// Receives a value within a limit.
///
/// # Errors
///
/// If none comes in that time, or the sender is gone.
pub fn receive<T>(from: &Receiver<T>, limit: Duration) -> Result<T, RecvTimeoutError> {
    let received = (1..PARTS)
        .map(|_| from.recv_timeout(limit / PARTS))
        .find(|received| !matches!(received, Err(RecvTimeoutError::Timeout)));
    received.unwrap_or_else(|| from.recv_timeout(limit / PARTS))
}

/// The exit code of a command line that ended so; an error of writing is printed to standard error.
pub fn exit_code(ended: io::Result<Status>) -> ExitCode {
    match ended {
        Ok(status) => status.into(),
        // The reader has left before the end.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            // Standard error may be the very stream that cannot be written to.
            let _ = writeln!(io::stderr(), "error: the result cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes what the parser says of arguments that it did not take: help to `out`, an error to `progress`.
///
/// # Errors
///
/// What writing returns.
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
