//! When a repository's new state may be published: a pure function from facts to
//! a verdict. Reading files is [`super::observation`]'s, time the keeper's.
//!
//! A writer replaces `summary` first and its signature after it, and a client
//! asks for them in the other order, so every state in between is a trap
//! (client-contract 3). The rules, each of which is a row of the test's table:
//!
//! - A signature that is known to fit is published at once.
//! - One that does not fit waits for one that does, without limit.
//! - One of which nobody can tell (ed25519, without its key) is believed if both
//!   files have one time, as ostree 2023.1 and later give them, or if it is the
//!   younger file and nothing has moved for a while.
//! - A missing one, where there was one before, waits for as long as the operator
//!   allows (signing may need a passphrase), and without limit if the operator
//!   named keys.
//! - A ref whose commit is not there waits, for a mirror writes its summary first.
//! - What cannot be read or parsed waits without limit.
//!
//! With nothing to serve meanwhile, waiting is only for what settles by itself:
//! what is sound is served, and the rest is left out.

use std::collections::HashMap;
use std::time::Duration;

use crate::resource::RootDocument;

/// What was found in a repository's directory.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `config`, without which nothing can be served.
    pub config: Part,
    /// The refs, as far as they could be read.
    pub refs: Part,
    /// `summary`
    pub summary: Part,
    /// `summary.sig`
    pub signature: Signature,
    /// `summary.idx`
    pub index: Part,
    /// `summaries/<digest of the index>.idx.sig`
    pub index_signature: Signature,
    /// `summary.idx.sig`, which flatpak 1.9.1 and 1.9.2 ask for.
    pub old_index_signature: Signature,
    /// Sub-summaries that the index names and that are not there.
    pub missing: Vec<String>,
    /// Refs that name a commit which is not there.
    pub dangling: Vec<Dangling>,
    /// How long nothing has moved.
    pub unchanged: Duration,
    /// How long each problem has been known, by its file. Each has its own clock:
    /// to repair one must not use up the patience with another.
    pub known: HashMap<String, Duration>,
    /// How long it has been too early to tell.
    pub unsettled: Duration,
    /// The problems that the generation which is served was published with: they
    /// keep nothing newer back.
    pub tolerated: Vec<Problem>,
    /// The generation that is served now.
    pub previous: Option<Previous>,
}

/// A file, or several of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// There is none.
    #[default]
    Absent,
    /// It can be served.
    Sound,
    /// The system does not let it be read; why, and what to do.
    Unreadable(String, String),
    /// It is not what it should be; why.
    Malformed(String),
}

/// A signature, in view of what it signs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Signature {
    /// There is none.
    #[default]
    Absent,
    /// It fits.
    Fits,
    /// It fits something else, or no configured key made it; why.
    Wrong(String),
    /// Without a key nobody can tell.
    Untellable(Age),
    /// The system does not let it be read; why, and what to do.
    Unreadable(String, String),
    /// It is not what it should be; why.
    Malformed(String),
}

/// A signature's file in relation to the signed one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It was changed before.
    Older,
    /// Both have one time, to the nanosecond.
    Same,
    /// It was changed after.
    Younger,
}

/// A ref without its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dangling {
    /// The ref, such as `heads/app`, or as the summary names it.
    pub name: String,
    /// The commit, in hexadecimal.
    pub commit: String,
    /// Whether the commit is there, marked as incomplete.
    pub partial: bool,
}

/// What the generation that is served now has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Previous {
    /// A summary.
    pub summary: bool,
    /// A signature of the summary.
    pub signature: bool,
    /// A signature of the index.
    pub index_signature: bool,
}

/// How patient the operator is.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// With a missing signature; `None` without limit.
    pub unsigned: Option<Duration>,
    /// With missing commits.
    pub incomplete: Duration,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Publish, without what is in `omitted`. The problems are what the operator
    /// should know all the same.
    Publish {
        /// What is left out.
        omitted: Omitted,
        /// What is wrong with it.
        problems: Vec<Problem>,
    },
    /// It is too early to tell: look again after this time.
    Wait(Duration),
    /// Keep serving what is served.
    Hold {
        /// Why.
        problems: Vec<Problem>,
        /// When patience ends, if it does.
        recheck: Option<Duration>,
    },
}

/// Documents that are not published although they are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Omitted {
    /// `summary`
    pub summary: bool,
    /// `summary.sig`
    pub signature: bool,
    /// `summary.idx` and its signatures
    pub index: bool,
    /// `summary.idx.sig`
    pub old_index_signature: bool,
}

