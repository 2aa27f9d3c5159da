//! What the program is linked from: a bill of materials (CycloneDX 1.5, JSON) and a
//! list of licences.
//!
//! Made of `cargo tree` and `Cargo.lock`. Not of `cargo metadata`, which counts what
//! tests have turned on, and lists a tenth more than there is. cargo-cyclonedx reads
//! that, and would have to be compiled wherever packages are built.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};

/// The program, and all crates that are linked into it.
pub struct Components {
    program: Crate,
    linked: BTreeMap<Crate, Facts>,
    /// What each of them needs.
    needs: BTreeMap<Crate, BTreeSet<Crate>>,
    license: String,
}

/// A name and a version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
}

struct Facts {
    /// As an SPDX expression.
    license: String,
    /// SHA-256 of what the registry has, in hexadecimal.
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

impl Components {
    /// Asks cargo about the crate in this directory.
    ///
    /// # Errors
    /// If there is no cargo, or it does not answer as expected.
    pub fn of(directory: &Path) -> anyhow::Result<Self> {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--edges=normal,no-proc-macro"])
            .args(["--prefix=depth", "--format= {p}\t{l}\t"])
            .current_dir(directory)
            .output()
            .context("cargo cannot be run")?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            bail!("cargo tree has failed: {reason}");
        }
        let lock = std::fs::read_to_string(directory.join("Cargo.lock"))?;
        Self::read(&String::from_utf8(output.stdout)?, &toml::from_str(&lock)?)
    }

    /// From lines `DEPTH NAME vVERSION (FROM)\tLICENSE\t(*)`, the program's first. What
    /// has been there before has the star, and is without its own dependencies.
    fn read(tree: &str, lock: &Lock) -> anyhow::Result<Self> {
        let checksum = |it: &Crate| {
            let locked = lock.package.iter();
            let mut locked = locked.filter(|l| l.name == it.name && l.version == it.version);
            locked.next()?.checksum.clone()
        };
        let mut linked = BTreeMap::new();
        let mut needs: BTreeMap<Crate, BTreeSet<Crate>> = BTreeMap::new();
        let mut above: Vec<Crate> = Vec::new();
        for line in tree.lines() {
            let parts = || {
                let (depth, rest) = line.split_once(' ')?;
                let (package, rest) = rest.split_once('\t')?;
                let (license, _) = rest.split_once('\t')?;
                let mut words = package.split(' ');
                let found = Crate {
                    name: words.next()?.to_owned(),
                    version: words.next()?.strip_prefix('v')?.to_owned(),
                };
                Some((depth.parse::<usize>().ok()?, found, expression(license)))
            };
            let (depth, found, license) =
                parts().with_context(|| format!("cargo tree has a line `{line}`"))?;
            above.truncate(depth);
            if let Some(parent) = above.last() {
                needs
                    .entry(parent.clone())
                    .or_default()
                    .insert(found.clone());
            }
            above.push(found.clone());
            let checksum = checksum(&found);
            linked.insert(found, Facts { license, checksum });
        }
        let program = above.into_iter().next().context("cargo tree is empty")?;
        let license = linked.remove(&program).map(|it| it.license);
        Ok(Self {
            program,
            linked,
            needs,
            license: license.unwrap_or_default(),
        })
    }

    /// The bill of materials, as of a date.
    pub fn bill(&self, date: &str) -> String {
        let mut program = self.program.component("application", &self.license);
        program["description"] = env!("CARGO_PKG_DESCRIPTION").into();
        let mut metadata = json!({ "component": program });
        if !date.is_empty() {
            metadata["timestamp"] = format!("{date}T00:00:00Z").into();
        }
        let components = self.linked.iter().map(|(it, facts)| {
            let mut component = it.component("library", &facts.license);
            if let Some(checksum) = &facts.checksum {
                component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
            }
            component
        });
        let all = std::iter::once(&self.program).chain(self.linked.keys());
        let dependencies = all.map(|it| {
            let needs = self.needs.get(it).into_iter().flatten();
            json!({ "ref": it.url(), "dependsOn": needs.map(Crate::url).collect::<Vec<_>>() })
        });
        let bill = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": metadata,
            "components": components.collect::<Vec<_>>(),
            "dependencies": dependencies.collect::<Vec<_>>(),
        });
        format!("{bill:#}\n")
    }

    /// One line for each crate: its licence, its name and its version, by licence.
    pub fn licenses(&self) -> String {
        let linked = self.linked.iter().map(|(it, facts)| (it, &facts.license));
        let mut lines: Vec<String> = std::iter::once((&self.program, &self.license))
            .chain(linked)
            .map(|(it, license)| format!("{license}: {} v{}\n", it.name, it.version))
            .collect();
        lines.sort();
        lines.concat()
    }
}

