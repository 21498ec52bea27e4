//! Templates: what e-mails say, in the owner's words where there are any.
//!
//! `KIND.txt` is the e-mail: its first line the subject, the rest paragraphs. A paragraph such as `Pay: https://…` is a
//! button in HTML, one with a tab in each of its lines a table; `layout.html` is the frame. In the owner's folder, `KIND.LOCALE.txt` comes before
//! `KIND.LANGUAGE.txt`, and that before `KIND.txt`; a `KIND.html` there is used in place of the frame.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use serde_json::{Value, json};

use super::Locale;

/// Every kind of e-mail, and what it says unless the owner says otherwise.
pub const KINDS: &[(&str, &str)] = &[
    ("payment_failed", include_str!("templates/payment_failed.txt")),
    ("insufficient_funds", include_str!("templates/insufficient_funds.txt")),
    ("authentication_required", include_str!("templates/authentication_required.txt")),
    ("payment_method_missing", include_str!("templates/payment_method_missing.txt")),
    ("suspended", include_str!("templates/suspended.txt")),
    ("restored", include_str!("templates/restored.txt")),
    ("invoice", include_str!("templates/invoice.txt")),
    ("incident", include_str!("templates/incident.txt")),
    ("incident_digest", include_str!("templates/incident_digest.txt")),
    ("provider_down", include_str!("templates/provider_down.txt")),
];

/// What they say in other languages, by kind and language.
const TRANSLATED: &[(&str, &str, &str)] = &[
    ("payment_failed", "de", include_str!("templates/payment_failed.de.txt")),
    ("insufficient_funds", "de", include_str!("templates/insufficient_funds.de.txt")),
    ("authentication_required", "de", include_str!("templates/authentication_required.de.txt")),
    ("payment_method_missing", "de", include_str!("templates/payment_method_missing.de.txt")),
    ("suspended", "de", include_str!("templates/suspended.de.txt")),
    ("restored", "de", include_str!("templates/restored.de.txt")),
    ("invoice", "de", include_str!("templates/invoice.de.txt")),
];

const LAYOUT: &str = include_str!("templates/layout.html");

/// Where an owner's template may take this much and no more.
const LARGEST: u64 = 256 * 1024;

/// An e-mail in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// One line.
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// A paragraph, as the frame shows it.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Paragraph {
    text: String,
    /// Where a button leads.
    url: Option<String>,
    /// Of a table: what, and how much.
    rows: Vec<(String, String)>,
}

/// What e-mails say.
#[derive(Clone, Debug)]
pub(crate) struct Templates {
    folder: Option<PathBuf>,
}

impl Templates {
    /// The owner's templates in this folder, then the built-in ones.
    pub(crate) fn new(folder: Option<PathBuf>) -> Templates {
        Templates { folder }
    }

    /// The e-mail of this kind with these facts in it.
    ///
    /// # Errors
    /// There is no such kind, or the owner's template is at fault: where, and why.
    pub(crate) fn render(&self, kind: &str, locale: &Locale, facts: &Value) -> Result<Rendered, String> {
        let built_in = built_in(kind, locale.language());
        let built_in = built_in.ok_or_else(|| format!("there is no e-mail of kind {kind}"))?;
        let names = [format!("{kind}.{}.txt", locale.tag()), format!("{kind}.{}.txt", locale.language())];
        let own =
            names.into_iter().chain([format!("{kind}.txt")]).find_map(|name| self.own(&name).transpose());
        let (name, source) = own.unwrap_or_else(|| Ok((format!("{kind}.txt"), built_in.to_owned())))?;
        let (subject, text) = split(&filled(&name, &source, facts)?);
        if subject.is_empty() {
            return Err(format!("{name}: its first line, the subject, is empty"));
        }
        let html = self.html(kind, locale, facts, &subject, &text)?;
        Ok(Rendered { subject, text: aligned(&text), html })
    }

    fn html(
        &self,
        kind: &str,
        locale: &Locale,
        facts: &Value,
        subject: &str,
        text: &str,
    ) -> Result<String, String> {
        let own = match self.own(&format!("{kind}.html"))? {
            Some(own) => Some(own),
            None => self.own("layout.html")?,
        };
        let (name, source) = own.unwrap_or_else(|| ("layout.html".to_owned(), LAYOUT.to_owned()));
        let mut facts = facts.clone();
        facts["subject"] = json!(subject);
        facts["locale"] = json!(locale.tag());
        facts["paragraphs"] = json!(paragraphs(text));
        filled(&name, &source, &facts)
    }

    /// The owner's file of this name, where there is one.
    fn own(&self, name: &str) -> Result<Option<(String, String)>, String> {
        let Some(folder) = &self.folder else { return Ok(None) };
        read(&folder.join(name)).map(|text| text.map(|text| (name.to_owned(), text)))
    }
}

fn built_in(kind: &str, language: &str) -> Option<&'static str> {
    let translated = TRANSLATED.iter().find(|(name, spoken, _)| (*name, *spoken) == (kind, language));
    let usual = || KINDS.iter().find(|(name, _)| *name == kind).map(|(_, text)| *text);
    translated.map(|(_, _, text)| *text).or_else(usual)
}

fn read(path: &Path) -> Result<Option<String>, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
        Ok(file) if file.len() > LARGEST => return Err(wrong("is too large".to_owned())),
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map(Some).map_err(|error| wrong(error.to_string()))
}

/// Fills a template in. What ends in `.html` escapes what is put into it; a name that nobody knows is an error, not a gap.
fn filled(name: &str, source: &str, facts: &Value) -> Result<String, String> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    engine.set_syntax(syntax.map_err(|error| format!("{name}: {error}"))?);
    engine.add_template(name, source).map_err(|error| format!("{name}: {error}"))?;
    let template = engine.get_template(name).map_err(|error| format!("{name}: {error}"))?;
    template.render(Serde(facts)).map_err(|error| format!("{name}: {error}"))
}

