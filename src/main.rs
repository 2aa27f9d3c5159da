//! The program: does what the command line asks for, and says what came of it as an
//! exit code.

use std::fmt::Display;
use std::io::{Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Parser;
use ostree_serve::cli::{Cli, Command, Source};
use ostree_serve::config::Config;
use ostree_serve::control::brakes::Brakes;
use ostree_serve::control::server::Door;
use ostree_serve::control::text::Text;
use ostree_serve::control::{self, Reply, Request, Way};
use ostree_serve::daemon::{self, Daemon, EXIT_CONFIG, EXIT_RUNTIME, EXIT_USAGE, StartError};
use ostree_serve::finding::{Finding, Severity};
use ostree_serve::listener::passed::Passed;
use ostree_serve::sandbox::gate::Gate;
use ostree_serve::sandbox::{privileges, probe};
use ostree_serve::systemd::Manager;
use ostree_serve::{check, demo, logging, sandbox};
use serde::Serialize;

/// Exit code: all is as it should be.
const EXIT_OK: i32 = 0;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            _ = error.print();
            return code(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    match cli.command {
        None => finish(run(&cli.source)),
        Some(Command::Check(source)) => report(&check::check(&source.config), &source),
        Some(Command::Hold {
            prefix,
            reason,
            server,
        }) => ask(&server.into(), &Request::Hold { prefix, reason }, false),
        Some(Command::Release { prefix, server }) => {
            ask(&server.into(), &Request::Release { prefix }, false)
        }
        Some(Command::Status {
            prefix,
            json,
            server,
        }) => ask(&server.into(), &Request::Status { prefix }, json),
        Some(Command::SandboxCheck {
            json,
            alone: true,
            server,
        }) => match try_alone(&server.source) {
            Ok(report) => show(&Reply::Sandbox(report), &server.into(), json),
            Err(error) => finish(Err(error)),
        },
        Some(Command::SandboxCheck { json, server, .. }) => {
            ask(&server.into(), &Request::Sandbox {}, json)
        }
        Some(Command::Demo) => finish(demo::run()),
    }
}

fn run(source: &Source) -> Result<(), StartError> {
    logging::start();
    // Before keys are in memory, and whatever `sandbox.mode` says.
    privileges::forbid_dumps()?;
    let file = std::path::absolute(&source.config).unwrap_or_else(|_| source.config.clone());
    let way = Way::Config(file);
    // SAFETY: logging starts no thread, so there is only this one; and nothing
    // here uses a descriptor that it did not open.
    let (manager, inherited) = unsafe { Manager::inherit(&way) };
    daemon::block_on_behind_gate(async |gate| {
        // First of all: until then a SIGHUP ends the process.
        let hangups = daemon::hangups()?;
        let config = Config::load(&source.config)?;
        let (passed, inherited) = Passed::among(inherited);
        let opened = Daemon::open(&config, &passed)?;
        // From here on there may be clients, whom a signal must not cut off.
        let shutdown = daemon::termination(|| {})?;
        let brakes = Arc::new(Brakes::restored(opened.service(), manager, way, inherited));
        let door = Door::open(&config.listen.control, Arc::clone(&brakes))?;
        // Everything is open. What is not needed for serving goes now, for good.
        let confinement = Arc::new(sandbox::confine(&config, &gate)?);
        brakes.board().confine(Arc::clone(&confinement));
        let daemon = opened.begin()?.managed_by(manager).behind(door);
        confinement.announce();
        let daemon = daemon.within(confinement);
        daemon.control().reload_at(hangups);
        manager.ready();
        brakes.announce();
        let told = async {
            shutdown.await;
            manager.stopping();
        };
        daemon.run(told).await;
        Ok(())
    })
}

/// Asks the running server.
fn ask(way: &Way, request: &Request, json: bool) -> ExitCode {
    let warn = |finding: &Finding| say(&mut stderr(), finding);
    match control::client::ask(way, request, warn) {
        Ok(reply) => show(&reply, way, json),
        Err(error) => finish(Err(error.into())),
    }
}

/// What the server would say of itself, said by this process. It has only this
/// thread, and there is no way back.
fn try_alone(source: &Source) -> Result<probe::Report, StartError> {
    logging::start();
    let config = Config::load(&source.config)?;
    let confinement = sandbox::confine(&config, &Gate::before(0))?;
    Ok(confinement.probe())
}

/// What was answered, and the exit code for it.
fn show(reply: &Reply, way: &Way, json: bool) -> ExitCode {
    let now = SystemTime::now();
    let text = Text { reply, now, way };
    match reply {
        Reply::Refused(_) => {
            say(&mut stderr(), format_args!("ostree-serve: {text}"));
            code(EXIT_RUNTIME)
        }
        Reply::Status(report) if json => print(report, EXIT_OK),
        Reply::Sandbox(report) => {
            let result = match report.possible().next() {
                None => EXIT_OK,
                Some(_) => EXIT_RUNTIME,
            };
            if json {
                return print(report, result);
            }
            _ = write!(stdout(), "{text}");
            code(result)
        }
        Reply::Held(_) | Reply::Released(_) | Reply::Status(_) => {
            // The text ends its own lines.
            _ = write!(stdout(), "{text}");
            ExitCode::SUCCESS
        }
    }
}

/// As JSON; the exit code is this one then.
fn print(report: &impl Serialize, result: i32) -> ExitCode {
    match serde_json::to_string_pretty(report) {
        Ok(report) => {
            say(&mut stdout(), report);
            code(result)
        }
        Err(error) => finish(Err(StartError::Runtime(error.into()))),
    }
}

fn finish(result: Result<(), StartError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Configuration(findings)) => {
            findings
                .iter()
                .for_each(|finding| say(&mut stderr(), finding));
            code(EXIT_CONFIG)
        }
        Err(StartError::Runtime(error)) => {
            say(&mut stderr(), format_args!("ostree-serve: {error:#}"));
            code(EXIT_RUNTIME)
        }
    }
}

fn report(findings: &[Finding], source: &Source) -> ExitCode {
    let count = |severity| findings.iter().filter(|it| it.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let mut out = stdout().lock();
    findings.iter().for_each(|finding| say(&mut out, finding));
    let file = source.config.display();
    say(
        &mut out,
        format_args!("{file}: {errors} errors, {warnings} warnings"),
    );
    code(if errors == 0 { 0 } else { EXIT_CONFIG })
}

/// A line. Whoever reads it may have gone, as in `ostree-serve check | head`;
/// the exit code then still says what is to be said.
fn say(out: &mut impl Write, line: impl Display) {
    _ = writeln!(out, "{line}");
}

fn code(code: i32) -> ExitCode {
    // All of them are below 256.
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
