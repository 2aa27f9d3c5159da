//! From a URL path to the repository or directory that it belongs to.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Mount, Prefix, RepoMount};
use crate::files::Directory;
use crate::finding::{Finding, shell_word};
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

impl Site {
    /// Whether it is the other one, and not only like it.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Repo(it), Self::Repo(other)) => Arc::ptr_eq(it, other),
            (Self::Statics(it), Self::Statics(other)) => Arc::ptr_eq(it, other),
            (Self::Repo(_), Self::Statics(_)) | (Self::Statics(_), Self::Repo(_)) => false,
        }
    }
}

impl Routes {
    /// Opens everything that the configuration names. What these `running`
    /// routes lead to in the same way is taken over as it is, with all that it
    /// knows, unless another directory has taken its name. Needs a runtime around
    /// it.
    ///
    /// # Errors
    /// What cannot be served, and why; never empty.
    pub fn open(config: &Config, running: Option<&Self>) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let mut sites = Vec::new();
        let repos = config
            .repos
            .iter()
            .map(|it| (&it.mount, open_repo(it, running)));
        let statics = config
            .statics
            .iter()
            .map(|it| (it, open_statics(it, running)));
        for (mount, site) in repos.chain(statics) {
            match site {
                Ok(site) => sites.push((mount.prefix.clone(), site)),
                Err(finding) => findings.push(finding.named_at(&mount.path.place)),
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

    /// All sites, longest prefix first.
    pub fn sites(&self) -> impl Iterator<Item = (&Prefix, &Site)> {
        self.sites.iter().map(|(prefix, site)| (prefix, site))
    }

    /// The site at exactly this prefix.
    pub fn at(&self, prefix: &Prefix) -> Option<&Site> {
        self.sites()
            .find(|(it, _)| *it == prefix)
            .map(|(_, site)| site)
    }

    /// The site with the longest prefix of a decoded path, and what follows the
    /// prefix.
    pub fn find<'p>(&self, path: &'p str) -> Option<(&Site, &'p str)> {
        self.sites
            .iter()
            .find_map(|(prefix, site)| Some((site, prefix.strip(path)?)))
    }
}

fn open_repo(mount: &RepoMount, running: Option<&Routes>) -> Result<Site, Finding> {
    let RepoMount { mount, publishing } = mount;
    if let Some(Site::Repo(repo)) = running.and_then(|it| it.at(&mount.prefix)) {
        if repo.publishing().means_same(publishing) && is_still(&repo.directory(), mount) {
            return Ok(Site::Repo(Arc::clone(repo)));
        }
        // What is opened anew publishes what it finds.
        if repo.status().held.is_some() {
            let prefix = &mount.prefix;
            let reason = format!(
                "the repository at {prefix} is held, and to open it in another way would end that"
            );
            let release = shell_word(Path::new(&prefix.to_string()));
            let finding = Finding::error(&*mount.path.value, reason);
            return Err(finding.remedy(format!(
                "leave its `[[repo]]` as it was, or release it first: ostree-serve release {release}"
            )));
        }
    }
    let repo = Arc::new(Repo::open(&mount.path.value, publishing.clone())?);
    repo.keep();
    Ok(Site::Repo(repo))
}

fn open_statics(mount: &Mount, running: Option<&Routes>) -> Result<Site, Finding> {
    if let Some(Site::Statics(statics)) = running.and_then(|it| it.at(&mount.prefix))
        && is_still(statics.directory(), mount)
    {
        return Ok(Site::Statics(Arc::clone(statics)));
    }
    let statics = Statics::open(&mount.path.value)?;
    Ok(Site::Statics(Arc::new(statics)))
}

fn is_still(directory: &Directory, mount: &Mount) -> bool {
    directory.path() == mount.path.value && directory.is_in_place()
}
