//! From a URL path to the repository or directory that it belongs to.

use std::sync::Arc;

use crate::config::{Config, Prefix, RepoMount};
use crate::finding::Finding;
use crate::repo::Repo;
use crate::statics::Statics;

/// All that is served, by prefix.
#[derive(Debug)]
pub struct Routes {
    /// Longest prefix first.
    sites: Vec<(Prefix, Site)>,
}

/// What is served under a prefix.
#[derive(Clone, Debug)]
pub enum Site {
    /// A repository.
    Repo(Arc<Repo>),
    /// A directory of plain files.
    Statics(Arc<Statics>),
}

impl Routes {
    /// Opens everything that the configuration names, and keeps repositories up
    /// to date. Needs a runtime around it.
    ///
    /// # Errors
    /// What cannot be served, and why; never empty.
    pub fn open(config: &Config) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let mut sites = Vec::new();
        for RepoMount { mount, publishing } in &config.repos {
            match Repo::open(&mount.path.value, publishing.clone()) {
                Ok(repo) => {
                    let repo = Arc::new(repo);
                    repo.keep();
                    sites.push((mount.prefix.clone(), Site::Repo(repo)));
                }
                Err(finding) => findings.push(finding),
            }
        }
        for mount in &config.statics {
            match Statics::open(&mount.path.value) {
                Ok(statics) => sites.push((mount.prefix.clone(), Site::Statics(Arc::new(statics)))),
                Err(finding) => findings.push(finding),
            }
        }
        match findings.is_empty() {
            true => Ok(Self::new(sites)),
            false => Err(findings),
        }
    }

    /// Routes to these sites.
    pub fn new(mut sites: Vec<(Prefix, Site)>) -> Self {
        sites.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { sites }
    }

    /// The repositories and their prefixes, longest prefix first.
    pub fn repos(&self) -> impl Iterator<Item = (&Prefix, &Arc<Repo>)> {
        self.sites.iter().filter_map(|(prefix, site)| match site {
            Site::Repo(repo) => Some((prefix, repo)),
            Site::Statics(_) => None,
        })
    }

    /// The site with the longest prefix of a decoded path, and what follows the
    /// prefix.
    pub fn find<'p>(&self, path: &'p str) -> Option<(&Site, &'p str)> {
        self.sites
            .iter()
            .find_map(|(prefix, site)| Some((site, prefix.strip(path)?)))
    }
}