impl Omitted {
    /// Whether this document is left out.
    pub fn contains(&self, document: RootDocument) -> bool {
        match document {
            RootDocument::Summary => self.summary,
            RootDocument::SummarySignature => self.signature,
            RootDocument::SummaryIndex => self.index,
            RootDocument::SummaryIndexSignature => self.old_index_signature,
        }
    }
}

/// Something that keeps a state from being published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the repository.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
    /// What repairs it.
    pub remedy: String,
    patience: Patience,
}

/// How long a problem is waited out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// Until nothing has moved for so long. It is no problem then.
    Settle(Duration),
    /// For so long; after that it is published as it is.
    For(Duration),
    /// Until it is repaired.
    Forever,
}

/// A writer's next step follows within this time if it follows at all: between
/// `summary` and the removal of the old `summary.sig` lies one system call.
const STEP: Duration = Duration::from_millis(200);

/// Nobody signs for longer with a key at hand.
const SIGNING: Duration = Duration::from_secs(2);

/// A repository that does not settle for so long never does.
const RESTLESS: Duration = Duration::from_secs(10);

/// Judges what was found.
pub fn judge(facts: &Facts, bounds: &Bounds) -> Verdict {
    let mut problems = Problems::default();
    let omitted = Omitted {
        summary: problems.part("summary", &facts.summary),
        ..Omitted::default()
    };
    let omitted = summary_signature(facts, bounds, omitted, &mut problems);
    let omitted = index(facts, bounds, omitted, &mut problems);
    problems.part("config", &facts.config);
    problems.part("refs", &facts.refs);
    dangling(facts, bounds, &mut problems);
    problems.verdict(facts, omitted)
}

fn summary_signature(
    facts: &Facts,
    bounds: &Bounds,
    mut omitted: Omitted,
    problems: &mut Problems,
) -> Omitted {
    let had = facts.previous.unwrap_or_default();
    if facts.summary == Part::Absent && had.summary {
        let remedy = "make it again: `ostree summary --update`, or `flatpak build-update-repo`";
        problems.add(
            "summary",
            "it was removed",
            remedy,
            Patience::of(bounds.unsigned),
        );
    }
    if facts.summary == Part::Absent && facts.signature != Signature::Absent {
        let reason = "it signs a summary that is not there";
        problems.add("summary.sig", reason, RESIGN, Patience::Forever);
        omitted.signature = true;
        return omitted;
    }
    if facts.summary != Part::Sound {
        omitted.signature = facts.signature != Signature::Absent;
        return omitted;
    }
    let must_be_signed = had.signature || bounds.unsigned.is_none();
    let good = problems.signature("summary.sig", &facts.signature, must_be_signed, bounds);
    omitted.signature = !good;
    // With keys, the operator wants no summary that is not signed by one of them.
    omitted.summary |= !good && bounds.unsigned.is_none();
    omitted
}

fn index(facts: &Facts, bounds: &Bounds, mut omitted: Omitted, problems: &mut Problems) -> Omitted {
    omitted.index = problems.part("summary.idx", &facts.index);
    if facts.index != Part::Sound {
        omitted.old_index_signature = facts.old_index_signature != Signature::Absent;
        return omitted;
    }
    let had = facts.previous.unwrap_or_default().index_signature;
    let must_be_signed = had || bounds.unsigned.is_none();
    let new = problems.signature(
        "summaries/*.idx.sig",
        &facts.index_signature,
        must_be_signed && facts.old_index_signature == Signature::Absent,
        bounds,
    );
    let old = problems.signature(
        "summary.idx.sig",
        &facts.old_index_signature,
        must_be_signed && facts.index_signature == Signature::Absent,
        bounds,
    );
    omitted.old_index_signature = !old;
    omitted.index |= !new || (!old && facts.index_signature == Signature::Absent);
    for name in &facts.missing {
        let reason = "the index names it, and it is not there";
        problems.add(name, reason, UPDATE_REPO, Patience::Forever);
        omitted.index = true;
    }
    omitted
}

fn dangling(facts: &Facts, bounds: &Bounds, problems: &mut Problems) {
    const MOST: usize = 5;
    for ref_ in facts.dangling.iter().take(MOST) {
        let state = match ref_.partial {
            true => "is marked as incomplete (state/*.commitpartial)",
            false => "is not in the repository",
        };
        let reason = format!("it names commit {}, which {state}", ref_.commit);
        let remedy = "let the pull that brings it finish, or pull it again; or delete the ref";
        problems.add(
            &format!("ref {}", ref_.name),
            reason,
            remedy,
            Patience::For(bounds.incomplete),
        );
    }
    if facts.dangling.len() > MOST {
        let reason = "more refs name commits that are not there";
        problems.add("refs", reason, "as above", Patience::For(bounds.incomplete));
    }
}

