//! What this process takes from the system: memory and descriptors. Only Linux tells.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

/// The resident memory, in KiB.
pub(crate) fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The number of open descriptors.
pub(crate) fn descriptors() -> Option<usize> {
    let open = fs::read_dir("/proc/self/fd").ok()?;
    // Without the one that lists them.
    open.count().checked_sub(1)
}

/// Whether descriptors can be made to run out.
pub(crate) const CAN_EXHAUST: bool = cfg!(target_os = "linux");

/// Whether an error says that descriptors have run out: EMFILE of Linux.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    error.raw_os_error() == Some(24)
}

/// All descriptors of the process, until it is dropped.
#[derive(Debug)]
pub(crate) struct Exhaustion {
    _taken: Vec<File>,
    #[cfg(target_os = "linux")]
    limit: (u64, u64),
}

impl Exhaustion {
    /// Lowers the limit, so that few are left, and takes those.
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> io::Result<Self> {
        let limit = rlimit::Resource::NOFILE.get()?;
        let open = descriptors().ok_or(io::ErrorKind::Unsupported)? as u64;
        // The numbers of those that are open have gaps.
        let lower = limit.0.min(open + 16);
        rlimit::Resource::NOFILE.set(lower, limit.1)?;
        let files = std::iter::repeat_with(|| File::open("/dev/null"));
        Ok(Self {
            _taken: files.map_while(Result::ok).collect(),
            limit,
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(target_os = "linux")]
impl Drop for Exhaustion {
    fn drop(&mut self) {
        let (soft, hard) = self.limit;
        // It was allowed before.
        let _ = rlimit::Resource::NOFILE.set(soft, hard);
    }
}

/// The peak of the end may exceed the peak of the beginning by so many KiB.
///
/// The peaks are those of different pools, and allocators keep more or less of
/// the freed memory. A leak of each connection is far more: there are hundreds
/// of thousands of them.
pub(crate) const ALLOWED_GROWTH: u64 = 4 * 1024;

/// A shorter soak has hardly a pool of each stop mode.
pub(crate) const JUDGED_FROM: Duration = Duration::from_secs(30);

/// The beginning, in a soak that is long enough; else a tenth of it.
const BEGINNING: Duration = Duration::from_secs(60);

/// The peaks of the beginning and of the last tenth, of samples in KiB; nothing if the soak was too short.
pub(crate) fn peaks(samples: &[(Duration, u64)], took: Duration) -> Option<[u64; 2]> {
    if took < JUDGED_FROM {
        return None;
    }
    let beginning = if took >= BEGINNING * 2 {
        BEGINNING
    } else {
        took / 10
    };
    let peak = |within: &dyn Fn(Duration) -> bool| {
        let samples = samples.iter().filter(|(at, _)| within(*at));
        samples.map(|(_, resident)| *resident).max()
    };
    let first = peak(&|at| at <= beginning)?;
    let last = peak(&|at| at >= took - took / 10)?;
    Some([first, last])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peaks of a soak with a sample each second.
    #[track_caller]
    fn check(seconds: u64, resident: impl Fn(u64) -> u64, expected: Option<[u64; 2]>) {
        let at = Duration::from_secs;
        let samples: Vec<_> = (0..=seconds).map(|s| (at(s), resident(s))).collect();
        assert_eq!(peaks(&samples, at(seconds)), expected);
    }

    #[test]
    fn the_first_minute_and_the_last_tenth_count() {
        let resident = |second| match second {
            60 => 9_000,
            61..540 => 90_000,
            599 => 13_000,
            _ => 8_000,
        };
        check(600, resident, Some([9_000, 13_000]));
    }

    #[test]
    fn a_short_soak_begins_with_a_tenth() {
        check(40, |second| 8_000 + second, Some([8_004, 8_040]));
    }

    #[test]
    fn a_soak_of_moments_has_no_peaks() {
        check(29, |second| 1_000 * second, None);
    }
}
