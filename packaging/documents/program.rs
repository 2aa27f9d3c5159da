//! The pages of the program and its subcommands: what clap knows of them, and on the
//! first one what the command line does not say.

use clap::Command;
use clap_mangen::Man;
use ostree_serve::config::{DEFAULT_CONTROL, DEFAULT_FILE};
use ostree_serve::daemon::{EXIT_CONFIG, EXIT_RUNTIME, EXIT_USAGE};
use ostree_serve::logging::FILTER_VARIABLE;

use crate::roff;

/// Where pages about programs for administrators are.
const SECTION: &str = "8";

/// The name of each page's file, and the page: the program's first.
///
/// # Errors
/// None that is known: memory is written.
pub fn pages(command: Command, date: &str) -> anyhow::Result<Vec<(String, String)>> {
    // `help` says what these pages say.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = vec![page(&command, date, true)?];
    for command in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        pages.push(page(command, date, false)?);
    }
    Ok(pages)
}

fn page(command: &Command, date: &str, is_program: bool) -> anyhow::Result<(String, String)> {
    let man = Man::new(command.clone())
        .section(SECTION)
        .date(date)
        .source(roff::source());
    let mut known = Vec::new();
    man.render_name_section(&mut known)?;
    man.render_synopsis_section(&mut known)?;
    man.render_description_section(&mut known)?;
    man.render_options_section(&mut known)?;
    if is_program {
        man.render_subcommands_section(&mut known)?;
    }
    let name = man.get_filename();
    let stem = name.trim_end_matches(".8");
    let mut page = roff::title(stem, SECTION, date);
    page.push_str(&roff::emphasised(&String::from_utf8(known)?));
    if is_program {
        signals(&mut page);
        exit_status(&mut page);
        environment(&mut page);
        files(&mut page);
    }
    see_also(&mut page, is_program);
    Ok((name.clone(), page))
}

fn signals(page: &mut String) {
    let rows = [
        (
            "SIGTERM, SIGINT",
            "No new connections; transfers finish, at most for `limits.drain`. A second one ends \
             the server at once.",
        ),
        (
            "SIGHUP",
            "The configuration is read again. All of it is opened first; if anything is wrong, \
             nothing changes, and the log says what it is.",
        ),
    ];
    table(
        page,
        "SIGNALS",
        &rows.map(|(name, about)| (name.to_owned(), about.to_owned())),
    );
}

fn exit_status(page: &mut String) {
    let rows = [
        (
            0,
            "Clean; also if transfers were cut off at the end of `limits.drain`.",
        ),
        (
            EXIT_RUNTIME,
            "Failure while running; or the running server cannot be reached, or refuses.",
        ),
        (EXIT_USAGE, "Wrong command line."),
        (EXIT_CONFIG, "Wrong configuration, or a file that it names."),
    ];
    table(
        page,
        "EXIT STATUS",
        &rows.map(|(code, about)| (code.to_string(), about.to_owned())),
    );
}

fn environment(page: &mut String) {
    let rows = [
        (
            FILTER_VARIABLE,
            "What is logged on standard error: `error`, `warn`, `info` (unless set), `debug`, \
             `trace`, or directives such as `info,ostree_serve::connection=trace`.",
        ),
        (
            "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS, LISTEN_FDNAMES, FDSTORE, JOURNAL_STREAM",
            "Set by `systemd`(1), for what it is told of the server, and for what it keeps \
             for the next one; see `sd_notify`(3) and `sd_listen_fds`(3).",
        ),
    ];
    table(
        page,
        "ENVIRONMENT",
        &rows.map(|(name, about)| (name.to_owned(), about.to_owned())),
    );
}

fn files(page: &mut String) {
    let rows = [
        (
            DEFAULT_FILE,
            "The configuration, explained in `serve.toml`(5).",
        ),
        (
            DEFAULT_CONTROL,
            "The socket for `hold`, `release` and `status`, unless the configuration names \
             another one.",
        ),
        (
            "/usr/lib/systemd/system/ostree-serve.service",
            "The service; what is to be different goes into a drop-in file: \
             `systemctl edit ostree-serve`.",
        ),
        (
            "/usr/lib/systemd/system/ostree-serve.socket",
            "The ports, which stay open while the service restarts.",
        ),
    ];
    table(
        page,
        "FILES",
        &rows.map(|(name, about)| (name.to_owned(), about.to_owned())),
    );
}

/// A section of names, as they are in the program, and what they mean.
fn table(page: &mut String, heading: &str, rows: &[(String, String)]) {
    roff::section(page, heading);
    for (name, about) in rows {
        roff::entry(page, &[format!("`{name}`")], std::slice::from_ref(about));
    }
}

fn see_also(page: &mut String, is_program: bool) {
    roff::section(page, "SEE ALSO");
    let first = match is_program {
        true => "",
        false => "`ostree-serve`(8), ",
    };
    page.push_str(&roff::text(&format!(
        "{first}`serve.toml`(5), `ostree_serve_selinux`(8), `ostree`(1), `rpm-ostree`(1), `flatpak`(1)"
    )));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use ostree_serve::cli::Cli;

    use super::*;

    /// Whatever else the command line may come to have.
    #[test]
    fn each_subcommand_has_a_page_with_all_of_its_options() {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let pages = pages(Cli::command(), "2026-11-24").unwrap();
        assert_eq!(pages.len(), 1 + command.get_subcommands().count());
        let (name, first) = &pages[0];
        assert_eq!(name, "ostree-serve.8");
        for (subcommand, (name, page)) in command.get_subcommands().zip(&pages[1..]) {
            assert_eq!(*name, format!("ostree-serve-{}.8", subcommand.get_name()));
            let mentioned = format!(
                "ostree\\-serve\\-{}(8)",
                subcommand.get_name().replace('-', "\\-")
            );
            assert!(first.contains(&mentioned), "{mentioned} is not in {first}");
            for option in subcommand.get_arguments().filter_map(|it| it.get_long()) {
                let option = format!("\\-\\-{}", option.replace('-', "\\-"));
                assert!(page.contains(&option), "{option} is not in {page}");
            }
        }
    }

    #[test]
    fn the_first_page_has_what_the_command_line_does_not_say() {
        let pages = pages(Cli::command(), "2026-11-24").unwrap();
        let first = &pages[0].1;
        for part in [
            ".TH OSTREE-SERVE 8 \"2026-11-24\"",
            ".SH \"EXIT STATUS\"",
            "\\fB78\\fP",
            "OSTREE_SERVE_LOG",
            "/etc/ostree\\-serve/serve.toml",
        ] {
            assert!(first.contains(part), "{part} is not in {first}");
        }
        assert!(!first.contains('`'), "{first}");
    }
}
