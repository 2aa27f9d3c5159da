//! Replies as people read them, at two in the morning if need be.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;

use super::board::{News, Sent, Trouble};
use super::{Held, Lasting, Refused, Released, Reply, Report, Repository, Way};
use crate::config::Prefix;
use crate::finding::shell_word;
use crate::repo::status::{Hold, Obstacle, Status};
use crate::sandbox::probe::{self, Outcome};

/// A reply as text, with the ages that it had at this time.
pub struct Text<'r> {
    /// The reply.
    pub reply: &'r Reply,
    /// The time that ages are counted to.
    pub now: SystemTime,
    /// How the commands that are named find the server.
    pub way: &'r Way,
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.reply {
            Reply::Held(held) => self.held(f, held),
            Reply::Released(released) => self.released(f, released),
            Reply::Status(report) => self.report(f, report),
            Reply::Sandbox(report) => attempts(f, report),
            Reply::Refused(refused) => refusal(f, refused),
        }
    }
}

fn refusal(f: &mut Formatter<'_>, refused: &Refused) -> fmt::Result {
    write!(f, "{}", Line(&refused.reason))?;
    match &refused.remedy {
        Some(remedy) => write!(f, "\n    fix: {}", Line(remedy)),
        None => Ok(()),
    }
}

/// A line for each attempt, those that were possible with what to do.
fn attempts(f: &mut Formatter<'_>, report: &probe::Report) -> fmt::Result {
    writeln!(f, "confined by {}\n", Line(&report.confined))?;
    for attempt in &report.attempts {
        let label = match attempt.outcome {
            Outcome::Denied => "denied",
            Outcome::Possible => "POSSIBLE",
            Outcome::Untried => "untried",
        };
        let by = match attempt.outcome {
            Outcome::Denied => format!("by {}", attempt.by),
            Outcome::Possible => String::new(),
            Outcome::Untried => attempt.by.clone(),
        };
        let operation = Line(&attempt.operation).to_string();
        let line = format!("{label:<9} {operation:<50} {}", Line(&by));
        writeln!(f, "{}", line.trim_end())?;
        if let Some(remedy) = &attempt.remedy {
            writeln!(f, "          fix: {}", Line(remedy))?;
        }
    }
    let (possible, count) = (report.possible().count(), report.attempts.len());
    match possible {
        0 => writeln!(f, "\n{count} attempts, none of them possible"),
        _ => writeln!(f, "\n{count} attempts, {possible} of them POSSIBLE"),
    }
}

