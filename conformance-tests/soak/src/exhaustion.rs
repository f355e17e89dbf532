//! A process without a descriptor left, for a moment.

use std::fs::File;
use std::io;

/// Whether it can be brought about: only Linux tells how many descriptors are open.
pub(super) const POSSIBLE: bool = cfg!(target_os = "linux");

/// What the system says to who asks for one more: Linux, where alone it is asked for.
const TOO_MANY_OPEN_FILES: i32 = 24;

/// Whether an error is what comes of it.
pub(super) fn is_cause_of(error: &io::Error) -> bool {
    error.raw_os_error() == Some(TOO_MANY_OPEN_FILES)
}

/// Takes all descriptors that there are; dropping it gives them back.
///
/// The limit is lowered first, so that there are few. Concerns the whole process.
#[derive(Debug)]
pub(super) struct Exhausted {
    _taken: Vec<File>,
    _limit: Lowered,
}

impl Exhausted {
    /// # Errors
    ///
    /// What the system says.
    pub(super) fn now() -> io::Result<Self> {
        let limit = Lowered::now()?;
        let mut taken = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            taken.push(file);
        }
        Ok(Self {
            _taken: taken,
            _limit: limit,
        })
    }
}

/// A lower limit of descriptors, until it is dropped.
#[derive(Debug)]
struct Lowered {
    #[cfg(target_os = "linux")]
    before: (u64, u64),
}

#[cfg(target_os = "linux")]
impl Lowered {
    /// How many more there may be than are open: some, for the numbers of those that are open have gaps.
    const MORE: u64 = 16;

    fn now() -> io::Result<Self> {
        use super::process;

        let (soft, hard) = rlimit::Resource::NOFILE.get()?;
        let open = process::descriptors().ok_or(io::ErrorKind::Unsupported)?;
        rlimit::Resource::NOFILE.set(soft.min(open as u64 + Self::MORE), hard)?;
        Ok(Self {
            before: (soft, hard),
        })
    }
}

#[cfg(target_os = "linux")]
impl Drop for Lowered {
    fn drop(&mut self) {
        let (soft, hard) = self.before;
        // It was allowed before.
        let _ = rlimit::Resource::NOFILE.set(soft, hard);
    }
}

#[cfg(not(target_os = "linux"))]
impl Lowered {
    fn now() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
