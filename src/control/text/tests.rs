//! Replies as people read them.

use super::*;
use crate::config::DEFAULT_FILE;
use crate::control::board::{Certificate, Sent};

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
        sent: Sent {
            memory: 3 << 20,
            read: 0,
            sendfile: 5 << 30,
            kernel_tls: 512,
        },
        confined: Some("no new privileges, Landlock ABI 4, seccomp".into()),
    }
}

#[test]
fn what_is_possible_stands_out() {
    let attempt = |operation: &str, outcome, by: &str, remedy: Option<&str>| probe::Attempt {
        operation: operation.into(),
        outcome,
        by: by.into(),
        error: None,
        remedy: remedy.map(str::to_owned),
    };
    let report = probe::Report {
        confined: "seccomp".into(),
        attempts: vec![
            attempt("write to /srv/r/config", Outcome::Denied, "Landlock", None),
            attempt("list /", Outcome::Possible, "nobody", Some("see")),
            attempt("read /x", Outcome::Untried, "it is not there", None),
        ],
    };
    let pad = " ".repeat(28);
    let expected = format!(
        "confined by seccomp\n\n\
         denied    write to /srv/r/config{pad} by Landlock\n\
         POSSIBLE  list /\n          fix: see\n\
         untried   read /x{}it is not there\n\n\
         3 attempts, 1 of them POSSIBLE\n",
        " ".repeat(44)
    );
    assert_eq!(said(&Reply::Sandbox(report)), expected);
}

#[test]
fn an_expired_certificate_is_shouted() {
    let news = News {
        certificate: news().certificate.map(|it| Certificate {
            expires: "2026-03-01T00:00:00Z".into(),
            ..it
        }),
        ..News::default()
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
  confined    by no new privileges, Landlock ABI 4, seccomp
  sent        5.0 GiB
              3.0 MiB from memory
              5.0 GiB by the kernel from files
              512 B by the kernel, encrypted
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
