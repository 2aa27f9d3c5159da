//! The process confines itself: when everything is open, it gives up what a server
//! that only reads never needs. Whoever takes it over by a fault then gets no
//! further than it does.
//!
//! # What is given up, and by what means
//!
//! - **Privileges** ([`privileges`]): who was root becomes [`user`](crate::config::Sandbox::user); no
//!   capabilities but what reading and low ports need, none through a program that
//!   is started (`no_new_privs`), no core dump, since keys are in memory.
//! - **Files** ([`landlock`], [`reach`]): read what is within reach, remove and make
//!   sockets where the control socket is; nothing else.
//! - **System calls** ([`seccomp`]): a list of what the server never does.
//!
//! The service's unit and the SELinux module forbid much of it as well. Neither is
//! there in a container, and neither is needed here: this is the part that the
//! program brings along.
//!
//! # When
//!
//! Configuration, certificate, directories, listeners and control socket are opened,
//! the kernel is asked what it does of TLS (that connects), and then, before the
//! first request, [`confine`] is called. Landlock counts for one thread and for
//! those that it starts later, so no thread may be at work before: those of the
//! runtime wait at a [`gate`] and confine themselves there, all others are started
//! by confined ones. There is no way back, not for a reload either.
//!
//! # Reloads
//!
//! What is within reach is not the repositories themselves but the directories
//! around them: a repository that is renamed into place or mounted anew is found,
//! and a reload may name one beside it. The same goes for certificates, keys and
//! the configuration, and for what their symbolic links lead to. A reload that names
//! something else is refused like each that is no good, and says what to do: restart
//! the service (its sockets and holds survive with the service manager), or have
//! listed the directory in `sandbox.directories`. A socket that a reload adds is
//! bound by the confined process: it can tell that a name is taken, not whether who
//! took it lives. A directory *around* that is itself mounted or renamed anew is
//! another one to Landlock, and out of reach until a restart: the log and the reload
//! say so.

pub mod gate;
pub mod landlock;
pub mod privileges;
pub mod probe;
pub mod reach;
pub mod seccomp;

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, fs, thread};

use anyhow::Context;

use self::gate::Gate;
use self::probe::Targets;
use self::reach::Reach;
use crate::config::{Config, Confine};
use crate::daemon::StartError;
use crate::finding::Finding;

/// How far the process has confined itself.
#[derive(Debug)]
pub struct Confinement {
    /// The Landlock ABI that is in force; `None` if there is no Landlock.
    pub landlock: Option<u32>,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// Whether it wants to be confined.
    mode: Confine,
    reach: Reach,
    /// What [`Confinement::probe`] tries.
    targets: Targets,
}

/// Confines this process for good: the calling thread, and those at the gate. To be
/// called when everything is open and nobody is served yet.
///
/// # Errors
/// [`StartError::Configuration`] if the user that it was to become does not exist or
/// cannot read what it has to; [`StartError::Runtime`] if it is not confined though
/// it must be, or only in part though it could be.
pub fn confine(config: &Config, gate: &Gate) -> Result<Confinement, StartError> {
    let reach = Reach::of(config);
    let become_user = privileges::wanted_user(config)?;
    if let Some(user) = &become_user {
        privileges::hand_over(&config.listen.control.value, user);
    }
    let mode = config.sandbox.mode;
    let rules = match mode {
        Confine::Off => None,
        Confine::Automatic | Confine::Required => {
            landlock::rules(&reach).context("the Landlock rules cannot be made")?
        }
    };
    let landlock = rules.as_ref().map(landlock::Rules::abi);
    let filter = match mode {
        Confine::Off => None,
        Confine::Automatic | Confine::Required => seccomp::Filter::new(),
    };
    if mode == Confine::Required {
        require(landlock, filter.is_some())?;
    }
    let seccomp = filter.is_some();
    let user = become_user.clone();
    let each_thread = move || -> anyhow::Result<()> {
        if let Some(user) = &user {
            user.become_it()?;
        }
        if mode != Confine::Off {
            privileges::reduce()?;
        }
        rules.as_ref().map_or(Ok(()), landlock::Rules::enforce)
    };
    let whole_process = || -> anyhow::Result<()> {
        // To become another user has undone it.
        privileges::forbid_dumps()?;
        filter.as_ref().map_or(Ok(()), seccomp::Filter::enforce)
    };
    nobody_is_past(gate)?;
    gate.open(Arc::new(each_thread), whole_process)
        .context("the process cannot confine itself; `[sandbox] mode = \"off\"` does without")?;
    if let Some(user) = &become_user {
        let findings = privileges::unreadable(config, user);
        if !findings.is_empty() {
            return Err(findings.into());
        }
    }
    Ok(Confinement {
        landlock,
        seccomp,
        mode,
        targets: Targets::of(config, &reach),
        reach,
    })
}

/// That there is no thread but this one and those at the gate: another would go on as it
/// is, and so would one whose place at the gate it took.
fn nobody_is_past(gate: &Gate) -> anyhow::Result<()> {
    let expected = gate.threads() + 1;
    let end = Instant::now() + Duration::from_secs(1);
    // Without /proc, as in some containers, nobody can tell.
    while let Ok(tasks) = fs::read_dir("/proc/self/task") {
        let threads = tasks.count();
        if threads <= expected {
            break;
        }
        // One that has ended may be there for a moment longer.
        anyhow::ensure!(
            Instant::now() < end,
            "{threads} threads are at work, where {expected} should be, before the process has \
             confined itself: a fault in this program"
        );
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// With `mode = "require"`. What later versions of Landlock add (truncation,
/// connections) is denied by seccomp as well, so any version will do.
fn require(landlock: Option<u32>, seccomp: bool) -> anyhow::Result<()> {
    let advice = "boot a kernel that has it, or set `[sandbox] mode = \"auto\"`";
    anyhow::ensure!(
        landlock.is_some(),
        "`[sandbox] mode = \"require\"`, and this kernel has no Landlock (Linux 5.13, `lsm=` on \
         its command line); {advice}"
    );
    anyhow::ensure!(
        seccomp,
        "`[sandbox] mode = \"require\"`, and there is no seccomp filter for this processor; {advice}"
    );
    Ok(())
}

impl Confinement {
    /// Logs how far it went.
    pub fn announce(&self) {
        match self.mode {
            Confine::Off => tracing::warn!(
                remedy = "[sandbox] mode = \"auto\"",
                "the process does not confine itself"
            ),
            Confine::Automatic | Confine::Required => tracing::info!("confined by {self}"),
        }
    }

    /// What is wrong with a configuration that a reload has read, for this process.
    pub fn refusal(&self, config: &Config) -> Vec<Finding> {
        match self.landlock {
            Some(_) => self.reach.lacks(config),
            None => Vec::new(),
        }
    }

    /// Tries what is forbidden, in this thread. It is harmless where it succeeds.
    pub fn probe(&self) -> probe::Report {
        self.targets.probe(&self.to_string(), self.landlock)
    }
}

/// As in "confined by …".
impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mode == Confine::Off {
            return f.write_str("nothing (`[sandbox] mode = \"off\"`)");
        }
        f.write_str("no new privileges")?;
        match self.landlock {
            Some(abi) => write!(f, ", Landlock ABI {abi}")?,
            None => f.write_str(", no Landlock (the kernel has none)")?,
        }
        match self.seccomp {
            true => f.write_str(", seccomp"),
            false => f.write_str(", no seccomp (not for this processor)"),
        }
    }
}
