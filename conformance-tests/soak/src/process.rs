//! What this process takes of the system: memory and descriptors. Only Linux tells.

use std::fs;

/// Why nothing is told elsewhere.
pub(super) const ONLY_LINUX: &str = "not measured: only Linux has /proc/self";

/// The resident memory, in KiB.
pub(super) fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// How many descriptors are open.
pub(super) fn descriptors() -> Option<usize> {
    let open = fs::read_dir("/proc/self/fd").ok()?;
    // Without the one that they are read with.
    open.count().checked_sub(1)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_memory_and_descriptors() {
        let resident = resident().expect("Linux tells it");
        assert!(resident > 100, "{resident} KiB");
        let before = descriptors().expect("Linux tells it");
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null")).collect();
        let with = descriptors().expect("Linux tells it");
        assert!(files.iter().all(Result::is_ok));
        // Other tests of this process open and close some meanwhile.
        assert!(with + 25 >= before + files.len(), "{before}, then {with}");
    }
}
