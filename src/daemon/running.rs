//! A server at work: what it serves with at the moment, and how one generation
//! takes over from another.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::Daemon;
use super::certificate::{Candidate, Reminder, Replacement};
use super::generation::Generation;
use super::listeners::{self, Kind, Plan, Serving};
use super::reload::{Order, Reloaded};
use crate::config::ZeroCopy;
use crate::connection::answering::Answerer;
use crate::connection::slots::Slots;
use crate::connection::{Purpose, Shared};
use crate::control::board::Board;
use crate::control::server::{self as control, Door};
use crate::http::Service;
use crate::http::redirect::Redirect;
use crate::listener::passed::Passed;
use crate::routes::Site;
use crate::sandbox::Confinement;
use crate::systemd::Manager;
use crate::tls::kernel::{KernelTls, Unavailable};
use crate::tls::{Acceptor, Identity};

/// A server at work.
pub(super) struct Running {
    pub(super) generation: Arc<Generation>,
    service: Arc<Service>,
    /// Present if the generation has an identity.
    acceptor: Option<Arc<Acceptor>>,
    /// What the kernel can do of TLS.
    kernel: Result<KernelTls, Unavailable>,
    /// Whether the log has it.
    kernel_told: bool,
    pub(super) listeners: Vec<Serving>,
    pub(super) passed: Passed,
    pub(super) shared: Shared,
    pub(super) drain: watch::Sender<bool>,
    /// Told where the generation's certificate is.
    certificate_files: watch::Sender<Vec<PathBuf>>,
    pub(super) replacement: Replacement,
    pub(super) candidate: Candidate,
    pub(super) reminder: Reminder,
    pub(super) manager: Manager,
    /// Present if it can be asked.
    pub(super) door: Option<Door>,
    /// Present if the process has confined itself.
    pub(super) confinement: Option<Arc<Confinement>>,
}

impl Running {
    /// Begins to serve; with what it can be told from now on.
    pub(super) fn begin(daemon: Daemon) -> (Self, mpsc::Receiver<Order>) {
        let Daemon {
            generation,
            service,
            listeners,
            kernel,
            reactors,
            control: _,
            orders,
            certificate_files,
            manager,
            door,
            confinement,
        } = daemon;
        let (drain, draining) = watch::channel(false);
        let mut running = Self {
            service,
            acceptor: None,
            kernel,
            kernel_told: false,
            listeners: Vec::new(),
            passed: listeners.passed(),
            shared: Shared {
                limits: Arc::new(ArcSwap::from_pointee(generation.limits)),
                slots: Arc::new(Slots::new(generation.limits.connections)),
                drain: draining,
                reactors: Arc::new(reactors),
                sent: Arc::default(),
                rests: Arc::default(),
            },
            drain,
            certificate_files,
            replacement: Replacement::default(),
            candidate: Candidate::default(),
            reminder: Reminder::default(),
            manager,
            door,
            confinement,
            generation: Arc::new(generation),
        };
        running.identify();
        running.listen(listeners);
        (running, orders)
    }

    /// Makes another generation the one in force. Nothing of it fails, no
    /// connection notices, and requests that began go on as they began.
    pub(super) async fn take_over(
        &mut self,
        next: Generation,
        plan: Plan,
        control: Option<control::Bound>,
    ) -> Reloaded {
        let addresses = plan.addresses();
        let old = std::mem::replace(&mut self.generation, Arc::new(next));
        let mut changes = changes(&old, &self.generation);
        self.service.reroute(Arc::clone(&self.generation.routes));
        self.generation.routes.put_in_force();
        self.limit();
        self.identify();
        // Receivers hear of other files only.
        let files = self.generation.certificate_files();
        self.certificate_files
            .send_if_modified(|told| std::mem::replace(told, files) != *told);
        let (ending, moved) = self.listen(plan);
        changes.extend(moved);
        if let (Some(door), Some(bound)) = (&mut self.door, control) {
            changes.push(format!("control socket {bound}"));
            door.move_to(bound);
        }
        listeners::end(ending).await;
        Reloaded { changes, addresses }
    }

    /// Makes another identity the one that handshakes are made with.
    pub(super) fn replace_identity(&mut self, identity: Arc<Identity>) {
        let generation = Generation {
            identity: Some(identity),
            ..Generation::clone(&self.generation)
        };
        self.generation = Arc::new(generation);
        self.identify();
    }

    /// Puts the generation's limits in force.
    fn limit(&self) {
        let limits = self.generation.limits;
        self.shared.slots.resize(limits.connections);
        self.shared.limits.store(Arc::new(limits));
    }

