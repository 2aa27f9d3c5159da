//! Text as man(7) has it: the few macros that the pages need.

/// What fills the line below a page: its name in capitals, its section, its date, and
/// where it comes from.
pub fn title(name: &str, section: &str, date: &str) -> String {
    format!(
        ".TH {} {section} \"{date}\" \"{}\" \"System Administration\"\n",
        name.to_uppercase(),
        source()
    )
}

/// The package and its version.
pub fn source() -> String {
    format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

/// A section, whose heading is in capitals.
pub fn section(page: &mut String, heading: &str) {
    page.push_str(&format!(".SH \"{}\"\n", argument(heading)));
}

/// A part of a section.
pub fn part(page: &mut String, heading: &str) {
    page.push_str(&format!(".SS \"{}\"\n", argument(heading)));
}

/// Several terms, each a line of [`text`], with what is to be said of all of them.
pub fn entry(page: &mut String, terms: &[String], about: &[String]) {
    for (number, term) in terms.iter().enumerate() {
        page.push_str(if number == 0 { ".TP\n" } else { ".TQ\n" });
        page.push_str(&text(term));
    }
    for (number, paragraph) in about.iter().enumerate() {
        if number > 0 {
            page.push_str(".IP\n");
        }
        page.push_str(&text(paragraph));
    }
}

/// A paragraph.
pub fn paragraph(page: &mut String, words: &str) {
    // A heading begins one by itself.
    let last = page.lines().last().unwrap_or_default();
    if !last.starts_with(".SH") && !last.starts_with(".SS") {
        page.push_str(".PP\n");
    }
    page.push_str(&text(words));
}

/// Lines that stay as they are.
pub fn literal(page: &mut String, lines: &str) {
    page.push_str(".PP\n.RS 4\n.nf\n");
    for line in lines.lines() {
        page.push_str(&protected(&code(line)));
        page.push('\n');
    }
    page.push_str(".fi\n.RE\n");
}

/// One line of a paragraph, in which what is between backticks is set in bold.
pub fn text(words: &str) -> String {
    let mut line = String::new();
    for (number, piece) in words.split('`').enumerate() {
        match number % 2 {
            0 => line.push_str(&escaped(piece)),
            _ => line.push_str(&format!("\\fB{}\\fP", code(piece))),
        }
    }
    format!("{}\n", protected(&line))
}

/// The same for a page that another one has written and escaped.
pub fn emphasised(page: &str) -> String {
    let mut bold = false;
    page.lines()
        .flat_map(|line| {
            let mut line = line.to_owned();
            while let Some(at) = line.find('`') {
                bold = !bold;
                line.replace_range(at..=at, if bold { "\\fB" } else { "\\fR" });
            }
            [line, "\n".into()]
        })
        .collect()
}

/// What a person is to type or to find: its hyphens are those of the keyboard.
fn code(piece: &str) -> String {
    escaped(piece).replace('-', "\\-")
}

fn escaped(piece: &str) -> String {
    piece.replace('\\', "\\e").replace('\'', "\\(aq")
}

/// A line that would be a macro for its first character is none.
fn protected(line: &str) -> String {
    match line.starts_with('.') {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    }
}

fn argument(heading: &str) -> String {
    escaped(heading).replace('"', "\\(dq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_taken_for_a_macro() {
        let cases = [
            ("plain - text", "plain - text\n"),
            (".config is hidden", "\\&.config is hidden\n"),
            ("'quoted' \\n", "\\(aqquoted\\(aq \\en\n"),
            (
                "say `--json` or `a`.",
                "say \\fB\\-\\-json\\fP or \\fBa\\fP.\n",
            ),
        ];
        for (words, expected) in cases {
            assert_eq!(text(words), expected);
        }
    }

    #[test]
    fn backticks_of_others_become_bold_across_lines() {
        assert_eq!(emphasised("a `b\nc` d"), "a \\fBb\nc\\fR d\n");
    }
}
