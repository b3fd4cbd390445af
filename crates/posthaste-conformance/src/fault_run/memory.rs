//! How much memory this process takes, where the system tells.

/// Resident memory, first, last and at most, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Peak {
    first: Option<u64>,
    last: Option<u64>,
    most: Option<u64>,
}

impl Peak {
    pub(super) fn look(&mut self) {
        let now = resident();
        self.first = self.first.or(now);
        self.last = now;
        self.most = self.most.max(now);
    }

    /// First, last and at most.
    pub(super) fn all(&self) -> Option<(u64, u64, u64)> {
        Some((self.first?, self.last?, self.most?))
    }
}

/// Linux tells by a file, others do not.
fn resident() -> Option<u64> {
    read(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn read(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_process_is_read() {
        assert_eq!(read("Name:\tx\nVmRSS:\t   1234 kB\nThreads: 1\n"), Some(1_234 * 1_024));
        assert_eq!(read("Name:\tx\n"), None);
    }
}
