//! The memory and descriptors of this process. Only Linux reports them.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use conformance_tests::{Broken, Verdict};

/// Returns the resident memory in KiB.
pub(crate) fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Returns the number of open descriptors.
pub(crate) fn descriptors() -> Option<usize> {
    let open = fs::read_dir("/proc/self/fd").ok()?;
    // Without the descriptor that lists them.
    open.count().checked_sub(1)
}

/// Whether the process can use up all descriptors.
pub(crate) const CAN_EXHAUST: bool = cfg!(target_os = "linux");

/// Returns whether an error means that descriptors have run out: EMFILE on Linux.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    error.raw_os_error() == Some(24)
}

/// Holds all descriptors of the process until it is dropped.
pub(crate) struct Exhaustion {
    _taken: Vec<File>,
    #[cfg(target_os = "linux")]
    limit: (u64, u64),
}

impl Exhaustion {
    /// Lowers the limit so that few descriptors are left, and opens those.
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> io::Result<Self> {
        let limit = rlimit::Resource::NOFILE.get()?;
        let open = descriptors().ok_or(io::ErrorKind::Unsupported)? as u64;
        // The numbers of open descriptors have gaps.
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
        // This was the limit before.
        let _ = rlimit::Resource::NOFILE.set(soft, hard);
    }
}

pub(crate) fn mebibytes(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

/// By how many KiB the final peak may exceed the initial peak.
///
/// The peaks come from different pools, and allocators keep varying amounts of freed memory. A leak per connection is
/// far larger, with hundreds of thousands of connections.
const ALLOWED: u64 = 4 * 1024;

/// A shorter soak barely has a pool of each stop mode.
const JUDGED_FROM: Duration = Duration::from_secs(30);

/// Compares the peaks of the beginning and of the last tenth, of samples in KiB. The beginning is a tenth, but at most
/// a minute, and includes the first sample.
pub(crate) fn growth(samples: &[(Duration, u64)], took: Duration) -> (String, Verdict) {
    let peak = |within: &dyn Fn(Duration) -> bool| {
        let samples = samples.iter().filter(|(at, _)| within(*at));
        samples.map(|(_, resident)| *resident).max()
    };
    let Some((sooner, _)) = samples.first() else {
        return ("not measured: only Linux reports it".to_owned(), Ok(()));
    };
    let beginning = (took / 10).min(Duration::from_secs(60)).max(*sooner);
    let first = peak(&|at| at <= beginning).unwrap_or(0);
    let last = peak(&|at| at >= took - took / 10).unwrap_or(0);
    let (in_words, most) = ([first, last].map(mebibytes), first + ALLOWED);
    let text = format!("{} at the start, {} at the end", in_words[0], in_words[1]);
    if took < JUDGED_FROM {
        return (format!("{text}; judged from {JUDGED_FROM:?} on"), Ok(()));
    }
    let expected = format!("at most {} of memory at the end", mebibytes(most));
    let broken = Broken::new(expected, text.clone());
    (text, if last > most { Err(broken) } else { Ok(()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the growth in a soak with one sample per second, starting from 8 MiB.
    fn soak(seconds: u64, kib_a_second: u64) -> (String, Verdict) {
        let sample = |at| (Duration::from_secs(at), 8 * 1024 + at * kib_a_second);
        let samples: Vec<_> = (0..=seconds).map(sample).collect();
        growth(&samples, Duration::from_secs(seconds))
    }

    #[test]
    fn leak_is_found_in_a_long_soak() {
        let text = "8.0 MiB at the start, 8.5 MiB at the end";
        assert_eq!(soak(600, 1), (text.to_owned(), Ok(())));
        let broken = soak(600, 10).1.expect_err("the memory grows");
        assert_eq!(broken.expected, "at most 12.5 MiB of memory at the end");
        let (text, verdict) = soak(29, 1_000);
        assert!(text.ends_with("; judged from 30s on"));
        assert_eq!(verdict, Ok(()));
    }
}
