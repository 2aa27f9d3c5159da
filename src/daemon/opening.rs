//! Opening the next generation, and looking at files, beside what runs, however long
//! that takes: a disk or a file server that no longer answers keeps a thread, and
//! nothing else.
//!
//! Only one generation is opened at a time. Who asks meanwhile is answered by one more, for
//! the files may have changed after they were read.

use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::reload::{Refused, Reloaded};
use crate::finding::{Finding, Place};

/// Where somebody waits for what comes of a reload.
pub(super) type Reply = oneshot::Sender<Result<Reloaded, Refused>>;

/// What is being opened at the moment, as the thread that does it tells.
#[derive(Clone)]
pub(super) struct Stage(Arc<ArcSwap<(Place, String)>>);

impl Stage {
    /// `what` is at this place.
    pub(super) fn new(place: impl Into<Place>, what: &str) -> Self {
        Self(Arc::new(ArcSwap::from_pointee((
            place.into(),
            what.to_owned(),
        ))))
    }

    /// From now on it is this.
    pub(super) fn is(&self, place: impl Into<Place>, what: impl Into<String>) {
        self.0.store(Arc::new((place.into(), what.into())));
    }

    fn finding(&self, waited: Duration) -> Finding {
        let (place, what) = &**self.0.load();
        let waited = humantime::format_duration(waited);
        let reason = format!("still waiting for {what} after {waited}");
        Finding::error(place.clone(), reason).remedy(
            "see whether its disk or file server answers, and reload again; until then no \
             reload is possible, and what is served stays as it is",
        )
    }
}

/// How long somebody waits: a disk that has to start needs a third of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What is opened, and for whom.
pub(super) struct Openings<T> {
    under_way: Option<UnderWay<T>>,
    /// Who waits for it; nobody any more if it took too long.
    asked: Vec<Reply>,
    /// Who asked after it had begun.
    next: Vec<Reply>,
    deadline: Instant,
}

struct UnderWay<T> {
    task: JoinHandle<Result<T, Vec<Finding>>>,
    stage: Stage,
}

impl<T: Send + 'static> Openings<T> {
    pub(super) fn new() -> Self {
        Self {
            under_way: None,
            asked: Vec::new(),
            next: Vec::new(),
            deadline: Instant::now(),
        }
    }

    /// Somebody wants what the files say from now on. Whether that has to wait for
    /// something that has been given up.
    pub(super) fn ask(&mut self, reply: Reply) -> bool {
        let given_up = self.under_way.is_some() && self.asked.is_empty() && self.next.is_empty();
        if given_up {
            self.deadline = Instant::now() + PATIENCE;
        }
        self.next.push(reply);
        given_up
    }

    /// Whether somebody waits for something that may begin now.
    pub(super) fn is_due(&self) -> bool {
        self.under_way.is_none() && !self.next.is_empty()
    }

    /// Opens what they wait for.
    pub(super) fn begin(
        &mut self,
        file: &Path,
        open: impl FnOnce(&Stage) -> Result<T, Vec<Finding>> + Send + 'static,
    ) {
        let stage = Stage::new(file, "the configuration file");
        let told = stage.clone();
        self.asked = std::mem::take(&mut self.next);
        self.deadline = Instant::now() + PATIENCE;
        self.under_way = Some(UnderWay {
            task: spawn_blocking(move || open(&told)),
            stage,
        });
    }

    /// What came of it, and who waits for that; nobody if it had been given up.
    /// Dropping the future loses nothing.
    pub(super) async fn outcome(&mut self) -> (Vec<Reply>, Result<T, Vec<Finding>>) {
        let Some(under_way) = &mut self.under_way else {
            return pending().await;
        };
        let is_awaited = !(self.asked.is_empty() && self.next.is_empty());
        tokio::select! {
            biased;
            opened = &mut under_way.task => {
                let opened = opened.unwrap_or_else(|error| {
                    let (place, _) = &**under_way.stage.0.load();
                    Err(vec![Finding::error(place.clone(), failed(&error))])
                });
                self.under_way = None;
                (std::mem::take(&mut self.asked), opened)
            }
            () = sleep_until(self.deadline), if is_awaited => {
                let finding = under_way.stage.finding(PATIENCE);
                let mut replies = std::mem::take(&mut self.asked);
                replies.append(&mut self.next);
                (replies, Err(vec![finding]))
            }
        }
    }
}

/// A look at files, which may hang as well. One at a time.
pub(super) struct Looking<T> {
    under_way: Option<(JoinHandle<T>, Instant)>,
    again: bool,
}

impl<T> Default for Looking<T> {
    fn default() -> Self {
        Self {
            under_way: None,
            again: false,
        }
    }
}

impl<T: Send + 'static> Looking<T> {
    /// When the one that is under way began.
    pub(super) fn began(&self) -> Option<Instant> {
        self.under_way.as_ref().map(|(_, began)| *began)
    }

    /// What it looks at may have changed after it was read.
    pub(super) fn again(&mut self) {
        self.again = true;
    }

    /// Whether one more has to begin.
    pub(super) fn is_due(&self) -> bool {
        self.under_way.is_none() && self.again
    }

    /// Looks.
    pub(super) fn begin(&mut self, look: impl FnOnce() -> T + Send + 'static) {
        self.again = false;
        self.under_way = Some((spawn_blocking(look), Instant::now()));
    }

    /// What it has found. Dropping the future loses nothing.
    pub(super) async fn outcome(&mut self) -> Result<T, JoinError> {
        let Some((task, _)) = &mut self.under_way else {
            return pending().await;
        };
        let seen = task.await;
        self.under_way = None;
        seen
    }
}

