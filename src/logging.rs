//! The log: lines of text on standard error, where systemd's journal takes them.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

/// The variable that says what is logged: `warn`, `debug`, or directives such
/// as `info,ostree_serve::connection=trace`.
pub const FILTER_VARIABLE: &str = "OSTREE_SERVE_LOG";

/// Starts logging. A second call changes nothing.
pub fn start() {
    let filter = EnvFilter::builder()
        .with_env_var(FILTER_VARIABLE)
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    // The journal has a clock of its own.
    let result = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => registry.with(lines.without_time()).try_init(),
        None => registry.with(lines).try_init(),
    };
    // Tests start several servers in one process; the first one logs.
    _ = result;
}
