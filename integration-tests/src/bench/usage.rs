//! What a process has used of the machine, as Linux tells it in `/proc`.

use std::{fs, time::Duration};

/// Used since the process started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// Of all threads, in user mode and in the kernel.
    pub(super) cpu: Duration,
    /// Sent towards the disk.
    pub(super) written_bytes: u64,
    pub(super) memory: Memory,
}

/// In KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

impl Usage {
    /// # Panics
    /// If there is no such process, or no `/proc`.
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

    /// Of several processes, added up.
    ///
    /// # Panics
    /// As [`Self::read`].
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

    /// Of the process that asks.
    pub(super) fn read_own() -> Self {
        Self::read(std::process::id())
    }
}

/// `utime` and `stime` of `/proc/PID/stat`. The second field is the program's name in brackets, which may hold anything.
fn ticks(stat: &str) -> u64 {
    let (_, after_name) = stat.rsplit_once(") ").expect("the name is in brackets");
    // The 14th and 15th field; the first one here is the third.
    let times = after_name.split(' ').skip(11).take(2);
    times.map(|ticks| ticks.parse::<u64>().expect("a number of ticks")).sum()
}

/// The number after `name:`, whatever its unit.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{name} is not among\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_program_is_called() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 900 0 0 0 250 50 7 7 20 0 9 0 1234";
        assert_eq!(ticks(stat), 300);
        let status = "Name:\tVmRSS\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!((field(status, "VmHWM"), field(status, "VmRSS")), (2048, 1024));
    }

    #[test]
    fn this_process_uses_something() {
        let before = Usage::read_own();
        assert!(before.memory.resident > 0 && before.memory.peak >= before.memory.resident);
        let mut sum = 0_u64;
        while Usage::read_own().cpu == before.cpu {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(Usage::read_own().cpu > before.cpu, "{sum} looks took no time");
    }
}
