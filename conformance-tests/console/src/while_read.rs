//! Output to a reader that may stop early, which does not change the result.

use std::fmt;
use std::io::{self, Write};

/// Writes until the reader stops reading; later output is discarded without an error.
pub struct WhileRead<'a> {
    /// `None` once the reader has stopped.
    out: Option<&'a mut dyn Write>,
}

impl fmt::Debug for WhileRead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhileRead").finish_non_exhaustive()
    }
}

impl<'a> WhileRead<'a> {
    /// Writes to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out: Some(out) }
    }

    fn attempt<T>(
        &mut self,
        lost: T,
        write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(out) = &mut self.out else {
            return Ok(lost);
        };
        let written = write(*out);
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.out = None;
                Ok(lost)
            }
            written => written,
        }
    }
}

impl Write for WhileRead<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(bytes.len(), |out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt((), |out| out.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts this many bytes, then fails with this error.
    struct Taking {
        bytes: usize,
        error: io::ErrorKind,
    }

    impl Write for Taking {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.bytes == 0 {
                return Err(self.error.into());
            }
            let taken = bytes.len().min(self.bytes);
            self.bytes -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            match self.bytes {
                0 => Err(self.error.into()),
                _ => Ok(()),
            }
        }
    }

    fn written(error: io::ErrorKind) -> io::Result<()> {
        let mut out = Taking { bytes: 10, error };
        let mut out = WhileRead::new(&mut out);
        for _ in 0..3 {
            writeln!(out, "a line")?;
        }
        out.flush()
    }

    #[test]
    fn broken_pipe_is_no_error() {
        assert!(written(io::ErrorKind::BrokenPipe).is_ok());
    }

    #[test]
    fn full_disk_is_an_error() {
        let error = written(io::ErrorKind::StorageFull).expect_err("the disk is full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
