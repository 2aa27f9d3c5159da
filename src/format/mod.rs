//! Reading what ostree wrote, as far as serving needs it, and nothing more.
//!
//! Nothing here knows a file system, HTTP or async code. Each function reads
//! what a stranger wrote, and each has a fuzz target.

pub mod gvariant;
pub mod repo_config;
