//! Holds and what is kept of them, with repositories and a service manager that
//! the tests play.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::*;

/// A repository whose frozen generation is its reason.
#[derive(Default)]
struct Toy {
    held: Mutex<Option<Hold>>,
    fails: bool,
}

impl Brake for Toy {
    fn hold(&self, hold: Hold) -> Result<(), String> {
        if self.fails {
            return Err("there is no generation yet".into());
        }
        *lock(&self.held) = Some(hold);
        Ok(())
    }

    fn release(&self) -> Option<Hold> {
        lock(&self.held).take()
    }

    fn frozen(&self) -> Option<Vec<u8>> {
        lock(&self.held)
            .as_ref()
            .map(|hold| hold.reason.clone().into_bytes())
    }

    fn restore(&self, frozen: &[u8]) -> Result<(), String> {
        let reason = std::str::from_utf8(frozen).map_err(|error| error.to_string())?;
        self.hold(Hold {
            reason: reason.to_owned(),
            by: "alice".to_owned(),
            since: "2026-03-01T02:00:00Z".to_owned(),
        })
    }

    fn status(&self) -> Status {
        Status {
            held: lock(&self.held).clone(),
            ..Status::default()
        }
    }
}

struct Toys(Vec<(Prefix, Arc<dyn Brake>)>);

