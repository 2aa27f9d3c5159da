//! Replies as people read them, at two in the morning if need be.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::board::{News, Trouble};
use super::{Held, Lasting, Refused, Released, Reply, Report, Repository, Way};
use crate::config::Prefix;
use crate::finding::shell_word;
use crate::repo::status::{Hold, Obstacle, Status};

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
mod tests {
    use super::*;
    use crate::config::DEFAULT_FILE;
    use crate::control::board::Certificate;

    fn at(time: &str) -> SystemTime {
        humantime::parse_rfc3339(time).unwrap()
    }

    fn said(reply: &Reply) -> String {
        let now = at("2026-03-01T02:00:00Z");
        let way = &Way::Config(DEFAULT_FILE.into());
        Text { reply, now, way }.to_string()
    }

    fn hold() -> Hold {
        Hold {
            reason: "bad kernel".into(),
            by: "alice".into(),
            since: "2026-03-01T01:50:00Z".into(),
        }
    }

    fn obstacle() -> Obstacle {
        Obstacle {
            file: "summary.sig".into(),
            reason: "does not fit the summary".into(),
            remedy: "ostree summary -u".into(),
            since: "2026-03-01T01:59:59Z".into(),
        }
    }

    fn repository() -> Repository {
        Repository {
            prefix: "/repo/my apps".parse().unwrap(),
            status: Status {
                path: "/srv/repo".into(),
                coherent: true,
                generation: 7,
                published: "2026-02-27T02:00:00Z".into(),
                signed: true,
                refs: 12,
                notice: "inotify".into(),
                newer: false,
                held: None,
                waiting: Vec::new(),
            },
        }
    }

    fn news() -> News {
        let reload = Trouble {
            since: "2026-03-01T01:00:00Z".into(),
            place: "/etc/serve.toml:3:1".into(),
            reason: "unknown key".into(),
            remedy: Some("did you mean `grace`?".into()),
            others: 1,
        };
        let unfit = Trouble {
            since: "2026-03-01T01:59:00Z".into(),
            place: "/etc/key.pem".into(),
            reason: "does not fit".into(),
            remedy: None,
            others: 0,
        };
        let certificate = Certificate {
            serial: "0A1B".into(),
            names: vec!["repo.example.com".into(), "192.0.2.1".into()],
            expires: "2026-03-21T02:00:00Z".into(),
            unfit: Some(unfit),
        };
        News {
            certificate: Some(certificate),
            refused_reload: Some(reload),
        }
    }

