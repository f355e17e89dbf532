//! A process without a descriptor left, for a moment.

use std::fs::File;
use std::io;

use rlimit::Resource;

use super::process;

/// Takes all descriptors that there are; dropping it gives them back.
///
/// The limit is lowered first, so that there are few. Concerns the whole process.
#[derive(Debug)]
pub(super) struct Exhausted {
    limits: (u64, u64),
    taken: Vec<File>,
}

/// How many more there are with the lowered limit than are open: some, for the numbers of those that are open have gaps.
const MORE: u64 = 16;

impl Exhausted {
    /// # Errors
    ///
    /// What the system says.
    pub(super) fn now() -> io::Result<Self> {
        let (soft, hard) = Resource::NOFILE.get()?;
        let open = process::descriptors().ok_or(io::ErrorKind::Unsupported)?;
        let mut exhausted = Self {
            limits: (soft, hard),
            taken: Vec::new(),
        };
        Resource::NOFILE.set(soft.min(open as u64 + MORE), hard)?;
        while let Ok(file) = File::open("/dev/null") {
            exhausted.taken.push(file);
        }
        Ok(exhausted)
    }
}

impl Drop for Exhausted {
    fn drop(&mut self) {
        let (soft, hard) = self.limits;
        // It was allowed before.
        let _ = Resource::NOFILE.set(soft, hard);
    }
}