impl Served for Toys {
    fn brakes(&self) -> Vec<(Prefix, Arc<dyn Brake>)> {
        self.0.clone()
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn brakes(inherited: Vec<Inherited>) -> Brakes {
    let toy = |fails| {
        Arc::new(Toy {
            fails,
            ..Toy::default()
        }) as Arc<dyn Brake>
    };
    let toys = Toys(vec![
        (prefix("/b"), toy(false)),
        (prefix("/a"), toy(false)),
        (prefix("/fails"), toy(true)),
    ]);
    Brakes::restored(Arc::new(toys), Manager::NONE, way(), inherited)
}

fn way() -> Way {
    Way::Config("/etc/x.toml".into())
}

fn hold(brakes: &Brakes, at: &str, reason: &str) -> Reply {
    let request = Request::Hold {
        prefix: prefix(at),
        reason: reason.parse().unwrap(),
    };
    brakes.carry_out(request, "bob")
}

fn release(brakes: &Brakes, at: &str) -> Reply {
    brakes.carry_out(Request::Release { prefix: prefix(at) }, "bob")
}

fn report(brakes: &Brakes) -> Report {
    match brakes.carry_out(Request::Status { prefix: None }, "bob") {
        Reply::Status(report) => report,
        reply => panic!("{reply:?}"),
    }
}

/// The reasons for which repositories are held.
fn held(brakes: &Brakes) -> Vec<(String, String)> {
    report(brakes)
        .repositories
        .into_iter()
        .filter_map(|it| Some((it.prefix.to_string(), it.status.held?.reason)))
        .collect()
}

fn refused(reply: Reply) -> Refused {
    match reply {
        Reply::Refused(refused) => refused,
        reply => panic!("{reply:?}"),
    }
}

#[test]
fn what_is_held_is_held_until_it_is_released() {
    let brakes = brakes(vec![]);
    assert_eq!(held(&brakes), []);

    let Reply::Held(first) = hold(&brakes, "/a", "bad kernel") else {
        panic!()
    };
    assert_eq!(first.before, None);
    let placed = first.repository.status.held.unwrap();
    assert_eq!(
        (placed.by.as_str(), placed.reason.as_str()),
        ("bob", "bad kernel")
    );
    assert!(humantime::parse_rfc3339(&placed.since).is_ok());
    assert!(matches!(first.lasting, Lasting::Process(_)));
    assert_eq!(held(&brakes), [("/a".into(), "bad kernel".into())]);

    let Reply::Held(second) = hold(&brakes, "/a", "bad glibc") else {
        panic!()
    };
    assert_eq!(second.before.unwrap(), placed);

    let Reply::Released(released) = release(&brakes, "/a") else {
        panic!()
    };
    assert_eq!(released.before.unwrap().reason, "bad glibc");
    assert_eq!(released.remains, None);
    assert_eq!(held(&brakes), []);

    let Reply::Released(again) = release(&brakes, "/a") else {
        panic!()
    };
    assert_eq!(again.before, None);
}

#[test]
fn an_unknown_prefix_is_told_the_known_ones() {
    let brakes = brakes(vec![]);
    let status = Request::Status {
        prefix: Some(prefix("/c")),
    };
    let replies = [
        hold(&brakes, "/c", "x"),
        release(&brakes, "/c"),
        brakes.carry_out(status, "bob"),
    ];
    for reply in replies {
        let refused = refused(reply);
        assert_eq!(refused.reason, "no repository is served at /c");
        assert_eq!(refused.remedy.unwrap(), "one of these: /a, /b, /fails");
    }
}

#[test]
fn a_report_of_one_repository_is_of_that_alone() {
    let request = Request::Status {
        prefix: Some(prefix("/b")),
    };
    let Reply::Status(report) = brakes(vec![]).carry_out(request, "bob") else {
        panic!()
    };
    let prefixes: Vec<_> = report.repositories.iter().map(|it| &it.prefix).collect();
    assert_eq!(prefixes, [&prefix("/b")]);
}

#[test]
fn a_repository_that_cannot_be_held_says_why() {
    let brakes = brakes(vec![]);
    let refused = refused(hold(&brakes, "/fails", "x"));
    assert_eq!(
        refused.reason,
        "/fails cannot be held: there is no generation yet"
    );
    assert_eq!(held(&brakes), []);
}

fn sealed(name: &str, bytes: &[u8]) -> Inherited {
    let descriptor: OwnedFd = memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&descriptor, bytes).unwrap();
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
    fcntl_add_seals(&descriptor, seals).unwrap();
    Inherited {
        name: name.into(),
        descriptor,
    }
}

#[test]
fn holds_are_taken_over() {
    let brakes = brakes(vec![
        sealed("hold-/a", b"bad kernel"),
        sealed("http", b""),
        // Only one that counts is wanted.
        sealed("hold-/a", b"\xff"),
        sealed("hold-/b", b"\xff"),
        sealed("hold-/b", b"bad glibc"),
    ]);
    let expected = [("/a", "bad kernel"), ("/b", "bad glibc")];
    let expected: Vec<_> = expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    assert_eq!(held(&brakes), expected);
    let report = report(&brakes);
    assert_eq!(report.obstacles, []);
    assert!(
        report
            .repositories
            .iter()
            .all(|it| it.status.waiting.is_empty())
    );
}

/// There are two if the process was killed between storing and forgetting.
#[test]
fn the_newest_hold_counts() {
    let brakes = brakes(vec![
        sealed("hold-/a~9", b"older"),
        sealed("hold-/a~10", b"newest"),
        sealed("hold-/a", b"oldest"),
        sealed("hold-/b", b"readable"),
        sealed("hold-/b~2", b"\xff"),
    ]);
    let expected = [("/a", "newest"), ("/b", "readable")];
    let expected: Vec<_> = expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    assert_eq!(held(&brakes), expected);
    assert_eq!(brakes.kept_for("hold-/a"), (true, vec![1, 9, 10], 2));
}

/// After each step of an exchange something is kept that counts, if it was so
/// before and the manager keeps what it says.
#[test]
fn no_crash_loses_a_hold() {
    let exchange = |before: &[u32], store, after: &[u32], fits| Exchange {
        before: before.into(),
        store,
        after: after.into(),
        fits,
    };
    type Situation<'c> = (bool, &'c [u32], usize, Option<usize>);
    let cases: [(Situation<'_>, Exchange, &[u32]); 9] = [
        (
            (false, &[], 0, Some(16)),
            exchange(&[1], Some(1), &[], true),
            &[1],
        ),
        (
            (false, &[2], 0, Some(16)),
            exchange(&[1, 2], Some(1), &[], true),
            &[1],
        ),
        (
            (false, &[], 16, Some(16)),
            exchange(&[1], Some(1), &[], false),
            &[],
        ),
        (
            (true, &[], 0, Some(16)),
            exchange(&[1], Some(1), &[], true),
            &[1],
        ),
        (
            (true, &[1], 3, Some(16)),
            exchange(&[], Some(2), &[1], true),
            &[2],
        ),
        (
            (true, &[2, 3], 3, Some(16)),
            exchange(&[], Some(4), &[2, 3], true),
            &[4],
        ),
        (
            (true, &[1], 15, Some(16)),
            exchange(&[], None, &[], true),
            &[1],
        ),
        (
            (true, &[1], 3, None),
            exchange(&[], Some(2), &[], true),
            &[1, 2],
        ),
        (
            (true, &[1, 2], 3, None),
            exchange(&[2], Some(3), &[], true),
            &[1, 3],
        ),
    ];
    for ((same, kept, others, room), expected, outcome) in cases {
        let planned = Exchange::plan(same, kept, others, room);
        assert_eq!(planned, expected, "{same} {kept:?} {others} {room:?}");
        assert_eq!(planned.outcome(kept), outcome, "{planned:?}");
    }
}

#[test]
fn a_hold_that_is_lost_shows_until_somebody_decides() {
    type Decide = fn(&Brakes) -> Reply;
    let ways: [Decide; 2] = [|it| hold(it, "/a", "again"), |it| release(it, "/a")];
    for decide in ways {
        let brakes = brakes(vec![sealed("hold-/a", b"\xff")]);
        let waiting = |at: usize| report(&brakes).repositories[at].status.waiting.clone();
        let [lost] = &waiting(0)[..] else {
            panic!("{:?}", waiting(0))
        };
        assert!(lost.reason.contains("IT IS NOT HELD"), "{lost:?}");
        assert!(
            lost.remedy
                .contains("ostree-serve hold /a --reason TEXT --config /etc/x.toml"),
            "{lost:?}"
        );
        assert_eq!(waiting(1), []);
        decide(&brakes);
        assert_eq!(waiting(0), []);
    }
}

#[test]
fn a_hold_of_what_is_not_served_can_be_let_go() {
    let brakes = brakes(vec![sealed("hold-/gone", b"bad kernel")]);
    let [orphan] = &report(&brakes).obstacles[..] else {
        panic!()
    };
    assert_eq!(orphan.prefix, Some(prefix("/gone")));
    let command = "ostree-serve release /gone --config /etc/x.toml";
    assert!(orphan.obstacle.remedy.contains(command), "{orphan:?}");
    let status = Request::Status {
        prefix: Some(prefix("/gone")),
    };
    let Reply::Status(alone) = brakes.carry_out(status, "bob") else {
        panic!()
    };
    assert_eq!((alone.obstacles.len(), alone.repositories.len()), (1, 0));
    refused(hold(&brakes, "/gone", "x"));
    let Reply::Released(released) = release(&brakes, "/gone") else {
        panic!()
    };
    assert_eq!(released.repository, None);
    assert_eq!(report(&brakes).obstacles, []);
    refused(release(&brakes, "/gone"));
}
