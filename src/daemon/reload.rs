//! Keeping up with what the operator changes: the configuration when told, the
//! certificate by itself.
//!
//! Everything is opened and judged first, beside what runs. Then sockets are
//! bound; that may still fail. What comes after that cannot.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinError;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::generation::{Generation, log_finding, named_by};
use super::listeners;
use super::opening::{Looking, Openings, PATIENCE, Reply, failed};
use super::pulse::Pulse;
use super::running::Running;
use crate::config::{Address, Config, Notice};
use crate::control::Way;
use crate::finding::Finding;
use crate::tls::{self, Identity, Renewal};
use crate::watch::Watch;

/// What a running server can be told.
pub(super) enum Order {
    /// Read the configuration again, and tell what came of it.
    Reload(Reply),
    /// The certificate's files may have changed.
    LookAtCertificate,
}

/// A way to tell a running server something.
#[derive(Clone)]
pub struct Control {
    orders: mpsc::Sender<Order>,
    certificate_files: watch::Receiver<Vec<PathBuf>>,
}

/// What a reload changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Phrases, each about one thing; empty if nothing changed.
    pub changes: Vec<String>,
    /// Where it listens now, as [`super::Daemon::addresses`].
    pub addresses: Vec<Address>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.changes.is_empty() {
            true => f.write_str("nothing changed"),
            false => f.write_str(&self.changes.join("; ")),
        }
    }
}

/// Why there was no reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Something is wrong; what was in force still is.
    Wrong(Vec<Finding>),
    /// The server is about to end.
    Ending,
}

/// A control, what it says, and where the certificate's files are to be told.
pub(super) fn control(
    files: Vec<PathBuf>,
) -> (Control, mpsc::Receiver<Order>, watch::Sender<Vec<PathBuf>>) {
    let (orders, receiver) = mpsc::channel(16);
    let (tell, certificate_files) = watch::channel(files);
    let control = Control {
        orders,
        certificate_files,
    };
    (control, receiver, tell)
}

impl Control {
    /// Has the configuration file read again, and waits until what it says is in
    /// force. The server logs what comes of it.
    ///
    /// # Errors
    /// Why what was in force still is.
    pub async fn reload(&self) -> Result<Reloaded, Refused> {
        let (reply, outcome) = oneshot::channel();
        // If it is not received, neither is there a reply.
        _ = self.orders.send(Order::Reload(reply)).await;
        outcome.await.unwrap_or(Err(Refused::Ending))
    }

    /// Has the certificate's files looked at, sooner than by themselves.
    pub fn look_at_certificate(&self) {
        // When so much is to be done, it will be looked at before long anyway.
        _ = self.orders.try_send(Order::LookAtCertificate);
    }

    /// The files that the certificate in use comes from: itself, its key, and the
    /// clients' authorities. A reload may name others.
    pub fn certificate_files(&self) -> watch::Receiver<Vec<PathBuf>> {
        self.certificate_files.clone()
    }

    /// Has the certificate looked at as soon as one of its files changes, on file
    /// systems that tell, for as long as the server runs.
    pub(super) fn watch_certificate(&self) {
        /// The server looks by itself far more often.
        const POLL: Duration = Duration::from_secs(24 * 3600);
        let control = self.clone();
        tokio::spawn(async move {
            let mut files = control.certificate_files();
            loop {
                let named = files.borrow_and_update().clone();
                let mut watch = Watch::files(&named, Notice::Automatic, POLL);
                loop {
                    tokio::select! {
                        named = files.changed() => match named {
                            Ok(()) => break,
                            Err(_) => return,
                        },
                        _ = watch.changed() => control.look_at_certificate(),
                    }
                }
            }
        });
    }

    /// Reloads at each SIGHUP, as long as the server runs.
    pub fn reload_at(&self, mut hangups: Signal) {
        let control = self.clone();
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                if control.reload().await == Err(Refused::Ending) {
                    break;
                }
            }
        });
    }
}

/// SIGHUP, which from now on does not end the process. One that comes before
/// somebody waits for it is not lost.
///
/// # Errors
/// If signals cannot be received.
pub fn hangups() -> anyhow::Result<Signal> {
    Ok(signal(SignalKind::hangup())?)
}

/// Time between two looks at the certificate's files. They are read whole: file
/// systems differ in what their times tell, and the files are small.
pub(super) const LOOK: Duration = Duration::from_secs(2);

