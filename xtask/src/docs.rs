//! `cargo xtask docs`: the documentation that is made from the contract. `docs/errors.md` has a section for each reason of an error, made
//! from the comments of `ErrorReason`.

use std::{fmt::Write, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::checkout::Checkout;

const SOURCE: &str = "proto/eticket/error/v1/error.proto";
const ERRORS: &str = "docs/errors.md";
const PREFIX: &str = "ERROR_REASON_";
/// Not a reason: an error without one has no section to link to.
const NO_REASON: &str = "UNSPECIFIED";

/// Fails if a file differs from what the contract gives.
pub(crate) fn check(checkout: &Checkout) -> Result<()> {
    let found = fs::read_to_string(checkout.root().join(ERRORS)).unwrap_or_default();
    ensure!(found == made(checkout)?, "{ERRORS} is not up to date with {SOURCE}: run `cargo xtask docs`");
    Ok(())
}

/// Writes the files.
pub(crate) fn update(checkout: &Checkout) -> Result<()> {
    fs::write(checkout.root().join(ERRORS), made(checkout)?).with_context(|| format!("cannot write {ERRORS}"))
}

fn made(checkout: &Checkout) -> Result<String> {
    let source = fs::read_to_string(checkout.root().join(SOURCE)).with_context(|| format!("cannot read {SOURCE}"))?;
    errors(&source).context(SOURCE)
}

/// Makes the text of `errors.md` from the text of the proto file.
fn errors(source: &str) -> Result<String> {
    let mut text = "# Errors\n\n".to_owned();
    let (_, body) = source.split_once("enum ErrorReason {").context("no enum ErrorReason")?;
    let about = source.split("enum ErrorReason {").next().unwrap_or_default().rsplit("\n\n").next().unwrap_or_default();
    write!(text, "{}\n\n", paragraphs(about).join("\n\n"))?;
    write!(text, "Made by `cargo xtask docs` from the comments in `{SOURCE}`.\n\n")?;
    let mut sections = String::new();
    text += "| reason | meaning |\n| --- | --- |\n";
    let mut comment = String::new();
    for line in body.lines().map(str::trim) {
        if line.starts_with("//") {
            comment += &format!("{line}\n");
            continue;
        }
        if let Some(name) = line.strip_prefix(PREFIX).and_then(|line| line.split(' ').next())
            && name != NO_REASON
        {
            let paragraphs = paragraphs(&comment);
            let [meaning, client, operator] = &paragraphs[..] else {
                bail!("{name}: expected the meaning, a paragraph `Client:` and one `Operator:`");
            };
            let advice = |paragraph: &str, who: &str| -> Result<String> {
                let advice = paragraph.strip_prefix(who).and_then(|advice| advice.strip_prefix(": "));
                Ok(format!("**{who}**: {}", advice.with_context(|| format!("{name}: expected `{who}: `"))?))
            };
            let (client, operator) = (advice(client, "Client")?, advice(operator, "Operator")?);
            writeln!(text, "| [`{name}`](#{}) | {} |", name.to_lowercase(), first_sentence(meaning))?;
            write!(sections, "\n## {name}\n\n{meaning}\n\n{client}\n\n{operator}\n")?;
        }
        comment.clear();
    }
    ensure!(!sections.is_empty(), "no reason");
    Ok(text + &sections)
}

/// The paragraphs of a comment, each in one line.
fn paragraphs(comment: &str) -> Vec<String> {
    let lines = comment.lines().map(|line| line.trim().trim_start_matches('/').trim());
    let text = lines.collect::<Vec<_>>().join("\n");
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.trim().replace('\n', " "));
    paragraphs.filter(|paragraph| !paragraph.is_empty()).collect()
}

fn first_sentence(text: &str) -> &str {
    text.find(". ").map_or(text, |end| &text[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "syntax = \"proto3\";\n\n// The reason.\n//\n// More.\nenum ErrorReason {\n  // None.\n  \
        ERROR_REASON_UNSPECIFIED = 0;\n\n  // `NOT_FOUND`: no\n  // ticket. It is gone.\n  //\n  // Client: look.\n  //\n  \
        // Operator: nothing.\n  ERROR_REASON_TICKET_NOT_FOUND = 1;\n}\n";

    #[test]
    fn each_reason_becomes_a_section() {
        let text = errors(SOURCE).unwrap();
        let expected = "| [`TICKET_NOT_FOUND`](#ticket_not_found) | `NOT_FOUND`: no ticket. |\n\n## TICKET_NOT_FOUND\n\n\
            `NOT_FOUND`: no ticket. It is gone.\n\n**Client**: look.\n\n**Operator**: nothing.\n";
        assert!(text.starts_with("# Errors\n\nThe reason.\n\nMore.\n\n") && text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_reason_without_advice_is_refused() {
        for part in ["Client: look.", "Operator: nothing."] {
            assert!(errors(&SOURCE.replace(part, "No advice.")).is_err(), "{part}");
        }
    }

    #[test]
    fn the_documentation_of_errors_is_up_to_date() {
        check(&Checkout::find().unwrap()).unwrap();
    }
}
