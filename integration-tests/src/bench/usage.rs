//! Resources that a process has used, read from `/proc` on Linux.

use std::{collections::BTreeMap, fs, time::Duration};

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
        let cpu = time(Stat::parse(&read("stat")).own);
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

/// Returns the CPU time of these processes and of all that they have started, including those that have ended, such as
/// the connections of PostgreSQL.
pub(super) fn cpu_with_children(roots: &[u32]) -> Duration {
    let folders = fs::read_dir("/proc").expect("/proc exists").flatten();
    let ids = folders.filter_map(|folder| folder.file_name().to_str()?.parse::<u32>().ok());
    // A process may end while the list is read.
    let stat = |id| Some((id, Stat::parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)));
    time(ticks_with_children(roots, &ids.filter_map(stat).collect()))
}

fn ticks_with_children(roots: &[u32], processes: &BTreeMap<u32, Stat>) -> u64 {
    let mut found = roots.to_vec();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(processes.iter().filter(|(_, stat)| stat.parent == parent).map(|(id, _)| *id));
        next += 1;
    }
    found.iter().filter_map(|id| processes.get(id)).map(|stat| stat.own + stat.ended).sum()
}

fn time(ticks: u64) -> Duration {
    Duration::from_micros(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}

/// Parts of `/proc/PID/stat`. Times are in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// `utime` plus `stime`.
    own: u64,
    /// The times of children that have ended.
    ended: u64,
}

impl Stat {
    /// The second field is the program's name in parentheses, which may contain any character.
    fn parse(stat: &str) -> Self {
        let (_, after_name) = stat.rsplit_once(") ").expect("the name is in brackets");
        let fields: Vec<&str> = after_name.split(' ').collect();
        // The first field after the name is field 3; the parent is field 4, the times are fields 14 to 17.
        let ticks = |field: usize| fields[field - 3].parse::<u64>().expect("a number of ticks");
        let parent = fields[1].parse().expect("a process id");
        Self { parent, own: ticks(14) + ticks(15), ended: ticks(16) + ticks(17) }
    }
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
        assert_eq!(Stat::parse(stat), Stat { parent: 1, own: 300, ended: 14 });
        let status = "Name:\tVmRSS\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!((field(status, "VmHWM"), field(status, "VmRSS")), (2048, 1024));
    }

    #[test]
    fn the_time_of_a_tree_contains_all_its_processes() {
        let stat = |parent, own| Stat { parent, own, ended: 1 };
        let processes = [(2, stat(1, 10)), (3, stat(2, 100)), (4, stat(3, 1_000)), (5, stat(1, 10_000))].into();
        assert_eq!(ticks_with_children(&[2], &processes), 1_113);
        assert_eq!(ticks_with_children(&[4, 5], &processes), 11_002);
        assert_eq!(ticks_with_children(&[], &processes), 0);
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