impl Running {
    /// Does what it is told, and looks after the certificate, also while something
    /// that a reload opens does not answer. Never ends; dropping the future leaves
    /// one whole generation in force.
    pub(super) async fn keep_up(&mut self, mut orders: mpsc::Receiver<Order>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut openings = Openings::new();
        let mut looking = Looking::default();
        let mut pulse = Pulse::new(self.manager);
        loop {
            if openings.is_due() {
                self.begin_reload(&mut openings);
            }
            tokio::select! {
                Some(order) = orders.recv() => match order {
                    Order::Reload(reply) => {
                        if openings.ask(reply) {
                            // Nothing begins, and yet there will be an outcome.
                            self.manager.reloading();
                        }
                    }
                    Order::LookAtCertificate => self.look_at_certificate(&mut looking),
                },
                (replies, opened) = openings.outcome() => {
                    if !replies.is_empty() {
                        self.end_reload(replies, opened).await;
                    }
                }
                seen = looking.outcome() => self.end_look(seen, &mut looking),
                _ = looks.tick() => {
                    self.look_at_certificate(&mut looking);
                    if let Some(door) = &self.door {
                        door.brakes().announce_news();
                    }
                }
                () = pulse.is_due() => {
                    pulse.beat(&self.listeners, &self.shared, &self.generation.routes);
                }
            }
        }
    }

    /// The first moment of a reload. A service manager that wants to know of it is
    /// told here.
    fn begin_reload(&self, openings: &mut Openings<Opened>) {
        self.manager.reloading();
        let running = Arc::clone(&self.generation);
        let file = running.config.file.clone();
        let confinement = self.confinement.clone();
        openings.begin(&file, move |stage| {
            let config = Config::load(&running.config.file)?;
            let refusal = confinement.map_or(Vec::new(), |it| it.refusal(&config));
            if !refusal.is_empty() {
                return Err(refusal);
            }
            let next = Generation::open(config, Some(&running), stage)?;
            Ok(Opened { next, running })
        });
    }

    /// Its last moment, and nowhere else is the service manager told of that.
    async fn end_reload(&mut self, replies: Vec<Reply>, opened: Result<Opened, Vec<Finding>>) {
        let outcome = match opened {
            Ok(opened) => self.reload(opened).await,
            Err(findings) => Err(findings),
        };
        match &outcome {
            Ok(reloaded) => tracing::info!("configuration reloaded: {reloaded}"),
            Err(findings) => {
                findings.iter().for_each(log_finding);
                let way = Way::Config(self.generation.config.file.clone());
                tracing::error!(
                    remedy = format!(
                        "repair it, see what `ostree-serve check{way}` says, and reload again"
                    ),
                    "the configuration is not reloaded; the server goes on with the old one"
                );
            }
        }
        // Also where the old configuration is still in force: it serves.
        self.manager.ready();
        if let Some(door) = &self.door {
            let brakes = door.brakes();
            brakes
                .board()
                .reloaded(outcome.as_ref().err().map_or(&[], |it| it));
            brakes.announce();
        }
        for reply in replies {
            // Whoever asked may have lost patience.
            _ = reply.send(outcome.clone().map_err(Refused::Wrong));
        }
    }

    async fn reload(&mut self, opened: Opened) -> Result<Reloaded, Vec<Finding>> {
        let next = opened.beside(&self.generation);
        let listen = &next.config.listen;
        let control = match &self.door {
            Some(door) => door
                .plan(&listen.control)
                .map_err(|finding| vec![finding])?,
            None => None,
        };
        let plan = match listeners::plan(listen, &self.listeners, &self.passed) {
            Ok(plan) => plan,
            Err(error) => {
                let finding = error.finding(listen, &next.config.file);
                error.withdraw(&self.listeners, &self.shared).await;
                return Err(vec![finding]);
            }
        };
        let before = self.generation.identity.clone();
        plan.announce();
        next.announce_limits(Some(&self.generation));
        let reloaded = self.take_over(next, plan, control).await;
        let after = self.generation.identity.as_ref();
        if before.as_ref().map(Arc::as_ptr) != after.map(Arc::as_ptr) {
            self.settle_certificate(before.as_deref());
        }
        Ok(reloaded)
    }

    /// Begins to look what is in the certificate's files, if there are any.
    fn look_at_certificate(&mut self, looking: &mut Looking<Seen>) {
        self.remind();
        let (Some(tls), Some(running)) = (&self.generation.config.tls, &self.generation.identity)
        else {
            self.settle_files();
            return;
        };
        if let Some(since) = looking.began() {
            looking.again();
            if since.elapsed() > PATIENCE {
                let reason = "still waiting for the certificate's files";
                let finding = Finding::error(tls.certificate.place.clone(), reason)
                    .remedy("see whether their disk or file server answers");
                self.complain_of_certificate(&[finding]);
            }
            return;
        }
        let (tls, running) = (tls.clone(), Arc::clone(running));
        let public_name = self.generation.config.listen.public_name.clone();
        looking.begin(move || {
            let renewed = tls::renew(&tls, public_name.as_ref(), &running, SystemTime::now());
            let renewed = renewed.map_err(|findings| named_by(&tls, findings));
            Seen { running, renewed }
        });
    }

