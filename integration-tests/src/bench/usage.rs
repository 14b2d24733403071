//! Resources that a process has used, read from `/proc` on Linux.

use std::{fs, time::Duration};

/// Resources used since the start of the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// CPU time of all threads, in user mode and in the kernel.
    pub(super) cpu: Duration,
    /// Bytes written towards the disk.
    pub(super) written_bytes: u64,
    pub(super) memory: Memory,
}

/// Memory in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub resident: u64,
    /// Peak of the resident memory.
    pub peak: u64,
}

impl Usage {
    /// Reads the usage of one process.
    ///
    /// # Panics
    /// If the process or `/proc` does not exist.
    pub(super) fn read(process: u32) -> Self {
        let read = |name: &str| {
            let path = format!("/proc/{process}/{name}");
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        let (status, io) = (read("status"), read("io"));
        let memory = Memory { resident: field(&status, "VmRSS"), peak: field(&status, "VmHWM") };
        let ticks = ticks(&read("stat"));
        let cpu = Duration::from_micros(ticks * 1_000_000 / rustix::param::clock_ticks_per_second());
        Self { cpu, written_bytes: field(&io, "write_bytes"), memory }
    }

    /// Reads several processes and adds their values.
    ///
    /// # Panics
    /// Like [`Self::read`].
    pub(super) fn read_all(processes: &[u32]) -> Self {
        let nothing = Self { cpu: Duration::ZERO, written_bytes: 0, memory: Memory { resident: 0, peak: 0 } };
        processes.iter().map(|process| Self::read(*process)).fold(nothing, |sum, one| Self {
            cpu: sum.cpu + one.cpu,
            written_bytes: sum.written_bytes + one.written_bytes,
            memory: Memory {
                resident: sum.memory.resident + one.memory.resident,
                peak: sum.memory.peak + one.memory.peak,
            },
        })
    }

    /// Reads the usage of this process.
    pub(super) fn read_own() -> Self {
        Self::read(std::process::id())
    }
}

/// Returns `utime` plus `stime` from `/proc/PID/stat`. The second field is the program's name in parentheses, which may
/// contain any character.
fn ticks(stat: &str) -> u64 {
    let (_, after_name) = stat.rsplit_once(") ").expect("the name is in brackets");
    // Fields 14 and 15; the first field after the name is field 3.
    let times = after_name.split(' ').skip(11).take(2);
    times.map(|ticks| ticks.parse::<u64>().expect("a number of ticks")).sum()
}

/// Returns the number after `name:`, without its unit.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{name} is not among\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_for_any_program_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 900 0 0 0 250 50 7 7 20 0 9 0 1234";
        assert_eq!(ticks(stat), 300);
        let status = "Name:\tVmRSS\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!((field(status, "VmHWM"), field(status, "VmRSS")), (2048, 1024));
    }

    #[test]
    fn this_process_has_a_usage() {
        let before = Usage::read_own();
        assert!(before.memory.resident > 0 && before.memory.peak >= before.memory.resident);
        let mut sum = 0_u64;
        while Usage::read_own().cpu == before.cpu {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(Usage::read_own().cpu > before.cpu, "{sum} looks took no time");
    }
}