    #[test]
    fn an_expired_certificate_is_shouted() {
        let news = News {
            refused_reload: None,
            certificate: news().certificate.map(|it| Certificate {
                expires: "2026-03-01T00:00:00Z".into(),
                ..it
            }),
        };
        let report = Report {
            version: String::new(),
            started: String::new(),
            uptime: 0,
            news,
            obstacles: Vec::new(),
            repositories: Vec::new(),
        };
        let said = said(&Reply::Status(report));
        let expected = "EXPIRED 2026-03-01T00:00:00Z (2 hours ago)";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn a_report_is_read_from_top_to_bottom() {
        let held = Status {
            held: Some(hold()),
            waiting: vec![obstacle()],
            ..repository().status
        };
        let plain = Repository {
            prefix: "/".parse().unwrap(),
            status: Status {
                path: "/srv/plain".into(),
                ..Status::default()
            },
        };
        let report = Report {
            version: "1.2.3".into(),
            started: "2026-02-28T00:00:00Z".into(),
            uptime: 26 * 3600,
            news: news(),
            obstacles: Vec::new(),
            repositories: vec![
                plain,
                Repository {
                    status: held,
                    ..repository()
                },
            ],
        };
        let expected = "\
ostree-serve 1.2.3, up 1 day, since 2026-02-28T00:00:00Z

  RELOAD      refused, the old configuration is in force: 2026-03-01T01:00:00Z (1 hour ago)
              /etc/serve.toml:3:1: unknown key
              fix: did you mean `grace`?
              and 1 more, which the log has
  certificate repo.example.com, 192.0.2.1
              serial 0A1B
              expires 2026-03-21T02:00:00Z (in 20 days)
  UNFIT       the files in place are not used: 2026-03-01T01:59:00Z (1 minute ago)
              /etc/key.pem: does not fit

/
  directory   /srv/plain
  generation  none: the files as they lie in the directory (coherent = false)

/repo/my apps
  directory   /srv/repo
  generation  7, published 2026-02-27T02:00:00Z (2 days ago)
  signed      yes
  refs        12
  notice      inotify
  HELD        by alice since 2026-03-01T01:50:00Z (10 minutes ago): bad kernel
              to end it: ostree-serve release '/repo/my apps'
  WAITING     summary.sig: does not fit the summary
              since 2026-03-01T01:59:59Z (1 second ago)
              fix: ostree summary -u
";
        assert_eq!(said(&Reply::Status(report)), expected);
    }

    #[test]
    fn a_hold_says_what_it_did_and_what_it_cannot_do() {
        let cases = [
            (Lasting::Restarts, "survives a restart of the service"),
            (Lasting::Perhaps, "does not say whether it keeps it"),
            (
                Lasting::Process("so it is".into()),
                "ENDS WITH THE SERVER'S PROCESS: so it is.",
            ),
        ];
        for (lasting, expected) in cases {
            let said = said(&Reply::Held(Held {
                repository: repository(),
                before: None,
                lasting,
                beside: vec!["/my other".parse().unwrap()],
            }));
            let parts = [
                "do not\n  prune the repository",
                "SERVED AT /my other, WHICH IS NOT HELD: ostree-serve hold '/my other' --reason TEXT",
                "/repo/my apps is HELD.\n",
                "generation: 7, published 2026-02-27T02:00:00Z (2 days ago), with 12 refs.",
                "until: ostree-serve release '/repo/my apps'",
                expected,
                "are not rolled back",
                "rpm-ostree rollback",
                "flatpak update --commit=",
                "publish a good commit that is newer",
                "stay on the machines",
            ];
            for part in parts {
                assert!(said.contains(part), "{part:?} is not in {said}");
            }
        }
    }

    #[test]
    fn a_second_hold_shows_the_first_one() {
        let said = said(&Reply::Held(Held {
            repository: repository(),
            before: Some(hold()),
            lasting: Lasting::Restarts,
            beside: Vec::new(),
        }));
        assert!(
            said.contains("already: by alice since 2026-03-01T01:50:00Z"),
            "{said}"
        );
    }

    #[test]
    fn a_release_says_what_is_next() {
        let released = |before, waiting, remains| {
            let mut repository = repository();
            repository.status.waiting = waiting;
            said(&Reply::Released(Released {
                repository: Some(repository),
                before,
                remains,
            }))
        };
        let cases = [
            (
                released(Some(hold()), vec![], None),
                "is released. It was held by alice",
            ),
            (
                released(Some(hold()), vec![], None),
                "If there is something newer in /srv/repo, it is published next",
            ),
            (
                released(Some(hold()), vec![obstacle()], None),
                "not before this is repaired:\n\n  WAITING     summary.sig: ",
            ),
            (released(None, vec![], None), "was not held."),
            (
                released(Some(hold()), vec![], Some("no such socket".into())),
                "MAY COME BACK WITH A RESTART: no such socket.",
            ),
        ];
        for (said, expected) in cases {
            assert!(said.contains(expected), "{expected:?} is not in {said}");
        }
    }

    #[test]
    fn what_came_from_elsewhere_cannot_steer_the_terminal() {
        let mut repository = repository();
        repository.status.waiting = vec![Obstacle {
            file: "a\x1b[2Jb\nc".into(),
            reason: "\u{9b}31m".into(),
            ..obstacle()
        }];
        let said = said(&Reply::Status(Report {
            version: "1\r2".into(),
            started: String::new(),
            uptime: 0,
            news: News::default(),
            obstacles: Vec::new(),
            repositories: vec![repository],
        }));
        let odd = said.chars().find(|&c| c.is_control() && c != '\n');
        assert_eq!(odd, None, "{said:?}");
        assert!(said.contains(r"a\u{1b}[2Jb\nc: \u{9b}31m"), "{said:?}");
    }

    #[test]
    fn ages_are_told_in_one_unit() {
        let cases = [
            (0, "0 seconds"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (3599, "59 minutes"),
            (7200, "2 hours"),
            (86_400, "1 day"),
            (400 * 86_400, "400 days"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
    }
}
