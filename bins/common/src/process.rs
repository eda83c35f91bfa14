//! What a process is to its operating system.

use rustix::fs::Mode;

/// Makes every file that this process creates from now on readable by its user alone, and every directory too:
/// also the files that a library creates, such as a database's journal. Call it first in `main`.
pub fn private_files() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Bytes of this process that are in memory now; 0 where `/proc` cannot be read.
#[must_use]
pub fn resident_memory() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_occupies_memory() {
        assert!(super::resident_memory() > 100 * 1024);
    }
}