/// The subject, on one line, and the rest.
fn split(text: &str) -> (String, String) {
    let (subject, rest) = text.split_once('\n').unwrap_or((text, ""));
    let subject = subject.strip_prefix("Subject:").unwrap_or(subject);
    let subject: String = subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    (subject.trim().to_owned(), rest.trim().to_owned() + "\n")
}

fn paragraphs(text: &str) -> Vec<Paragraph> {
    let blocks = text.split("\n\n").map(str::trim).filter(|block| !block.is_empty());
    blocks.map(paragraph).collect()
}

/// What and how much, where every line of a block says both, with a tab in between.
fn rows(block: &str) -> Option<Vec<(String, String)>> {
    let row = |line: &str| {
        line.split_once('\t').map(|(what, amount)| (what.trim().to_owned(), amount.trim().to_owned()))
    };
    block.lines().map(row).collect()
}

/// In plain text, a table's columns stand below each other.
fn aligned(text: &str) -> String {
    let blocks = text.split("\n\n").map(|block| match rows(block) {
        Some(rows) if block.contains('\t') => in_columns(&rows),
        _ => block.to_owned(),
    });
    blocks.collect::<Vec<_>>().join("\n\n")
}

/// Wider than this, a column only makes lines break.
const WIDEST: usize = 56;

fn in_columns(rows: &[(String, String)]) -> String {
    let widest = |lengths: Vec<usize>| lengths.into_iter().max().unwrap_or(0).min(WIDEST);
    let left = widest(rows.iter().map(|(what, _)| what.chars().count()).collect());
    let right = widest(rows.iter().map(|(_, amount)| amount.chars().count()).collect());
    let lines = rows.iter().map(|(what, amount)| format!("{what:<left$}  {amount:>right$}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// `Pay: https://…` alone on its line is a button; lines with a tab in each are a table.
fn paragraph(block: &str) -> Paragraph {
    if let Some(rows) = rows(block) {
        let text = in_columns(&rows);
        return Paragraph { text, url: None, rows };
    }
    let link = block.split_once(": ").filter(|(label, url)| {
        let is_link = url.starts_with("https://") || url.starts_with("http://");
        is_link && !url.contains(char::is_whitespace) && !label.contains('\n')
    });
    match link {
        Some((label, url)) => {
            Paragraph { text: label.to_owned(), url: Some(url.to_owned()), rows: Vec::new() }
        }
        None => Paragraph { text: block.to_owned(), url: None, rows: Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_on_its_own_line_is_a_button_and_one_in_a_sentence_is_not() {
        let found = paragraphs("Hello.\n\nPay: https://pay.example/1\n\nSee https://x.example now.");
        let urls: Vec<Option<&str>> = found.iter().map(|p| p.url.as_deref()).collect();
        assert_eq!(urls, [None, Some("https://pay.example/1"), None]);
    }

    #[test]
    fn lines_with_a_tab_in_each_are_a_table_and_others_are_not() {
        let text = "Hello.\n\nCalls\t12.50 USD\nTotal due\t1,012.50 USD\n\nOne\ttab\nand none.\n";
        assert_eq!(
            aligned(text),
            "Hello.\n\nCalls         12.50 USD\nTotal due  1,012.50 USD\n\nOne\ttab\nand none.\n"
        );
        let found = paragraphs(text);
        let rows: Vec<usize> = found.iter().map(|paragraph| paragraph.rows.len()).collect();
        assert_eq!((rows, found[1].rows[0].1.as_str()), (vec![0, 2, 0], "12.50 USD"));
    }

    #[test]
    fn what_is_translated_names_nothing_that_the_original_does_not() {
        let names = |text: &str| -> std::collections::BTreeSet<String> {
            let words = text.split(|c: char| !(c.is_alphanumeric() || c == '.' || c == '_'));
            let facts = ["invoice.", "customer.", "line.", "incident."];
            words.filter(|word| facts.iter().any(|fact| word.starts_with(fact))).map(str::to_owned).collect()
        };
        for (kind, language, text) in TRANSLATED {
            let original = KINDS.iter().find(|(name, _)| name == kind).unwrap().1;
            assert_eq!(names(text), names(original), "{kind}.{language}");
        }
    }

    #[test]
    fn what_a_customer_is_called_is_never_markup() {
        let html = filled("x.html", "<p>{{ name }}</p>", &json!({ "name": "<script>" })).unwrap();
        assert!(!html.contains("<script>"), "{html}");
    }

    #[test]
    fn a_name_that_nobody_knows_is_an_error_and_not_a_gap() {
        assert!(filled("x.txt", "{{ customer.nmae }}", &json!({ "customer": { "name": "Ada" } })).is_err());
    }

    #[test]
    fn the_owners_words_come_first_and_those_in_the_customers_language_before_them() {
        let folder = tempfile::tempdir().unwrap();
        let templates = Templates::new(Some(folder.path().to_owned()));
        let facts = json!({ "sender": "Acme" });
        let said = |tag: &str| templates.render("restored", &Locale::new(tag), &facts).unwrap().subject;
        std::fs::write(folder.path().join("restored.txt"), "Subject: Back\n\nYes.").unwrap();
        std::fs::write(folder.path().join("restored.de.txt"), "Subject: Wieder da\n\nJa.").unwrap();
        assert_eq!([said("en"), said("de-AT"), said("de")], ["Back", "Wieder da", "Wieder da"]);
    }
}