impl Text<'_> {
    fn held(&self, f: &mut Formatter<'_>, held: &Held) -> fmt::Result {
        let Repository { prefix, status } = &held.repository;
        match &held.before {
            None => writeln!(f, "{prefix} is HELD.")?,
            Some(before) => writeln!(
                f,
                "{prefix} is HELD, as it was already: by {}; it has the new reason now.",
                self.hold(before)
            )?,
        }
        writeln!(
            f,
            "\n\
             Clients get exactly this generation: {}, with {}.\n\
             Nothing newer is published until: ostree-serve release {}{}",
            self.generation(status),
            refs(status),
            word(prefix),
            self.way
        )?;
        for other in &held.beside {
            let (command, way) = (word(other), self.way);
            writeln!(
                f,
                "THE SAME DIRECTORY IS SERVED AT {other}, WHICH IS NOT HELD: \
                 ostree-serve hold {command} --reason TEXT{way}"
            )?;
        }
        match &held.lasting {
            Lasting::Restarts => f.write_str(
                "The hold survives a restart of the service. `systemctl stop` ends it, unless the unit \
                 has\nFileDescriptorStorePreserve=yes.\n",
            )?,
            Lasting::Perhaps => f.write_str(
                "The hold was handed to the service manager, which does not say whether it keeps it: it \
                 survives\na restart if the unit has FileDescriptorStoreMax= with a number above 0.\n",
            )?,
            Lasting::Process(reason) => writeln!(
                f,
                "THE HOLD ENDS WITH THE SERVER'S PROCESS: {}.\n\
                 After a restart, hold it again.",
                Line(reason)
            )?,
        }
        f.write_str(NOT_DONE)
    }

    fn released(&self, f: &mut Formatter<'_>, released: &Released) -> fmt::Result {
        match (&released.repository, &released.before) {
            (None, _) => writeln!(
                f,
                "No repository is served there; the hold that was kept for it is gone."
            )?,
            (Some(Repository { prefix, status }), before) => {
                match before {
                    Some(before) => writeln!(
                        f,
                        "{prefix} is released. It was held by {}.",
                        self.hold(before)
                    )?,
                    None => writeln!(f, "{prefix} was not held.")?,
                }
                self.next(f, status)?;
            }
        }
        if let Some(remains) = &released.remains {
            writeln!(
                f,
                "\nTHE HOLD MAY COME BACK WITH A RESTART: {}.\n\
                 Release it again, after the restart if need be.",
                Line(remains)
            )?;
        }
        Ok(())
    }

    /// What is published next.
    fn next(&self, f: &mut Formatter<'_>, status: &Status) -> fmt::Result {
        if !status.coherent {
            return writeln!(f, "\nClients get the files as they lie (coherent = false).");
        }
        let generation = self.generation(status);
        writeln!(f, "\nClients get generation {generation} now.")?;
        if status.waiting.is_empty() {
            return writeln!(
                f,
                "If there is something newer in {}, it is published next, as soon as it is seen\n\
                 to be complete; `ostree-serve status{}` then shows a higher number.",
                status.path.display(),
                self.way
            );
        }
        writeln!(
            f,
            "What lies in {} is published next, but not before this is repaired:\n",
            status.path.display()
        )?;
        status
            .waiting
            .iter()
            .try_for_each(|obstacle| self.obstacle(f, obstacle))
    }

    fn report(&self, f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
        writeln!(
            f,
            "ostree-serve {}, up {}, since {}",
            Line(&report.version),
            duration(Duration::from_secs(report.uptime)),
            Line(&report.started)
        )?;
        self.news(f, &report.news)?;
        if !report.obstacles.is_empty() {
            writeln!(f)?;
        }
        for unserved in &report.obstacles {
            self.obstacle(f, &unserved.obstacle)?;
        }
        for repository in &report.repositories {
            self.repository(f, repository)?;
        }
        if report.repositories.is_empty() && report.obstacles.is_empty() {
            writeln!(f, "\nNo repository is served.")?;
        }
        Ok(())
    }

    fn news(&self, f: &mut Formatter<'_>, news: &News) -> fmt::Result {
        if *news != News::default() {
            writeln!(f)?;
        }
        if let Some(refused) = &news.refused_reload {
            self.trouble(
                f,
                "RELOAD",
                "refused, the old configuration is in force",
                refused,
            )?;
        }
        if let Some(confined) = &news.confined {
            row(f, "confined", format_args!("by {}", Line(confined)))?;
        }
        if news.sent != Sent::default() {
            self.sent(f, &news.sent)?;
        }
        let Some(certificate) = &news.certificate else {
            return Ok(());
        };
        row(f, "certificate", Line(&certificate.names.join(", ")))?;
        row(f, "", format_args!("serial {}", Line(&certificate.serial)))?;
        row(f, "", self.expiry(&certificate.expires))?;
        match &certificate.unfit {
            Some(unfit) => self.trouble(f, "UNFIT", "the files in place are not used", unfit),
            None => Ok(()),
        }
    }

    fn sent(&self, f: &mut Formatter<'_>, sent: &Sent) -> fmt::Result {
        let ways = [
            (sent.memory, "from memory"),
            (sent.read, "read from files"),
            (sent.sendfile, "by the kernel from files"),
            (sent.kernel_tls, "by the kernel, encrypted"),
        ];
        let total = ways.iter().map(|(bytes, _)| bytes).sum();
        row(f, "sent", ByteSize(total))?;
        for (bytes, way) in ways.into_iter().filter(|(bytes, _)| *bytes > 0) {
            row(f, "", format_args!("{} {way}", ByteSize(bytes)))?;
        }
        Ok(())
    }

    fn trouble(
        &self,
        f: &mut Formatter<'_>,
        label: &str,
        what: &str,
        trouble: &Trouble,
    ) -> fmt::Result {
        let Trouble {
            since,
            place,
            reason,
            remedy,
            others,
        } = trouble;
        row(f, label, format_args!("{what}: {}", self.moment(since)))?;
        row(f, "", format_args!("{}: {}", Line(place), Line(reason)))?;
        if let Some(remedy) = remedy {
            row(f, "", format_args!("fix: {}", Line(remedy)))?;
        }
        match others {
            0 => Ok(()),
            count => row(f, "", format_args!("and {count} more, which the log has")),
        }
    }

    fn expiry(&self, time: &str) -> String {
        let left = humantime::parse_rfc3339(time)
            .ok()
            .map(|time| time.duration_since(self.now));
        match left {
            Some(Ok(left)) => format!("expires {} (in {})", Line(time), duration(left)),
            Some(Err(_)) => format!("EXPIRED {}", self.moment(time)),
            None => format!("expires {}", Line(time)),
        }
    }

    fn repository(&self, f: &mut Formatter<'_>, repository: &Repository) -> fmt::Result {
        let Repository { prefix, status } = repository;
        writeln!(f, "\n{prefix}")?;
        row(f, "directory", status.path.display())?;
        row(f, "generation", self.generation(status))?;
        if status.coherent {
            row(f, "signed", if status.signed { "yes" } else { "no" })?;
            row(f, "refs", status.refs)?;
            row(f, "notice", Line(&status.notice))?;
        }
        if let Some(hold) = &status.held {
            row(f, "HELD", format_args!("by {}", self.hold(hold)))?;
            let (prefix, way) = (word(prefix), self.way);
            let release = format_args!("to end it: ostree-serve release {prefix}{way}");
            row(f, "", release)?;
            if status.newer {
                let next = "what lies in the directory is newer; it is published at the release";
                row(f, "", next)?;
            }
        }
        status
            .waiting
            .iter()
            .try_for_each(|obstacle| self.obstacle(f, obstacle))
    }

    fn obstacle(&self, f: &mut Formatter<'_>, obstacle: &Obstacle) -> fmt::Result {
        let Obstacle {
            file,
            reason,
            remedy,
            since,
        } = obstacle;
        row(
            f,
            "WAITING",
            format_args!("{}: {}", Line(file), Line(reason)),
        )?;
        row(f, "", format_args!("since {}", self.moment(since)))?;
        row(f, "", format_args!("fix: {}", Line(remedy)))
    }

    /// Which one it is, to follow the word "generation".
    fn generation(&self, status: &Status) -> String {
        if !status.coherent {
            return "none: the files as they lie in the directory (coherent = false)".to_owned();
        }
        if status.published.is_empty() {
            return "none yet".to_owned();
        }
        let (number, published) = (status.generation, self.moment(&status.published));
        format!("{number}, published {published}")
    }

    fn hold(&self, hold: &Hold) -> String {
        format!(
            "{} since {}: {}",
            Line(&hold.by),
            self.moment(&hold.since),
            Line(&hold.reason)
        )
    }

    /// A time in RFC 3339, and how long ago that is.
    fn moment(&self, time: &str) -> String {
        let age = humantime::parse_rfc3339(time)
            .ok()
            .and_then(|time| self.now.duration_since(time).ok());
        match age {
            Some(age) => format!("{} ({} ago)", Line(time), duration(age)),
            // It is in the future where clocks differ, and then says more than an age.
            None => Line(time).to_string(),
        }
    }
}

