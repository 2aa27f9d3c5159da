//! The table, as Markdown.

use std::fmt::{self, Display, Write};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use crate::limits::Limit;
use crate::measure::Series;
use crate::servers::{self, Peer};
use crate::workloads::{Line, Target, Workload};
use crate::{nginx, others};

/// What stands above the table: where, when and with what.
pub struct Head(Vec<(&'static str, String)>);

impl Head {
    pub fn new(ours: &Path, rounds: usize, quick: bool) -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let information = read("/proc/cpuinfo");
        let model = information
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let model = model.map_or("unknown processor", |it| it.1);
        let cores = information
            .lines()
            .filter(|it| it.starts_with("processor"))
            .count();
        let kernel = read("/proc/sys/kernel/osrelease");
        let tls = if servers::kernel_has_tls() {
            "yes"
        } else {
            "no"
        };
        let load = read("/proc/loadavg");
        let load = load.split(' ').nth(1).unwrap_or_default();
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let commit = said(
            "git",
            &[
                "-C",
                env!("CARGO_MANIFEST_DIR"),
                "describe",
                "--always",
                "--dirty",
                "--exclude=*",
            ],
        );
        let program = match ours.display().to_string() {
            path if path == env!("CARGO_BIN_EXE_ostree-serve") => format!("commit {commit}"),
            path => format!("{path} (benchmark of commit {commit})"),
        };
        let openssl = said("openssl", &["version"]);
        Self(vec![
            ("Date", now.to_string()),
            (
                "Machine",
                format!(
                    "{model}, {cores} cores, Linux {}, kernel TLS: {tls}",
                    kernel.trim()
                ),
            ),
            (
                "Other work",
                format!("load {load} at the end; of it this benchmark makes up to 2"),
            ),
            ("ostree-serve", program),
            ("nginx", format!("{}, with {openssl}", nginx::version())),
            ("Other servers", others::versions()),
            (
                "Clients",
                format!(
                    "ostree {}, {}",
                    ostree_version(),
                    said("rustc", &["--version"])
                ),
            ),
            (
                "Rounds",
                format!(
                    "{rounds}{}; medians, in parentheses half the distance from the least to the greatest value",
                    if quick {
                        ", a fifth of the requests"
                    } else {
                        ""
                    }
                ),
            ),
        ])
    }
}

fn ostree_version() -> String {
    let text = said("ostree", &["--version"]);
    let line = text
        .lines()
        .find_map(|it| it.trim().strip_prefix("Version: "));
    line.unwrap_or_default().trim_matches('\'').to_owned()
}

/// What a program prints.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| format!("no {program}"),
        |it| String::from_utf8_lossy(&it.stdout).trim().to_owned(),
    )
}

/// The whole report. `results` are by row, server and line.
pub fn text(
    head: &Head,
    peers: &[Peer],
    rows: &[Workload],
    results: &[Vec<Vec<Series>>],
    limits: &[Limit],
) -> String {
    let mut out = Text(String::from(
        "# What the same work costs this server and others\n\n",
    ));
    out.line("Made by `cargo bench --bench compare`. Where it does not say otherwise, the servers' CPU time is meant; less is better.\n");
    for (name, value) in &head.0 {
        out.line(format_args!("- {name}: {value}"));
    }
    out.line("\n| | ostree-serve | nginx | ratio | target | met |\n|---|---|---|---|---|---|");
    for (row, of) in rows.iter().zip(results) {
        for (number, line) in row.lines.iter().enumerate() {
            let (ours, nginx) = (&of[0][number], &of[1][number]);
            let ratio = ours.median() / nginx.median();
            let (target, met) = judged(line, ours.median(), ratio);
            let title = format!("{}, {}", row.name, line.what);
            out.line(format_args!(
                "| {title} | {} | {} | {ratio:.2} | {target} | {met} |",
                cell(ours),
                cell(nginx)
            ));
        }
    }
    if peers.len() > 2 {
        beside(&mut out, peers, rows, results);
    }
    out.line("\nThe limits of this machine, on one core:\n");
    for limit in limits {
        out.line(format_args!("- {}: {}", limit.name, limit.value));
    }
    out.0
}

fn beside(out: &mut Text, peers: &[Peer], rows: &[Workload], results: &[Vec<Vec<Series>>]) {
    let names: Vec<_> = peers[2..].iter().map(|it| it.name()).collect();
    out.line(format_args!(
        "\nOthers, each with its ratio to nginx:\n\n| | {} |",
        names.join(" | ")
    ));
    out.line(format_args!("|---|{}", "---|".repeat(names.len())));
    for (row, of) in rows.iter().zip(results) {
        for (number, line) in row.lines.iter().enumerate() {
            let nginx = of[1][number].median();
            let cells: Vec<_> = of[2..]
                .iter()
                .map(|of| format!("{}, {:.2}", cell(&of[number]), of[number].median() / nginx))
                .collect();
            out.line(format_args!(
                "| {}, {} | {} |",
                row.name,
                line.what,
                cells.join(" | ")
            ));
        }
    }
}

fn judged(line: &Line, ours: f64, ratio: f64) -> (String, &'static str) {
    // As it is shown: a third digit says nothing.
    let round = |it: f64| (it * 100.0).round();
    let met = |is: f64, limit: f64| match round(is) <= round(limit) {
        true => "yes",
        false => "**no**",
    };
    match line.target {
        Target::Ratio(limit) => (format!("≤ {limit:.2}"), met(ratio, limit)),
        Target::Value(limit) => (format!("ours ≤ {limit:.2}"), met(ours, limit)),
        Target::None => ("–".to_owned(), "–"),
    }
}

fn cell(series: &Series) -> String {
    let median = series.median();
    let digits = match median.abs() {
        it if it >= 100.0 => 0,
        it if it >= 10.0 => 1,
        _ => 2,
    };
    format!("{median:.digits$} (±{:.0} %)", series.spread() * 50.0)
}

struct Text(String);

impl Text {
    fn line(&mut self, text: impl Display) {
        let result: fmt::Result = writeln!(self.0, "{text}");
        result.expect("memory can be written to");
    }
}