/// Why a thread brought nothing.
pub(super) fn failed(error: &JoinError) -> String {
    format!("it could not be read: {error}")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    type Said = oneshot::Receiver<Result<Reloaded, Refused>>;

    fn ask(openings: &mut Openings<u32>) -> Said {
        let (reply, said) = oneshot::channel();
        openings.ask(reply);
        said
    }

    /// Gives this number when it is let.
    fn hang(openings: &mut Openings<u32>, number: u32) -> mpsc::Sender<()> {
        let (free, held) = mpsc::channel();
        openings.begin(Path::new("/etc/serve.toml"), move |stage| {
            stage.is(Path::new("/srv/repo"), "the repository");
            // The test may fail before it lets it.
            _ = held.recv();
            Ok(number)
        });
        free
    }

    fn said(outcome: &Result<u32, Vec<Finding>>) -> String {
        match outcome {
            Ok(number) => number.to_string(),
            Err(findings) => findings.iter().map(Finding::to_string).collect(),
        }
    }

    #[tokio::test]
    async fn who_asks_meanwhile_waits_for_one_more() {
        let mut openings = Openings::new();
        let _first = ask(&mut openings);
        assert!(openings.is_due());
        let free = hang(&mut openings, 1);
        let _others: Vec<Said> = (0..5).map(|_| ask(&mut openings)).collect();
        assert!(!openings.is_due(), "one at a time");
        free.send(()).unwrap();
        let (replies, outcome) = openings.outcome().await;
        assert_eq!((replies.len(), &*said(&outcome)), (1, "1"));
        assert!(openings.is_due());
        hang(&mut openings, 2).send(()).unwrap();
        let (replies, outcome) = openings.outcome().await;
        assert_eq!((replies.len(), &*said(&outcome)), (5, "2"));
        assert!(!openings.is_due());
    }

    /// A file server has died. Each who asks is told so in the end, no further
    /// thread is lost to it, and when it comes back all is as before.
    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_given_up_and_not_begun_again() {
        let mut openings = Openings::new();
        let _first = ask(&mut openings);
        let free = hang(&mut openings, 1);
        let _second = ask(&mut openings);
        // The clock stands while a thread is busy, so it has to be told.
        let waits = async |openings: &mut Openings<u32>| {
            let began = Instant::now();
            let mut outcome = std::pin::pin!(openings.outcome());
            loop {
                tokio::select! {
                    biased;
                    (replies, outcome) = &mut outcome => {
                        break (replies.len(), said(&outcome), began.elapsed());
                    }
                    () = tokio::time::advance(Duration::from_secs(1)) => {}
                }
            }
        };
        // Until the thread has told what it does.
        while !openings
            .under_way
            .as_ref()
            .unwrap()
            .stage
            .0
            .load()
            .1
            .contains("repository")
        {
            tokio::task::yield_now().await;
        }
        let (replies, said_of_it, waited) = waits(&mut openings).await;
        assert_eq!(replies, 2);
        assert!(
            said_of_it.starts_with("/srv/repo: error: still waiting for the repository after 30s"),
            "{said_of_it}"
        );
        assert_eq!(waited, PATIENCE);

        let (reply, _third) = oneshot::channel();
        assert!(openings.ask(reply), "it hangs still");
        assert!(!openings.is_due());
        let _fourth = ask(&mut openings);
        let (replies, said_of_it, waited) = waits(&mut openings).await;
        assert_eq!(replies, 2);
        assert!(said_of_it.contains("still waiting"), "{said_of_it}");
        assert_eq!(waited, PATIENCE);

        let _fifth = ask(&mut openings);
        free.send(()).unwrap();
        let (replies, outcome) = openings.outcome().await;
        assert_eq!((replies.len(), &*said(&outcome)), (0, "1"), "nobody's");
        assert!(openings.is_due());
        hang(&mut openings, 2).send(()).unwrap();
        let (replies, outcome) = openings.outcome().await;
        assert_eq!((replies.len(), &*said(&outcome)), (1, "2"));
    }

    /// Files that do not answer keep a thread, and what is to be done besides is
    /// done.
    #[tokio::test]
    async fn a_look_that_hangs_is_not_waited_for() {
        let mut looking = Looking::default();
        let (free, held) = mpsc::channel();
        looking.begin(move || held.recv());
        let other = async {
            tokio::task::yield_now().await;
            "done"
        };
        tokio::select! {
            biased;
            seen = looking.outcome() => panic!("{seen:?}"),
            done = other => assert_eq!(done, "done"),
        }
        assert!(looking.began().is_some() && !looking.is_due());
        looking.again();
        free.send(()).unwrap();
        assert_eq!(looking.outcome().await.unwrap(), Ok(()));
        assert!(looking.began().is_none() && looking.is_due());
    }
}