    /// Serves with the certificate that is in the files, if it is a good one.
    fn end_look(&mut self, seen: Result<Seen, JoinError>, looking: &mut Looking<Seen>) {
        match seen {
            Ok(Seen { running, renewed }) => {
                let current = self.generation.identity.as_ref();
                // Else a reload has looked later.
                if current.is_some_and(|it| Arc::ptr_eq(it, &running)) {
                    self.judge_certificate(renewed);
                }
            }
            Err(error) => {
                let file = self.generation.certificate_file();
                let finding = Finding::error(file, failed(&error));
                self.complain_of_certificate(&[finding]);
            }
        }
        if looking.is_due() {
            self.look_at_certificate(looking);
        }
    }

    fn judge_certificate(&mut self, renewed: Result<Renewal, Vec<Finding>>) {
        if !matches!(renewed, Ok(Renewal::Shorter(_))) {
            self.candidate.forget();
        }
        match renewed {
            Ok(Renewal::Same) => self.settle_files(),
            Ok(Renewal::New(identity)) => self.replace_certificate(identity),
            Ok(Renewal::Shorter(identity)) => {
                if let Some(identity) = self.candidate.seen(identity, Instant::now()) {
                    self.replace_certificate(identity);
                }
            }
            Err(findings) => self.complain_of_certificate(&findings),
        }
    }

    fn settle_files(&mut self) {
        self.judge_files(&[]);
        if self.replacement.settled() {
            tracing::info!("the certificate's files are again those that are served with");
        }
    }

    fn replace_certificate(&mut self, identity: Box<Identity>) {
        let before = self.generation.identity.clone();
        self.replace_identity(Arc::from(identity));
        self.settle_certificate(before.as_deref());
        tracing::info!("certificate replaced");
    }

    fn judge_files(&self, findings: &[Finding]) {
        if let Some(board) = self.board() {
            board.judge_files(findings);
        }
    }

    fn complain_of_certificate(&mut self, findings: &[Finding]) {
        self.judge_files(findings);
        let reasons: String = findings.iter().map(|it| format!("{it}\n")).collect();
        if self.replacement.failed(&reasons, Instant::now()) {
            findings.iter().for_each(|it| log_finding(&it.as_warning()));
            tracing::warn!("the server goes on with the certificate that it has");
        }
    }

    /// Another certificate is in force.
    fn settle_certificate(&mut self, before: Option<&Identity>) {
        self.replacement.settled();
        self.candidate.forget();
        self.reminder = super::certificate::Reminder::default();
        self.generation.announce_certificate();
        // With a public name it has been looked whether the certificate is for that.
        if self.generation.config.listen.public_name.is_none()
            && let (Some(before), Some(now)) = (before, &self.generation.identity)
            && let Some(finding) = now
                .certificate
                .other_hosts(self.generation.certificate_file(), &before.certificate)
        {
            log_finding(&finding);
        }
    }

    /// Tells the operator, in time, that the certificate comes to its end.
    fn remind(&mut self) {
        let Some(identity) = &self.generation.identity else {
            return;
        };
        let now = SystemTime::now();
        let facts = &identity.certificate;
        if self.reminder.is_due(facts.remaining(now), now)
            && let Some(finding) = facts.validity(self.generation.certificate_file(), now)
        {
            log_finding(&finding);
        }
    }
}

/// What a look at the certificate's files has found.
struct Seen {
    /// What was served with when it began.
    running: Arc<Identity>,
    renewed: Result<Renewal, Vec<Finding>>,
}

/// What the configuration file said, opened.
struct Opened {
    next: Generation,
    /// What was in force when it was begun.
    running: Arc<Generation>,
}

impl Opened {
    /// The same beside what is in force now: a look may have replaced the
    /// certificate meanwhile, and what was taken over is the one before.
    fn beside(self, now: &Generation) -> Generation {
        let Self { mut next, running } = self;
        if let (Some(opened), Some(current)) = (&next.identity, &now.identity) {
            let taken_over = running.identity.as_ref().map(Arc::as_ptr);
            if taken_over == Some(Arc::as_ptr(opened)) || opened.is_like(current) {
                next.identity = Some(Arc::clone(current));
            }
        }
        next
    }
}
