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
use ostree_serve::systemd::Manager;
use ostree_serve::{check, demo, logging};

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
        Some(Command::Demo) => finish(demo::run()),
    }
}

fn run(source: &Source) -> Result<(), StartError> {
    logging::start();
    let file = std::path::absolute(&source.config).unwrap_or_else(|_| source.config.clone());
    let way = Way::Config(file);
    // SAFETY: logging starts no thread, so there is only this one; and nothing
    // here uses a descriptor that it did not open.
    let (manager, inherited) = unsafe { Manager::inherit(&way) };
    daemon::block_on(async {
        // First of all: until then a SIGHUP ends the process.
        let hangups = daemon::hangups()?;
        let config = Config::load(&source.config)?;
        let daemon = Daemon::start(&config)?;
        let brakes = Arc::new(Brakes::restored(daemon.service(), manager, way, inherited));
        let door = Door::open(&config.listen.control, Arc::clone(&brakes))?;
        let daemon = daemon.managed_by(manager).behind(door);
        let shutdown = daemon::termination(|| {})?;
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
    let reply = match control::client::ask(way, request, warn) {
        Ok(reply) => reply,
        Err(error) => return finish(Err(error.into())),
    };
    let now = SystemTime::now();
    let text = Text {
        reply: &reply,
        now,
        way,
    };
    match &reply {
        Reply::Refused(_) => {
            say(&mut stderr(), format_args!("ostree-serve: {text}"));
            code(EXIT_RUNTIME)
        }
        Reply::Status(report) if json => match serde_json::to_string_pretty(report) {
            Ok(report) => {
                say(&mut stdout(), report);
                ExitCode::SUCCESS
            }
            Err(error) => finish(Err(StartError::Runtime(error.into()))),
        },
        Reply::Held(_) | Reply::Released(_) | Reply::Status(_) => {
            // The text ends its own lines.
            _ = write!(stdout(), "{text}");
            ExitCode::SUCCESS
        }
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
