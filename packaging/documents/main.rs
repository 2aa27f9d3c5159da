//! Manual pages and completions, made of the one definition of the command line
//! ([`ostree_serve::cli`]) and the one explanation of the configuration
//! (`config/serve.toml`, which tests of the program hold against what it reads); and
//! what the program is made of.
//!
//! ```text
//! cargo run --example documents -- DIRECTORY [DATE]
//! ```
//!
//! An example, so that nothing of it is in the program. The date, such as
//! 2026-11-24, stands below the pages; it is an argument because two builds of the
//! same source have to make the same pages.

mod components;
mod configuration;
mod program;
mod roff;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use clap::CommandFactory;
use clap_complete::Shell;
use ostree_serve::cli::Cli;

use components::Components;

/// The program, as clap names its pages and completions.
const NAME: &str = env!("CARGO_PKG_NAME");

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, date) = match arguments.as_slice() {
        [directory] => (directory, ""),
        [directory, date] => (directory, date.as_str()),
        _ => bail!("say where to: cargo run --example documents -- DIRECTORY [DATE]"),
    };
    let directory = Path::new(directory);
    fs::create_dir_all(directory)
        .with_context(|| format!("{} is no directory", directory.display()))?;

    let mut pages = program::pages(Cli::command(), date)?;
    pages.push(("serve.toml.5".into(), configuration::page(SHIPPED, date)));
    let components = Components::of(Path::new(env!("CARGO_MANIFEST_DIR")))?;
    pages.push((format!("{NAME}.cdx.json"), components.bill(date)));
    pages.push(("LICENSE.dependencies".into(), components.licenses()));
    for (name, page) in pages {
        let file = directory.join(name);
        fs::write(&file, page).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), NAME, directory)
            .with_context(|| format!("the completions for {shell} cannot be written"))?;
    }
    Ok(())
}

/// The shipped configuration file, which explains every key.
const SHIPPED: &str = include_str!("../../config/serve.toml");