const RESIGN: &str = "sign it again: `ostree summary --update --gpg-sign=KEY`, or `flatpak build-update-repo --gpg-sign=KEY`";
const UPDATE_REPO: &str = "write it again: `flatpak build-update-repo`";

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(
        &mut self,
        file: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
        patience: Patience,
    ) {
        self.0.push(Problem {
            file: file.to_owned(),
            reason: reason.into(),
            remedy: remedy.into(),
            patience,
        });
    }

    /// Whether a file has to be left out.
    fn part(&mut self, file: &str, part: &Part) -> bool {
        match part {
            Part::Absent | Part::Sound => return false,
            Part::Unreadable(reason, remedy) => self.add(file, reason, remedy, Patience::Forever),
            Part::Malformed(reason) => {
                let remedy = match file {
                    "refs" => "delete the file, or let ostree write it again",
                    _ => "write it again, or restore it from a backup",
                };
                self.add(file, reason, remedy, Patience::Forever);
            }
        }
        true
    }

    /// Whether a signature can be served with what it signs; absence is fine.
    fn signature(
        &mut self,
        file: &str,
        signature: &Signature,
        must_be_signed: bool,
        bounds: &Bounds,
    ) -> bool {
        let (reason, remedy) = match signature {
            Signature::Fits => return true,
            // The removal of an old signature is one step of its replacement.
            Signature::Absent if !must_be_signed => {
                self.add(file, "it is missing", RESIGN, Patience::Settle(STEP));
                return true;
            }
            Signature::Absent => {
                self.add(file, "it is missing", RESIGN, Patience::of(bounds.unsigned));
                return bounds.unsigned.is_some();
            }
            Signature::Untellable(Age::Same) => return true,
            Signature::Untellable(Age::Younger) => {
                let reason = "whether it fits cannot be told without a key";
                self.add(file, reason, "", Patience::Settle(SIGNING));
                return true;
            }
            Signature::Untellable(Age::Older) => (
                "it is older than what it signs, and whether it fits cannot be told without a key",
                "sign again, or name the key in `verify_keys`",
            ),
            Signature::Wrong(reason) => (reason.as_str(), RESIGN),
            Signature::Malformed(reason) => (reason.as_str(), RESIGN),
            Signature::Unreadable(reason, remedy) => (reason.as_str(), remedy.as_str()),
        };
        self.add(file, reason, remedy, Patience::Forever);
        false
    }

    fn verdict(self, facts: &Facts, omitted: Omitted) -> Verdict {
        let mut problems = self.0;
        let settle = problems
            .iter()
            .filter_map(|problem| match problem.patience {
                Patience::Settle(time) => Some(time),
                // Without anything to serve meanwhile there is no more patience than
                // a writer needs who is just at it.
                _ => facts.previous.is_none().then_some(SIGNING),
            });
        let unsettled = settle.map(|time| time.saturating_sub(facts.unchanged));
        let unsettled = unsettled.max().filter(|left| !left.is_zero());
        problems.retain(|problem| !matches!(problem.patience, Patience::Settle(_)));

        let left = |problem: &Problem| match problem.patience {
            _ if facts.tolerated.contains(problem) => Duration::ZERO,
            Patience::For(time) => {
                let known = facts.known.get(&problem.file).copied();
                time.saturating_sub(known.unwrap_or_default())
            }
            _ => Duration::MAX,
        };
        let holding = problems.iter().map(left).max();
        match (holding.filter(|left| !left.is_zero()), unsettled) {
            (Some(left), _) if facts.previous.is_some() => Verdict::Hold {
                problems,
                recheck: (left != Duration::MAX).then_some(left),
            },
            (_, Some(left)) if facts.unsettled < RESTLESS => Verdict::Wait(left),
            _ => Verdict::Publish { omitted, problems },
        }
    }
}

impl Problem {
    /// Something about the directory itself.
    pub fn with_directory(reason: String, remedy: String) -> Self {
        Self {
            file: ".".into(),
            reason,
            remedy,
            patience: Patience::Forever,
        }
    }
}

impl Patience {
    fn of(bound: Option<Duration>) -> Self {
        bound.map_or(Self::Forever, Self::For)
    }
}

#[cfg(test)]
mod tests;
