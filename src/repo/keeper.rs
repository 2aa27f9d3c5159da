//! Keeps a repository's publication up to date: looks when something may have
//! changed, asks the judge, and does what the judge says. Time is kept here, and
//! what operators are to know is logged here.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::brake::Brake;
use super::generation::{Document, Generation, Publications, RootDocuments, Unreadable};
use super::judge::{Bounds, Facts, Omitted, Part, Previous, Problem, Verdict, judge};
use super::observation::{Commits, Observation};
use super::settings::Settings;
use super::status::Obstacle;
use crate::files::Directory;
use crate::resource::RootDocument;
use crate::signature::Keys;

/// What is remembered between two looks.
#[derive(Debug)]
pub struct Keeper {
    bounds: Bounds,
    keys: Option<Arc<Keys>>,
    /// The last look, and when it first looked like this.
    last: Option<(Observation, Instant)>,
    /// What the served generation was made of, and what was wrong with it.
    published: Option<(Observation, Vec<Problem>)>,
    /// Since when it has been too early to tell.
    unsettled: Option<Instant>,
    obstacles: Vec<Known>,
    /// Whether only the brake keeps a newer state from being published.
    has_newer: bool,
    /// How many generations there were.
    generations: u64,
}

/// A problem that operators were told of.
#[derive(Debug)]
struct Known {
    problem: Problem,
    since: SystemTime,
    /// The same, by a clock that nobody sets.
    first: Instant,
    /// When the log last told of it.
    told: Option<Instant>,
}

/// A warning that still holds is repeated after this time, for logs are rotated.
const REMINDER: Duration = Duration::from_secs(3600);

/// What is over sooner was a writer's step, and nothing for a log.
const PASSING: Duration = Duration::from_secs(2);

const HELD_BACK: &str = "the last good state stays served";
const STAYS: &str = "what was served stays served";
const WHEN_RELEASED: &str = "what is sound will be served when the repository is released";
const NEVERTHELESS: &str = "what is sound is served";