const NOT_DONE: &str = "
What a hold cannot do:
  It does not go back. If this generation is the bad one, publish a good commit that is newer,
  and release.
  Machines that have updated already are not rolled back. Do that on the machines:
      rpm-ostree rollback                    Fedora Kinoite, Silverblue, CoreOS
      ostree admin undeploy 0                ostree alone: takes away the newest deployment
      flatpak update --commit=COMMIT APP     flatpak, with a good commit of the app
  or let them get a good commit that is newer than the bad one.
  Objects that were downloaded already stay on the machines.
  It does not keep the repository from being pruned. The server keeps at most 2048 objects of
  this generation open, and a client may want others. Until it is released, do not
  prune the repository (ostree prune, flatpak build-update-repo --prune).
";

/// A line of a block: what it is about, and that.
fn row(f: &mut Formatter<'_>, label: &str, value: impl Display) -> fmt::Result {
    writeln!(f, "  {label:<12}{value}")
}

fn refs(status: &Status) -> String {
    match status.refs {
        1 => "1 ref".to_owned(),
        count => format!("{count} refs"),
    }
}

/// A prefix as a word of a shell.
fn word(prefix: &Prefix) -> String {
    shell_word(Path::new(&prefix.to_string()))
}

/// A duration in its largest unit, which is what one wants to know of an age.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [
        ("day", 86_400),
        ("hour", 3600),
        ("minute", 60),
        ("second", 1),
    ];
    let (unit, size) = units
        .into_iter()
        .find(|&(_, size)| seconds >= size)
        .unwrap_or(("second", 1));
    let count = seconds / size;
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// Text from elsewhere, which must not move the cursor of a terminal.
struct Line<'t>(&'t str);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c.is_control() {
                true => write!(f, "{}", c.escape_default())?,
                false => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
