//! The page of the configuration file, made of the comments in the shipped one.
//!
//! There a comment stands in front of what it explains: a table, one or several
//! lines `key = value`, or, with an empty line after it, whatever follows. A key with
//! a `#` in front shows its default.

use crate::roff;

/// The page, from the text of the shipped file.
pub fn page(shipped: &str, date: &str) -> String {
    let mut page = roff::title("serve.toml", "5", date);
    roff::section(&mut page, "NAME");
    page.push_str("serve.toml \\- the configuration of ostree\\-serve(8)\n");
    roff::section(&mut page, "SYNOPSIS");
    page.push_str(&roff::text(&format!(
        "`{}`",
        ostree_serve::config::DEFAULT_FILE
    )));

    let (head, tables) = read(shipped);
    roff::section(&mut page, "DESCRIPTION");
    page.push_str(&roff::text(
        "What `ostree-serve`(8) serves, where, and within which limits, in TOML 1.0. \
         Unknown keys are errors. Below, each key is shown with the value that counts \
         without it, or, if there is none, with an example.",
    ));
    // The first paragraph is about the file that this page is made of.
    let (example, about) = head.split_at(head.len().min(1));
    prose(&mut page, about);

    roff::section(&mut page, "TABLES");
    for table in &tables {
        roff::part(&mut page, &table.name);
        prose(&mut page, &table.about);
        for item in &table.items {
            match item {
                Item::Prose(paragraphs) => prose(&mut page, paragraphs),
                Item::Keys { keys, about } => {
                    let terms: Vec<String> = keys.iter().map(Key::term).collect();
                    let about: Vec<String> = about.iter().map(|it| it.join(" ")).collect();
                    roff::entry(&mut page, &terms, &about);
                }
            }
        }
    }

    roff::section(&mut page, "EXAMPLES");
    prose(&mut page, example);
    roff::literal(&mut page, &without_comments(shipped));
    roff::section(&mut page, "SEE ALSO");
    page.push_str(&roff::text("`ostree-serve`(8), `ostree-serve-check`(8)"));
    page
}

/// A paragraph: its lines as they stand.
type Paragraph = Vec<String>;

struct Table {
    /// With its brackets.
    name: String,
    about: Vec<Paragraph>,
    items: Vec<Item>,
}

enum Item {
    Prose(Vec<Paragraph>),
    Keys {
        keys: Vec<Key>,
        about: Vec<Paragraph>,
    },
}

struct Key {
    name: String,
    value: String,
    is_default: bool,
}

impl Key {
    fn term(&self) -> String {
        let Self { name, value, .. } = self;
        match (value.as_str(), self.is_default) {
            ("", _) => format!("`{name}` (not set)"),
            (value, true) => format!("`{name} = {value}`"),
            (value, false) => format!("`{name} = {value}` (an example)"),
        }
    }

    /// A line `key = value`.
    fn read(line: &str, is_default: bool) -> Option<Self> {
        let (name, value) = line.split_once(" =")?;
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        (!name.is_empty() && name.bytes().all(is_name)).then(|| Self {
            name: name.to_owned(),
            value: value.trim().to_owned(),
            is_default,
        })
    }
}

/// What stands before the first table, and the tables. A second table of the same
/// name is an example: it says nothing new.
fn read(shipped: &str) -> (Vec<Paragraph>, Vec<Table>) {
    let mut head = Vec::new();
    let mut tables: Vec<Table> = Vec::new();
    let mut comment: Vec<String> = Vec::new();
    let mut is_example = false;
    // Whether the line before was a key, to which one without a comment belongs.
    let mut after_key = false;
    for line in shipped.lines().chain([""]) {
        let commented = line
            .strip_prefix('#')
            .map(|it| it.strip_prefix(' ').unwrap_or(it));
        let key = match commented {
            Some(rest) => Key::read(rest, true),
            None => Key::read(line, false),
        };
        if let Some(key) = key {
            let Some(table) = tables.last_mut().filter(|_| !is_example) else {
                continue;
            };
            let (before, about) = last_paragraph(paragraphs(&mut comment));
            if !before.is_empty() {
                table.items.push(Item::Prose(before));
            }
            match table.items.last_mut() {
                Some(Item::Keys { keys, .. }) if after_key && about.is_empty() => keys.push(key),
                _ => table.items.push(Item::Keys {
                    keys: vec![key],
                    about,
                }),
            }
            after_key = true;
            continue;
        }
        after_key = false;
        if let Some(words) = commented {
            comment.push(words.to_owned());
        } else if line.starts_with('[') {
            is_example = tables.iter().any(|it| it.name == line);
            let about = paragraphs(&mut comment);
            if !is_example {
                tables.push(Table {
                    name: line.to_owned(),
                    about,
                    items: Vec::new(),
                });
            }
        } else if !comment.is_empty() {
            let paragraphs = paragraphs(&mut comment);
            match tables.last_mut() {
                Some(table) => table.items.push(Item::Prose(paragraphs)),
                None => head.extend(paragraphs),
            }
        }
    }
    (head, tables)
}