impl Keeper {
    /// Knows nothing yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            bounds: settings.bounds(),
            keys: settings.keys.clone(),
            last: None,
            published: None,
            unsettled: None,
            obstacles: Vec::new(),
            has_newer: false,
            generations: 0,
        }
    }

    /// Looks, and publishes what may be published. Gives the time after which to
    /// look again although nothing changes. May wait for the disk.
    pub fn look(
        &mut self,
        directory: Arc<Directory>,
        publications: &Publications,
        brake: &Brake,
        settings: &Settings,
        now: Instant,
    ) -> Option<Duration> {
        self.bounds = settings.bounds();
        self.keys = settings.keys.clone();
        let path = directory.path().to_owned();
        self.has_newer = false;
        let last = self.last.as_ref().map(|(last, _)| last);
        let seen = Observation::make(directory, last);
        let since = match &self.last {
            Some((last, since)) if last.is_like(&seen) => *since,
            _ => now,
        };
        self.last = Some((seen.clone(), since));
        if let Some((published, problems)) = &self.published
            && published.is_like(&seen)
        {
            self.unsettled = None;
            self.tell(&path, problems.clone(), NEVERTHELESS, now);
            return None;
        }
        let current = publications.current();
        let (facts, material) = self.examine(&seen, current.as_deref());
        let facts = Facts {
            unchanged: seen.age().max(now.saturating_duration_since(since)),
            known: self.known_for(now),
            unsettled: self
                .unsettled
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            tolerated: self
                .published
                .as_ref()
                .map_or_else(Vec::new, |it| it.1.clone()),
            ..facts
        };
        match judge(&facts, &self.bounds) {
            Verdict::Wait(time) => {
                self.unsettled.get_or_insert(now);
                Some(time)
            }
            Verdict::Hold { problems, recheck } => {
                self.unsettled = None;
                self.tell(&path, problems, HELD_BACK, now);
                let is_untold = |known: &Known| known.told.is_none();
                let to_tell = self.obstacles.iter().any(is_untold).then_some(PASSING);
                recheck.into_iter().chain(to_tell).min()
            }
            Verdict::Publish { omitted, problems } => {
                let generation = self.generation(&seen, material, omitted);
                match generation {
                    // The judge lets no bad `config` pass but at a start, which
                    // opening the repository has looked at.
                    None => self.tell(&path, problems, HELD_BACK, now),
                    Some(generation) => {
                        let is_newer = current.is_none_or(|it| !it.says_what(&generation));
                        let publish = || self.publish(publications, generation, now);
                        if brake.unless_held(publish) {
                            self.published = Some((seen, problems.clone()));
                            self.tell(&path, problems, NEVERTHELESS, now);
                        } else {
                            self.has_newer = is_newer;
                            self.tell(&path, problems, WHEN_RELEASED, now);
                        }
                    }
                }
                None
            }
        }
    }

    /// How long each problem has been known, by its file.
    fn known_for(&self, now: Instant) -> HashMap<String, Duration> {
        let known = self.obstacles.iter();
        let known = known.map(|it| {
            let time = now.saturating_duration_since(it.first);
            (it.problem.file.clone(), time)
        });
        known.collect()
    }

    /// Whether a newer state is ready, and only the brake keeps it back.
    pub fn has_newer(&self) -> bool {
        self.has_newer
    }

    /// Something keeps the directory itself from being looked at.
    pub fn cannot_look(&mut self, path: &Path, problem: Problem, now: Instant) {
        self.tell(path, vec![problem], STAYS, now);
    }

    /// What operators are told of now.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let obstacle = |known: &Known| Obstacle {
            file: known.problem.file.clone(),
            reason: known.problem.reason.clone(),
            remedy: known.problem.remedy.clone(),
            since: humantime::format_rfc3339_seconds(known.since).to_string(),
        };
        self.obstacles.iter().map(obstacle).collect()
    }

    /// Publishes a generation that was not made of what was seen here: one that
    /// an operator froze. The next look finds that another state may follow.
    pub fn publish_frozen(&mut self, publications: &Publications, frozen: Generation) {
        self.published = None;
        self.unsettled = None;
        self.publish(publications, frozen, Instant::now());
    }

    fn examine(&self, seen: &Observation, current: Option<&Generation>) -> (Facts, Material) {
        let keys = self.keys.as_deref();
        let (config, config_part) = seen.config();
        let (summary, summary_part) = seen.summary();
        let (index, missing) = seen.index();
        let (index_signature, old_index_signature) = seen.index_signatures(keys);
        let mut commits = seen.commits(summary.as_ref(), current);
        let facts = Facts {
            config: config_part,
            refs: seen.refs_part(),
            summary: summary_part,
            signature: seen.summary_signature(keys),
            index,
            index_signature,
            old_index_signature,
            missing,
            dangling: std::mem::take(&mut commits.dangling),
            previous: current.map(|current| Previous {
                summary: current.documents.get(RootDocument::Summary).is_some(),
                signature: current.is_signed(),
                index_signature: current.is_index_signed(),
            }),
            ..Facts::default()
        };
        (facts, Material { config, commits })
    }

    fn generation(
        &self,
        seen: &Observation,
        material: Material,
        omitted: Omitted,
    ) -> Option<Generation> {
        let mut documents = RootDocuments::default();
        let mut unreadable = Unreadable {
            documents: Vec::new(),
            refs: seen.refs_part() != Part::Sound,
        };
        for name in RootDocument::ALL {
            match omitted.contains(name) {
                false => documents.set(name, seen.document(name).cloned()),
                true if seen.is_unreadable(name) => unreadable.documents.push(name),
                true => {}
            }
        }
        let named = match omitted.index {
            false => seen.named(),
            true => Default::default(),
        };
        Some(Generation {
            number: self.generations,
            published: SystemTime::now(),
            directory: Arc::clone(&seen.directory),
            config: material.config?,
            listed: documents.listed(),
            documents,
            refs: seen.refs(),
            named,
            unreadable,
            commits: material.commits.complete,
        })
    }

    fn publish(&mut self, publications: &Publications, generation: Generation, now: Instant) {
        let generation = Generation {
            number: self.generations,
            ..generation
        };
        self.generations += 1;
        self.unsettled = None;
        tracing::info!(
            repository = %generation.directory.path().display(),
            generation = generation.number,
            refs = generation.refs.len(),
            signed = generation.is_signed(),
            "published"
        );
        publications.publish(Arc::new(generation), now);
    }

    /// Logs what is new, what is over, and now and then what lasts.
    fn tell(&mut self, path: &Path, problems: Vec<Problem>, outcome: &str, now: Instant) {
        let repository = path.display();
        for known in &self.obstacles {
            if known.told.is_some() && !problems.contains(&known.problem) {
                tracing::info!(%repository, file = known.problem.file, "no longer: {}", known.problem.reason);
            }
        }
        let mut before = std::mem::take(&mut self.obstacles);
        for problem in problems {
            let known = before.iter().position(|it| it.problem == problem);
            let mut known = match known {
                Some(position) => before.swap_remove(position),
                None => Known {
                    problem,
                    since: SystemTime::now(),
                    first: now,
                    told: None,
                },
            };
            let age = |since| now.saturating_duration_since(since);
            let is_due = match known.told {
                Some(told) => age(told) >= REMINDER,
                None => outcome != HELD_BACK || age(known.first) >= PASSING,
            };
            if is_due {
                known.told = Some(now);
                tracing::warn!(
                    %repository,
                    file = known.problem.file,
                    since = %humantime::format_rfc3339_seconds(known.since),
                    remedy = known.problem.remedy,
                    "{}; {outcome}",
                    known.problem.reason
                );
            }
            self.obstacles.push(known);
        }
    }
}

/// What a generation is made of, beside what was seen.
struct Material {
    config: Option<Document>,
    commits: Commits,
}
