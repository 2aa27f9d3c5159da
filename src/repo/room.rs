//! How much of the process's memory and descriptors a repository may use for what
//! it remembers.

use rustix::process::{Resource, getrlimit};
use rustix::system::sysinfo;

use crate::config::CacheSize;

/// What a repository may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes of memory for the contents of small objects.
    pub memory: u64,
    /// Open files that were served lately.
    pub files: usize,
    /// Objects that are kept for clients of what was replaced, or is about to be.
    pub kept: usize,
}

impl Room {
    /// More open files than this would gain little: the rest is asked for rarely.
    const MOST_FILES: u64 = 16 * 1024;
    const MOST_KEPT: u64 = 2048;

    /// The most memory that a repository has if nobody says how much. All of a desktop
    /// system's small objects fit: with a part of them, pull after pull pushes out
    /// what the next one asks for (`benches/PERFORMANCE.md`).
    const MOST_MEMORY: u64 = 256 * 1024 * 1024;

    /// For each of this many repositories. `memory` is what each may use.
    pub fn share(repositories: usize, memory: CacheSize) -> Self {
        let repositories = repositories.max(1) as u64;
        let share = Self::reserved_descriptors() / 2 / repositories;
        Self {
            memory: match memory {
                CacheSize::Bytes(memory) => memory,
                CacheSize::Automatic => Self::memory_of(installed_memory(), repositories),
            },
            files: share.min(Self::MOST_FILES) as usize,
            kept: share.min(Self::MOST_KEPT) as usize,
        }
    }

    /// What fits to a machine with so much memory, in bytes: an eighth of it for all.
    fn memory_of(installed: u64, repositories: u64) -> u64 {
        (installed / 8 / repositories).min(Self::MOST_MEMORY)
    }

    /// How many descriptors all repositories together may use for what they
    /// remember: a quarter of what the process may have. The rest is for clients.
    pub fn reserved_descriptors() -> u64 {
        let limit = getrlimit(Resource::Nofile).current;
        limit.map_or(u64::from(u32::MAX), |it| it / 4)
    }
}

/// The machine's memory in bytes (sysinfo(2)).
fn installed_memory() -> u64 {
    let machine = sysinfo();
    // Both have the size of a machine word.
    machine.totalram as u64 * u64::from(machine.mem_unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn memory_fits_to_the_machine() {
        let cases = [
            // A small virtual machine with the three repositories of README.md.
            (1024 * MIB, 3, 1024 * MIB / 24),
            (8192 * MIB, 1, 256 * MIB),
            (8192 * MIB, 8, 128 * MIB),
        ];
        for (installed, repositories, expected) in cases {
            assert_eq!(
                Room::memory_of(installed, repositories),
                expected,
                "{installed} bytes, {repositories} repositories"
            );
        }
    }

    #[test]
    fn what_is_written_counts() {
        assert_eq!(Room::share(3, CacheSize::Bytes(7 * MIB)).memory, 7 * MIB);
        let automatic = Room::share(1, CacheSize::Automatic).memory;
        assert!(
            (MIB..=Room::MOST_MEMORY).contains(&automatic),
            "{automatic}"
        );
    }
}
