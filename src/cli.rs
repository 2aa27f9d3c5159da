//! The command line, as it is written. Its comments are what `--help` and the manual
//! pages say; what comes of it is for `main`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{DEFAULT_FILE, Prefix};
use crate::control::{Reason, Way};

/// Serves OSTree archive repositories over HTTPS, read-only.
///
/// Runs in the foreground until SIGTERM or SIGINT, then lets transfers finish;
/// a second signal ends it at once. SIGHUP reloads the configuration. Exit
/// codes: 0 clean, 1 failure while running, or a running server that cannot be
/// reached or refuses, 64 wrong command line, 78 wrong configuration.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to serve.
    #[command(flatten)]
    pub source: Source,
}

/// Where the configuration is.
#[derive(Args)]
pub struct Source {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    pub config: PathBuf,
}

/// The running server. Its configuration file is read for the socket alone, and
/// may have faults.
#[derive(Args)]
pub struct Server {
    /// The file that names its socket.
    #[command(flatten)]
    pub source: Source,
    /// The control socket, instead of the one that the configuration file names.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
}

impl From<Server> for Way {
    fn from(server: Server) -> Self {
        match server.socket {
            Some(path) => Self::Socket(path),
            None => Self::Config(server.source.config),
        }
    }
}

/// What else there is than serving.
#[derive(Subcommand)]
pub enum Command {
    /// Looks for everything that would keep clients from being served.
    ///
    /// Run it as the user that the server runs as, for it looks whether that
    /// user may read everything:
    /// `runuser -u ostree-serve -- ostree-serve check`.
    Check(Source),
    /// The brake: clients keep getting what they get now, whatever is published.
    ///
    /// It counts until `release`. Machines that have updated already are not
    /// rolled back.
    Hold {
        /// Where the repository is served, as in the configuration.
        prefix: Prefix,
        /// Why, in one line, for whoever finds the hold.
        #[arg(long, value_name = "TEXT")]
        reason: Reason,
        /// Which server.
        #[command(flatten)]
        server: Server,
    },
    /// Ends a hold: what is new is published again.
    Release {
        /// Where the repository is served, as in the configuration.
        prefix: Prefix,
        /// Which server.
        #[command(flatten)]
        server: Server,
    },
    /// Says how the running server and its repositories stand.
    Status {
        /// Only the repository that is served there.
        prefix: Option<Prefix>,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
        /// Which server.
        #[command(flatten)]
        server: Server,
    },
    /// Has the running server try what it must not be able to do.
    ///
    /// Everything is tried in a way that does no harm. Exit code 0: all of it was
    /// denied; 1: something was possible, or the server cannot be reached. What there
    /// is nothing to try with, such as a file in an empty directory, is listed as
    /// untried and counts as neither.
    SandboxCheck {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
        /// This process confines itself as the server would with its configuration
        /// file, and tries. No server has to run.
        #[arg(long, conflicts_with = "socket")]
        alone: bool,
        /// Which server.
        #[command(flatten)]
        server: Server,
    },
    /// Serves a small built-in repository on this machine, to try clients with.
    Demo,
}