/// The comment so far, which is over.
fn paragraphs(comment: &mut Vec<String>) -> Vec<Paragraph> {
    let lines = std::mem::take(comment);
    lines
        .split(String::is_empty)
        .filter(|it| !it.is_empty())
        .map(<[String]>::to_vec)
        .collect()
}

/// Of what stands before a key, the last paragraph is about it.
fn last_paragraph(mut paragraphs: Vec<Paragraph>) -> (Vec<Paragraph>, Vec<Paragraph>) {
    let about = paragraphs.pop().into_iter().collect();
    (paragraphs, about)
}

fn prose(page: &mut String, paragraphs: &[Paragraph]) {
    for paragraph in paragraphs {
        // As Markdown has it: what is indented stays as it is.
        match paragraph.iter().all(|it| it.starts_with("    ")) {
            true => roff::literal(page, &paragraph.join("\n").replace("\n    ", "\n")[4..]),
            false => roff::paragraph(page, &paragraph.join(" ")),
        }
    }
}

/// The file with what has to be written, and no more.
fn without_comments(shipped: &str) -> String {
    let mut text = String::new();
    for line in shipped.lines().filter(|it| !it.starts_with('#')) {
        if !line.is_empty() {
            text.push_str(line);
            text.push('\n');
        } else if !text.is_empty() && !text.ends_with("\n\n") {
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SHIPPED;

    /// What a reader sees, in one line.
    fn seen(page: &str) -> String {
        page.lines()
            .filter(|line| !line.starts_with(".PP") && !line.starts_with(".IP"))
            .collect::<Vec<_>>()
            .join(" ")
            .replace("\\fB", "`")
            .replace("\\fP", "`")
            .replace("\\-", "-")
            .replace("\\(aq", "'")
            .replace("\\&", "")
    }

    /// The keys as TOML sees them, all defaults written out.
    #[test]
    fn every_key_of_the_shipped_file_is_explained_below_its_table() {
        let uncommented: Vec<&str> = SHIPPED
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if Key::read(rest, true).is_some_and(|it| !it.value.is_empty()) => rest,
                _ => line,
            })
            .collect();
        let file: toml::Table = toml::from_str(&uncommented.join("\n")).unwrap();
        let page = page(SHIPPED, "");
        let mut count = 0;
        for (name, table) in file {
            let (heading, keys) = match &table {
                toml::Value::Table(table) => (format!(".SS \"[{name}]\""), table),
                toml::Value::Array(tables) => {
                    (format!(".SS \"[[{name}]]\""), tables[0].as_table().unwrap())
                }
                other => panic!("{name} is {other:?}"),
            };
            let section = page
                .split(&heading)
                .nth(1)
                .unwrap_or_else(|| panic!("no {heading}"));
            let section = section.split("\n.S").next().unwrap();
            for key in keys.keys() {
                let term = format!("\n\\fB{key} = ");
                assert!(
                    section.contains(&term),
                    "[{name}] {key} is not in {section}"
                );
                count += 1;
            }
        }
        assert!(count > 20, "{count}");
    }

    #[test]
    fn no_comment_of_the_shipped_file_is_lost() {
        let seen = seen(&page(SHIPPED, ""));
        for line in SHIPPED.lines() {
            let Some(words) = line.strip_prefix("# ") else {
                continue;
            };
            let words = match Key::read(words, true) {
                Some(key) => key.term(),
                None => words.trim().to_owned(),
            };
            assert!(seen.contains(&words), "{words} is not in {seen}");
        }
    }

    #[test]
    fn the_example_is_a_whole_configuration() {
        let example = without_comments(SHIPPED);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("serve.toml");
        std::fs::write(&file, &example).unwrap();
        ostree_serve::config::Config::load(&file).unwrap();
        assert!(example.lines().all(|it| !it.contains('#')), "{example}");
    }

    #[test]
    fn keys_of_one_comment_stand_together() {
        let (head, tables) =
            read("# Head.\n\n[x]\n# More.\n#\n# Both.\n# a = 1\n# b =\n\n# Alone.\nc = 3\n");
        assert_eq!(head, [["Head."]]);
        let [
            Item::Prose(more),
            Item::Keys { keys, about },
            Item::Keys { keys: alone, .. },
        ] = tables[0].items.as_slice()
        else {
            panic!("{} items", tables[0].items.len());
        };
        assert_eq!(
            (more.as_slice(), about.as_slice()),
            (
                [vec!["More.".to_owned()]].as_slice(),
                [vec!["Both.".to_owned()]].as_slice()
            )
        );
        let terms: Vec<String> = keys.iter().chain(alone).map(Key::term).collect();
        assert_eq!(terms, ["`a = 1`", "`b` (not set)", "`c = 3` (an example)"]);
    }
}
