//! How much of the process's memory and descriptors a repository may use for what
//! it remembers.

use rustix::process::{Resource, getrlimit};

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

    /// For each of this many repositories. `memory` is what each may use.
    pub fn share(repositories: usize, memory: u64) -> Self {
        let repositories = repositories.max(1) as u64;
        let share = Self::reserved_descriptors() / 2 / repositories;
        Self {
            memory,
            files: share.min(Self::MOST_FILES) as usize,
            kept: share.min(Self::MOST_KEPT) as usize,
        }
    }

    /// How many descriptors all repositories together may use for what they
    /// remember: a quarter of what the process may have. The rest is for clients.
    pub fn reserved_descriptors() -> u64 {
        let limit = getrlimit(Resource::Nofile).current;
        limit.map_or(u64::from(u32::MAX), |it| it / 4)
    }
}
