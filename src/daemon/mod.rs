//! Start-up, reload and shutdown, as lists of named steps.

mod certificate;
mod generation;
mod listeners;
mod opening;
mod process;
mod pulse;
mod reload;
mod running;
mod shutdown;

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{mpsc, watch};

pub use process::{block_on, block_on_behind_gate, runtime};
pub use reload::{Control, Refused, Reloaded, hangups};
pub use shutdown::{Outcome, termination};

use crate::config::{Address, Config};
use crate::control::server::Door;
use crate::finding::Finding;
use crate::http::Service;
use crate::listener::passed::Passed;
use crate::reactors::Reactors;
use crate::sandbox::Confinement;
use crate::systemd::Manager;
use crate::tls::kernel::{KernelTls, Unavailable};
use generation::Generation;
use listeners::Plan;
use opening::Stage;
use reload::Order;
use running::Running;

/// Exit code: something failed while running.
pub const EXIT_RUNTIME: i32 = 1;
/// Exit code: the command line was wrong (`EX_USAGE` of sysexits(3)).
pub const EXIT_USAGE: i32 = 64;
/// Exit code: the configuration, or what it names, was wrong (`EX_CONFIG`).
pub const EXIT_CONFIG: i32 = 78;

/// Why the server does not start.
#[derive(Debug)]
pub enum StartError {
    /// Something that the configuration names is not as it must be.
    Configuration(Vec<Finding>),
    /// The machine does not let it.
    Runtime(anyhow::Error),
}

impl From<Vec<Finding>> for StartError {
    fn from(findings: Vec<Finding>) -> Self {
        Self::Configuration(findings)
    }
}

impl From<anyhow::Error> for StartError {
    fn from(error: anyhow::Error) -> Self {
        Self::Runtime(error)
    }
}

/// What a server needs, open and bound. No thread was started for it.
pub struct Opened {
    generation: Generation,
    service: Arc<Service>,
    listeners: Plan,
    kernel: Result<KernelTls, Unavailable>,
    processors: NonZero<usize>,
}

impl Opened {
    /// What answers for the content.
    pub fn service(&self) -> Arc<Service> {
        Arc::clone(&self.service)
    }

    /// Starts the threads that serve, which do nothing yet.
    ///
    /// # Errors
    /// If they cannot be had.
    pub fn begin(self) -> Result<Daemon, StartError> {
        let Self {
            generation,
            service,
            listeners,
            kernel,
            processors,
        } = self;
        let reactors =
            Reactors::start(processors).context("the threads that serve cannot be started")?;
        let (control, orders, certificate_files) = reload::control(generation.certificate_files());
        // Only now: whoever reads that it listens takes it for confined.
        listeners.announce();
        Ok(Daemon {
            generation,
            service,
            listeners,
            kernel,
            reactors,
            control,
            orders,
            certificate_files,
            manager: Manager::NONE,
            door: None,
            confinement: None,
        })
    }
}

/// A server with everything open and bound, about to serve.
pub struct Daemon {
    generation: Generation,
    service: Arc<Service>,
    listeners: Plan,
    kernel: Result<KernelTls, Unavailable>,
    reactors: Reactors,
    control: Control,
    orders: mpsc::Receiver<Order>,
    certificate_files: watch::Sender<Vec<PathBuf>>,
    manager: Manager,
    door: Option<Door>,
    confinement: Option<Arc<Confinement>>,
}

impl Daemon {
    /// Opens and binds everything. Needs a runtime around it.
    ///
    /// # Errors
    /// Everything that stands in the way, as far as it can be told at once.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::open(config, &Passed::default())?.begin()
    }

    /// The same without any thread, for a process that is to be confined before it
    /// has any ([`crate::sandbox`]). With sockets that the service manager has passed:
    /// where the configuration names one's address, that is adopted instead of bound.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn open(config: &Config, passed: &Passed) -> Result<Opened, StartError> {
        // What repositories keep open depends on it.
        process::raise_descriptors();
        // Nobody asks what it waits for: nothing is served yet.
        let stage = Stage::new(&*config.file, "the start");
        let generation = Generation::open(config.clone(), None, &stage)?;
        generation.routes.put_in_force();
        generation.announce_limits(None);
        generation.announce_certificate();
        let listeners = listeners::plan(&config.listen, &[], passed).map_err(|it| it.reason)?;
        Ok(Opened {
            service: Arc::new(Service::new(Arc::clone(&generation.routes))),
            generation,
            listeners,
            // It connects, which a confined process does not.
            kernel: KernelTls::probe(),
            processors: process::processors(),
        })
    }

    /// The same, confined like this.
    pub fn within(self, confinement: Arc<Confinement>) -> Self {
        Self {
            confinement: Some(confinement),
            ..self
        }
    }

    /// The same, with a service manager that is told of reloads.
    pub fn managed_by(self, manager: Manager) -> Self {
        Self { manager, ..self }
    }

    /// The same, with a control socket that follows the configuration, and is there
    /// until all transfers have ended.
    pub fn behind(self, door: Door) -> Self {
        Self {
            door: Some(door),
            ..self
        }
    }

    /// Where it listens, in the order of the configuration: HTTPS, plaintext,
    /// redirect.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.addresses()
    }

    /// What answers for the content.
    pub fn service(&self) -> Arc<Service> {
        Arc::clone(&self.service)
    }

    /// What it can be told once it runs.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Serves until `shutdown` is ready, then lets transfers finish.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Outcome {
        self.control.watch_certificate();
        let (mut running, orders) = Running::begin(self);
        tokio::select! {
            biased;
            () = shutdown => {}
            () = running.keep_up(orders) => {}
        }
        running.drain().await
    }
}
