//! What this process takes from the system: memory and descriptors. Only Linux tells.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use conformance_tests::{Broken, Verdict};

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

pub(crate) fn mebibytes(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

/// The peak of the end may exceed the peak of the beginning by so many KiB.
///
/// The peaks are those of different pools, and allocators keep more or less of
/// the freed memory. A leak of each connection is far more: there are hundreds
/// of thousands of them.
const ALLOWED: u64 = 4 * 1024;

/// A shorter soak has hardly a pool of each stop mode.
const JUDGED_FROM: Duration = Duration::from_secs(30);

/// Compares the peaks of the beginning and of the last tenth, of samples in KiB. The beginning is a tenth, but at
/// most a minute, and the first sample in any case.
pub(crate) fn growth(samples: &[(Duration, u64)], took: Duration) -> (String, Verdict) {
    let peak = |within: &dyn Fn(Duration) -> bool| {
        let samples = samples.iter().filter(|(at, _)| within(*at));
        samples.map(|(_, resident)| *resident).max()
    };
    let Some((sooner, _)) = samples.first() else {
        return ("not measured: only Linux tells".to_owned(), Ok(()));
    };
    let beginning = (took / 10).min(Duration::from_secs(60)).max(*sooner);
    let first = peak(&|at| at <= beginning).unwrap_or(0);
    let last = peak(&|at| at >= took - took / 10).unwrap_or(0);
    let (in_words, most) = ([first, last].map(mebibytes), first + ALLOWED);
    let text = format!(
        "{} in the beginning, {} in the end",
        in_words[0], in_words[1]
    );
    if took < JUDGED_FROM {
        return (format!("{text}; judged from {JUDGED_FROM:?} on"), Ok(()));
    }
    let expected = format!("at most {} of memory in the end", mebibytes(most));
    let broken = Broken::new(expected, text.clone());
    (text, if last > most { Err(broken) } else { Ok(()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The growth in a soak with a sample each second, from 8 MiB on.
    fn soak(seconds: u64, kib_a_second: u64) -> (String, Verdict) {
        let sample = |at| (Duration::from_secs(at), 8 * 1024 + at * kib_a_second);
        let samples: Vec<_> = (0..=seconds).map(sample).collect();
        growth(&samples, Duration::from_secs(seconds))
    }

    #[test]
    fn a_leak_is_found_in_a_soak_that_is_long_enough() {
        let text = "8.0 MiB in the beginning, 8.5 MiB in the end";
        assert_eq!(soak(600, 1), (text.to_owned(), Ok(())));
        let broken = soak(600, 10).1.expect_err("it leaks");
        assert_eq!(broken.expected, "at most 12.5 MiB of memory in the end");
        let (text, verdict) = soak(29, 1_000);
        assert!(text.ends_with("; judged from 30s on"));
        assert_eq!(verdict, Ok(()));
    }
}