    /// Puts the generation's identity in force.
    fn identify(&mut self) {
        let generation = Arc::clone(&self.generation);
        match (&generation.identity, self.acceptor.take()) {
            (Some(identity), Some(acceptor)) => {
                acceptor.replace(identity, self.kernel_tls());
                self.acceptor = Some(acceptor);
            }
            (Some(identity), None) => {
                let acceptor = Acceptor::new(identity, self.kernel_tls());
                self.acceptor = Some(Arc::new(acceptor));
            }
            (None, _) => {}
        }
        self.certify();
    }

    /// What may be left to the kernel of TLS.
    fn kernel_tls(&mut self) -> KernelTls {
        if self.generation.config.transfer.zero_copy == ZeroCopy::Off {
            return KernelTls::NONE;
        }
        let told = std::mem::replace(&mut self.kernel_told, true);
        match &self.kernel {
            Ok(kernel) if !told => tracing::info!(%kernel, "the kernel does TLS for HTTP/1.1"),
            Err(reason) if !told => tracing::info!(%reason, "TLS is done without the kernel"),
            Ok(_) | Err(_) => {}
        }
        self.kernel.as_ref().map_or(KernelTls::NONE, Clone::clone)
    }

    /// Where the operator looks, if anywhere.
    pub(super) fn board(&self) -> Option<&Board> {
        self.door.as_ref().map(|it| it.brakes().board())
    }

    fn certify(&self) {
        if let Some(board) = self.board() {
            let identity = self.generation.identity.as_ref();
            board.certify(identity.map(|it| &it.certificate));
            board.count(&self.shared.sent);
        }
    }

    /// Puts the generation's listeners in force: those that are to be ended, and
    /// what changed.
    fn listen(&mut self, plan: Plan) -> (Vec<Serving>, Vec<String>) {
        let public_name = self.generation.config.listen.public_name.clone();
        let redirect = Arc::new(Redirect::new(public_name, plan.https_port()));
        let content = || Answerer::Content(Arc::clone(&self.service));
        let zero_copy = self.generation.config.transfer.zero_copy;
        let purpose = |kind| {
            let (tls, answerer) = match kind {
                Kind::Https => (self.acceptor.clone(), content()),
                Kind::Http => (None, content()),
                Kind::Redirect => (None, Answerer::Redirect(Arc::clone(&redirect))),
            };
            Purpose {
                tls,
                answerer,
                zero_copy,
            }
        };
        let running = std::mem::take(&mut self.listeners);
        let outcome = plan.carry_out(running, purpose, &self.shared);
        self.listeners = outcome.serving;
        (outcome.ending, outcome.changes)
    }
}

/// What is different between two generations, but for the listeners, in words.
fn changes(old: &Generation, new: &Generation) -> Vec<String> {
    let mut changes = Vec::new();
    for (prefix, site) in new.routes.sites() {
        let what = name(site);
        match old.routes.at(prefix) {
            Some(before) if before.is(site) && !new.routes.changes(prefix) => {}
            Some(before) if name(before) == what => {
                changes.push(format!("{what} {prefix} changed"));
            }
            _ => changes.push(format!("{what} {prefix} added")),
        }
    }
    for (prefix, site) in old.routes.sites() {
        let what = name(site);
        if new.routes.at(prefix).is_none_or(|it| name(it) != what) {
            changes.push(format!("{what} {prefix} removed"));
        }
    }
    changes.extend(identity_change(
        old.identity.as_ref(),
        new.identity.as_ref(),
    ));
    if old.limits != new.limits {
        changes.push("limits changed".into());
    }
    if old.config.transfer != new.config.transfer {
        changes.push("transfer settings changed".into());
    }
    if !old.config.sandbox.means_same(&new.config.sandbox) {
        changes.push("`[sandbox]` changed, which counts from the next start".into());
    }
    if old.config.listen.public_name != new.config.listen.public_name {
        changes.push("public name changed".into());
    }
    changes
}

fn name(site: &Site) -> &'static str {
    match site {
        Site::Repo(_) => "repository",
        Site::Statics(_) => "directory",
    }
}

fn identity_change(old: Option<&Arc<Identity>>, new: Option<&Arc<Identity>>) -> Option<String> {
    match (old, new) {
        (Some(old), Some(new)) if Arc::ptr_eq(old, new) => None,
        (Some(old), Some(new)) if old.certificate == new.certificate => {
            Some("TLS settings changed".into())
        }
        (Some(_), Some(_)) => Some("certificate replaced".into()),
        (None, Some(_)) => Some("certificate added".into()),
        (Some(_), None) => Some("certificate removed".into()),
        (None, None) => None,
    }
}
