//! From a URL path to the repository or directory that it belongs to.

use std::path::Path;
use std::sync::Arc;

use crate::config::{CacheSize, Config, Mount, Prefix, RepoMount};
use crate::files::Directory;
use crate::finding::{Finding, shell_word};
use crate::repo::Repo;
use crate::repo::room::Room;
use crate::repo::settings::Settings;
use crate::statics::Statics;

/// All that is served, by prefix.
#[derive(Debug)]
pub struct Routes {
    /// Longest prefix first.
    sites: Vec<(Prefix, Site)>,
    /// Settings that are not in force yet, each for a repository and its prefix.
    pending: Vec<(Prefix, Arc<Repo>, Settings)>,
    /// Memory for the contents of each repository's objects.
    memory: CacheSize,
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
    /// Opens everything that the configuration names. Repositories that these
    /// `running` routes lead to are taken over as they are, with all that they
    /// know; [`Routes::put_in_force`] then changes their settings.
    ///
    /// # Errors
    /// What cannot be served, and why; never empty.
    pub fn open(config: &Config, running: Option<&Self>) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let mut sites = Vec::new();
        let mut pending = Vec::new();
        for wanted in &config.repos {
            let prefix = &wanted.mount.prefix;
            match open_repo(wanted, running) {
                Ok(OpenedRepo { repo, settings }) => {
                    let settings = settings.map(|it| (prefix.clone(), Arc::clone(&repo), it));
                    pending.extend(settings);
                    sites.push((prefix.clone(), Site::Repo(repo)));
                }
                Err(finding) => findings.push(finding.named_at(&wanted.mount.path.place)),
            }
        }
        for mount in &config.statics {
            match open_statics(mount, running) {
                Ok(site) => sites.push((mount.prefix.clone(), site)),
                Err(finding) => findings.push(finding.named_at(&mount.path.place)),
            }
        }
        let routes = Self {
            pending,
            memory: config.transfer.cache,
            ..Self::new(sites)
        };
        findings.extend(running.into_iter().flat_map(|it| it.holds_lost_by(&routes)));
        match findings.is_empty() {
            true => Ok(routes),
            false => Err(findings),
        }
    }

    /// Puts in force what repositories do not have yet: other settings, and
    /// somebody who keeps them up to date. Needs a runtime around it.
    pub fn put_in_force(&self) {
        let room = Room::share(self.repos().count(), self.memory);
        self.repos().for_each(|(_, repo)| repo.make_room(room));
        for (_, repo, settings) in &self.pending {
            repo.set(settings.clone());
        }
        self.repos().for_each(|(_, repo)| repo.keep());
    }

    /// Whether the settings of the repository at this prefix become others when
    /// these routes are put in force.
    pub fn changes(&self, prefix: &Prefix) -> bool {
        self.pending.iter().any(|(it, ..)| it == prefix)
    }

    /// The repository that serves this directory: at the same prefix, if there
    /// is a choice.
    fn serving(&self, mount: &Mount) -> Option<Arc<Repo>> {
        let at_prefix = self.repos().filter(|(prefix, _)| **prefix == mount.prefix);
        let mut candidates = at_prefix.chain(self.repos());
        let is_there = |repo: &Repo| repo.directory().path() == mount.path.value;
        let (_, repo) = candidates.find(|(_, repo)| is_there(repo))?;
        Some(Arc::clone(repo))
    }

    /// A finding for each hold of these routes that others would end.
    fn holds_lost_by<'r>(&'r self, others: &'r Self) -> impl Iterator<Item = Finding> + 'r {
        let is_lost = |(prefix, repo): &(&Prefix, &Arc<Repo>)| {
            let other = others.at(prefix);
            let stays = matches!(other, Some(Site::Repo(other)) if Arc::ptr_eq(other, repo));
            !stays && repo.status().held.is_some()
        };
        self.repos()
            .filter(is_lost)
            .map(|(prefix, _)| held(prefix, "be removed, or become another directory"))
    }

    /// Routes to these sites.
    pub fn new(mut sites: Vec<(Prefix, Site)>) -> Self {
        sites.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self {
            sites,
            pending: Vec::new(),
            memory: CacheSize::Automatic,
        }
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

/// What a `[[repo]]` leads to.
struct OpenedRepo {
    repo: Arc<Repo>,
    /// Settings that it does not have yet.
    settings: Option<Settings>,
}

/// A repository that is being served at the same directory stays what it is, with
/// its generation, its hold, and all that clients in mid-pull rely on; opened
/// anew, it would publish whatever lies there.
fn open_repo(mount: &RepoMount, running: Option<&Routes>) -> Result<OpenedRepo, Finding> {
    let RepoMount { mount, publishing } = mount;
    let Some(repo) = running.and_then(|it| it.serving(mount)) else {
        let repo = Arc::new(Repo::open(&mount.path.value, publishing.clone())?);
        let settings = None;
        return Ok(OpenedRepo { repo, settings });
    };
    let settings = Settings::load(publishing.clone())?;
    if !publishing.coherent && repo.status().held.is_some() {
        return Err(held(&mount.prefix, "be served with `coherent = false`"));
    }
    let changed = !settings.mean_same(&repo.settings());
    let settings = changed.then_some(settings);
    Ok(OpenedRepo { repo, settings })
}

/// Something that a repository cannot be as long as it is held.
fn held(prefix: &Prefix, what: &str) -> Finding {
    let name = prefix.to_string();
    let release = shell_word(Path::new(&name));
    let reason = format!("the repository at {prefix} is held, and cannot {what}");
    Finding::error(Path::new(&name), reason).remedy(format!(
        "leave its `[[repo]]` as it was, or release it first: ostree-serve release {release}"
    ))
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
