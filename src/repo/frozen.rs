//! A generation as bytes, so that an operator's hold can outlive the process.
//!
//! It is a tar archive: `hold.json`, and the documents under the names that they
//! have in the repository. Whoever looks for what a held repository serves can
//! unpack it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::generation::{Document, Generation, Named, RootDocuments, Unreadable, ref_file};
use super::status::Hold;
use crate::files::{Content, Directory};
use crate::resource::path::{file_path, parse};
use crate::resource::{Checksum, Resource};

/// What is not a document.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    hold: Hold,
    /// Seconds since 1970.
    published: u64,
}

const VERSION: u32 = 1;
const HEADER: &str = "hold.json";

/// Writes a hold and its generation.
///
/// # Errors
/// If a document in a file cannot be read.
pub fn write(hold: &Hold, generation: &Generation) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut append = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o444);
        archive.append_data(&mut header, name, bytes)
    };
    let since = generation.published.duration_since(UNIX_EPOCH);
    let header = Header {
        version: VERSION,
        hold: hold.clone(),
        published: since.map_or(0, |since| since.as_secs()),
    };
    append(HEADER, &serde_json::to_vec(&header)?)?;
    append("config", &generation.config.bytes)?;
    for (name, document) in generation.documents.iter() {
        append(name.name(), &document.bytes)?;
    }
    for (name, commit) in &generation.refs {
        append(&format!("refs/{name}"), &ref_file(commit))?;
    }
    for (name, document) in &generation.named {
        append(&file_path(name), &read(&document.content)?)?;
    }
    archive.into_inner()
}

fn read(content: &Content) -> io::Result<Bytes> {
    match content {
        Content::Memory(bytes) => Ok(bytes.clone()),
        Content::File(file) => file
            .read_blocking(0, file.len() as usize)
            .map_err(io::Error::other),
    }
}

/// Reads what [`write()`] wrote. Objects are those of `directory`.
///
/// # Errors
/// What is wrong with the bytes.
pub fn parse_frozen(bytes: &[u8], directory: Arc<Directory>) -> Result<(Hold, Generation), String> {
    let mut header = None;
    let mut config = None;
    let mut documents = RootDocuments::default();
    let mut refs = BTreeMap::new();
    let mut named = HashMap::new();
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().map_err(text)? {
        let mut entry = entry.map_err(text)?;
        let name = String::from_utf8(entry.path_bytes().into_owned()).map_err(text)?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(text)?;
        if name == HEADER {
            header = Some(serde_json::from_slice::<Header>(&bytes).map_err(text)?);
            continue;
        }
        let resource = parse(&name).ok_or_else(|| format!("`{name}` is no document"))?;
        let bytes = Bytes::from(bytes);
        match resource {
            Resource::Config => config = Some(Document::new(bytes)),
            Resource::Root(document) => documents.set(document, Some(Document::new(bytes))),
            Resource::Ref(name) => {
                let commit = Checksum::from_hex(bytes.trim_ascii_end());
                let commit = commit.ok_or_else(|| format!("refs/{} is broken", name.as_str()))?;
                refs.insert(name.as_str().into(), commit);
            }
            other => {
                let name = other.in_summaries();
                let name = name.ok_or_else(|| format!("`{name:?}` is no document"))?;
                let digest = Some(Checksum::of(&bytes));
                let content = Content::Memory(bytes);
                named.insert(name, Arc::new(Named { content, digest }));
            }
        }
    }
    let header = header.ok_or("it has no `hold.json`")?;
    if header.version != VERSION {
        return Err(format!(
            "it is of version {}, not {VERSION}",
            header.version
        ));
    }
    let generation = Generation {
        number: 0,
        published: UNIX_EPOCH + Duration::from_secs(header.published),
        directory,
        config: config.ok_or("it has no `config`")?,
        listed: documents.listed(),
        documents,
        refs,
        named,
        unreadable: Unreadable::default(),
        commits: HashSet::new(),
    };
    Ok((header.hold, generation))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests;