impl Crate {
    /// Its name in the world (package-url), by which parts of the bill refer to it.
    fn url(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn component(&self, kind: &str, license: &str) -> Value {
        json!({
            "type": kind,
            "bom-ref": self.url(),
            "name": self.name,
            "version": self.version,
            "purl": self.url(),
            "licenses": [{ "expression": license }],
        })
    }
}

/// A licence as SPDX has it: before there were expressions, a slash was "or".
fn expression(license: &str) -> String {
    let words = license.split(['/', ' ']).filter(|it| !it.is_empty());
    let words: Vec<&str> = words.collect();
    match license.contains('/') {
        true => words.join(" OR "),
        false => words.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_lists_what_is_linked_and_where_it_comes_from() {
        let components = Components::of(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let bill: Value = serde_json::from_str(&components.bill("2026-11-24")).unwrap();
        assert_eq!(bill["metadata"]["timestamp"], "2026-11-24T00:00:00Z");
        let listed = bill["components"].as_array().unwrap();
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for component in listed {
            let license = component["licenses"][0]["expression"].as_str().unwrap();
            let checksum = component["hashes"][0]["content"].as_str().unwrap();
            assert!(!license.is_empty() && !license.contains('/'), "{component}");
            assert_eq!(checksum.len(), 64, "{component}");
            names.insert(component["name"].as_str().unwrap());
        }
        // What is linked, directly and not; what only tests have; what only runs while
        // the program is compiled; what only tests turn on.
        for name in ["tokio", "aws-lc-sys", "libc"] {
            assert!(names.contains(name), "{name} is not in {names:?}");
        }
        for name in ["criterion", "clap_mangen", "serde_derive", "cc", "ring"] {
            assert!(!names.contains(name), "{name} is in {names:?}");
        }
        let lines = components.licenses();
        assert_eq!(lines.lines().count(), listed.len() + 1);
        assert!(
            lines.contains("MIT OR Apache-2.0: ostree-serve v"),
            "{lines}"
        );
    }

    #[test]
    fn a_tree_with_repetitions() {
        let tree = "0 a v1.0.0 (/a)\tMIT/ISC\t\n1 b v2.0.0\tISC\t\n2 c v3.0.0\tMIT\t\n\
                    1 c v3.0.0\tMIT\t (*)\n";
        let lock =
            toml::from_str("[[package]]\nname = \"c\"\nversion = \"3.0.0\"\nchecksum = \"x\"\n");
        let components = Components::read(tree, &lock.unwrap()).unwrap();
        let bill: Value = serde_json::from_str(&components.bill("")).unwrap();
        let expected = json!([
            { "ref": "pkg:cargo/a@1.0.0", "dependsOn": ["pkg:cargo/b@2.0.0", "pkg:cargo/c@3.0.0"] },
            { "ref": "pkg:cargo/b@2.0.0", "dependsOn": ["pkg:cargo/c@3.0.0"] },
            { "ref": "pkg:cargo/c@3.0.0", "dependsOn": [] },
        ]);
        assert_eq!(bill["dependencies"], expected);
        assert_eq!(bill["components"][1]["hashes"][0]["content"], "x");
        let licenses = "ISC: b v2.0.0\nMIT OR ISC: a v1.0.0\nMIT: c v3.0.0\n";
        assert_eq!(components.licenses(), licenses);
        assert!(Components::read("0 a 1.0.0\tMIT\t\n", &Lock { package: vec![] }).is_err());
    }
}
