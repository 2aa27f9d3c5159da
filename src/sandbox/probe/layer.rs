//! Who denied an attempt, told from what the system said.

use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::thread::{SecureComputingMode, secure_computing_mode};

use super::{Attempt, Outcome};

/// What is known of the process that tries.
pub(super) struct Judge {
    landlock: bool,
    seccomp: bool,
}

/// What an attempt needs of ordinary permissions, as far as access(2) can tell;
/// Landlock does not know of that call.
pub(super) struct Needs<'p> {
    pub(super) path: &'p Path,
    pub(super) access: Access,
}

impl Judge {
    pub(super) fn new(landlock: bool) -> Self {
        let seccomp = matches!(secure_computing_mode(), Ok(SecureComputingMode::Filter));
        Self { landlock, seccomp }
    }

    /// For a call that [`crate::sandbox::seccomp`] has in its list. Any error but a
    /// denial means that it got further than that.
    pub(super) fn call(&self, operation: &str, result: io::Result<()>) -> Attempt {
        match result {
            Err(error) if self.seccomp && error.raw_os_error() == Some(libc::EPERM) => {
                denied(operation, "seccomp", &error)
            }
            // What a program and a connection are good for is Landlock's to say too.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                denied(operation, self.policy(), &error)
            }
            result => self.privileged(operation, result),
        }
    }

    /// For a call that needs capabilities.
    pub(super) fn privileged(&self, operation: &str, result: io::Result<()>) -> Attempt {
        match result {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                denied(operation, "missing capabilities", &error)
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                denied(operation, "SELinux", &error)
            }
            // The kernel may be built without it.
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                denied(operation, "the kernel, which has no such call", &error)
            }
            result => possible(operation, result.err(), CALL_REMEDY),
        }
    }

    /// For something with a file. Any error but a denial means that nothing would
    /// have kept it from being done.
    pub(super) fn file(
        &self,
        operation: &str,
        needs: &Needs<'_>,
        result: io::Result<()>,
    ) -> Attempt {
        match result.as_ref().err().and_then(Errno::from_io_error) {
            Some(Errno::ROFS) => self.because(operation, "a read-only file system", result),
            Some(Errno::PERM) if self.seccomp => self.because(operation, "seccomp", result),
            Some(Errno::PERM) => self.because(operation, "ownership", result),
            Some(Errno::ACCESS) => self.because(operation, self.refusal(needs), result),
            Some(Errno::NOENT | Errno::NOTDIR) => untried(operation, "it is not there"),
            _ => possible(operation, result.err(), FILE_REMEDY),
        }
    }

    /// For what denied with `EACCES`.
    fn refusal(&self, needs: &Needs<'_>) -> &'static str {
        match accessat(CWD, needs.path, needs.access, AtFlags::EACCESS) {
            Ok(()) => self.policy(),
            Err(Errno::ROFS) => "a read-only file system",
            // SELinux answers this question as well.
            Err(_) => "permissions, or SELinux",
        }
    }

    fn policy(&self) -> &'static str {
        match self.landlock {
            true => "Landlock",
            false => "SELinux",
        }
    }

    fn because(&self, operation: &str, by: &str, result: io::Result<()>) -> Attempt {
        match result {
            Err(error) => denied(operation, by, &error),
            Ok(()) => possible(operation, None, FILE_REMEDY),
        }
    }
}

const FILE_REMEDY: &str = "Landlock should deny it: see `confined by` of `ostree-serve status`, and \
                           set `[sandbox] mode = \"require\"` to start only with it";
const CALL_REMEDY: &str = "seccomp should deny it: see `confined by` of `ostree-serve status`, and \
                           set `[sandbox] mode = \"require\"` to start only with it";

fn denied(operation: &str, by: &str, error: &io::Error) -> Attempt {
    Attempt {
        operation: operation.to_owned(),
        outcome: Outcome::Denied,
        by: by.to_owned(),
        error: Some(error.to_string()),
        remedy: None,
    }
}

/// Nothing denied it, whatever else was wrong.
pub(super) fn possible(operation: &str, error: Option<io::Error>, remedy: &str) -> Attempt {
    Attempt {
        operation: operation.to_owned(),
        outcome: Outcome::Possible,
        by: "nobody".to_owned(),
        error: error.map(|it| it.to_string()),
        remedy: Some(remedy.to_owned()),
    }
}

pub(super) fn untried(operation: &str, why: &str) -> Attempt {
    Attempt {
        operation: operation.to_owned(),
        outcome: Outcome::Untried,
        by: why.to_owned(),
        error: None,
        remedy: None,
    }
}
