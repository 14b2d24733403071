//! `docs/api.md`: the reference of the API, made of the comments and options of the protos.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Context, Result};

use super::descriptors::{Element, Enum, Field, File, Image, Message, Method, Service};

/// The packages of the page, in this order. Left out is `eticket.audit.v1`, which only services use.
const PACKAGES: [&str; 7] = ["ticket", "reservation", "pricing", "query", "operations", "error", "event"];

const INTRODUCTION: &str = "# API

<!-- Made of the protos by `cargo xtask contract --docs`. Change the comments there. -->

All services are reachable through the gateway. This page lists each method with its REST path and who may call it with
`auth.mode = jwt`. [Clients](clients.md) shows how to generate stubs, and [`proto/service-config.json`](../proto/service-config.json)
has the retry policy.

Fields have the names of the protos. In JSON they are camelCase: `ticket_id` is `ticketId`.
";

/// Writes the page.
pub(super) fn page(image: &Image) -> Result<String> {
    let mut files = Vec::new();
    for package in PACKAGES {
        let name = format!("eticket.{package}.v1");
        files.push(image.file.iter().find(|file| file.package == name).with_context(|| format!("no package {name}"))?);
    }
    let messages: Vec<_> = files.iter().flat_map(|file| file.messages()).collect();
    let mut page = INTRODUCTION.to_owned();
    overview(&mut page, &files)?;
    for file in &files {
        write!(page, "\n## Package {}\n", file.package)?;
        for (path, service) in file.services() {
            write_service(&mut page, file, &path, service, &messages)?;
        }
        // Requests and responses are shown with their method.
        let shown: BTreeSet<_> =
            file.services().flat_map(|(_, service)| &service.method).flat_map(Method::types).collect();
        for element in messages.iter().filter(|element| element.file.package == file.package) {
            if !shown.contains(element.full_name().as_str()) {
                write!(page, "\n### {}\n\n{}\n", element.name, element.comment())?;
                fields(&mut page, element)?;
            }
        }
        for element in file.enums() {
            write_enum(&mut page, &element)?;
        }
    }
    Ok(page)
}

fn overview(page: &mut String, files: &[&File]) -> Result<()> {
    page.push_str("\n| method | REST | who |\n| --- | --- | --- |\n");
    for (_, service) in files.iter().flat_map(|file| file.services()) {
        for method in &service.method {
            let (anchor, rest) =
                (method.name.to_lowercase(), method.rest().map_or(String::new(), |rest| format!("`{rest}`")));
            writeln!(page, "| {}.[{}](#{anchor}) | {rest} | {} |", service.name, method.name, who(method)?)?;
        }
    }
    Ok(())
}

fn write_service(
    page: &mut String,
    file: &File,
    path: &[u32],
    service: &Service,
    messages: &[Element<'_, Message>],
) -> Result<()> {
    write!(page, "\n### {}\n\n{}\n", service.name, file.comment(path))?;
    for (number, method) in (0_u32..).zip(&service.method) {
        let path = [path, &[2, number]].concat();
        write!(page, "\n#### {}\n\n", method.name)?;
        if let Some(rest) = method.rest() {
            write!(page, "`{rest}` · ")?;
        }
        write!(page, "{}\n\n{}\n", who(method)?, file.comment(&path))?;
        for (kind, name) in [("Request", &method.input_type), ("Response", &method.output_type)] {
            let element = messages
                .iter()
                .find(|element| element.full_name() == *name)
                .with_context(|| format!("no message {name}"))?;
            let stream = if kind == "Response" && method.server_streaming { ", a stream of" } else { "" };
            write!(page, "\n{kind}{stream} `{}`:", element.name)?;
            if element.value.field.is_empty() {
                page.push_str(" no fields.\n");
            } else {
                page.push('\n');
                fields(page, element)?;
            }
        }
    }
    Ok(())
}

fn who(method: &Method) -> Result<&'static str> {
    match method.access() {
        Some("ACCESS_EVERYONE") => Ok("everyone"),
        Some("ACCESS_USER") => Ok("role `user` or `admin`"),
        Some("ACCESS_ADMIN") => Ok("role `admin`"),
        other => anyhow::bail!("{} has the access {other:?}", method.name),
    }
}

fn fields(page: &mut String, element: &Element<'_, Message>) -> Result<()> {
    if element.value.field.is_empty() {
        return Ok(());
    }
    page.push_str("\n| field | type | meaning |\n| --- | --- | --- |\n");
    for (number, field) in (0_u32..).zip(&element.value.field) {
        let choice =
            field.oneof_index.filter(|_| !field.proto3_optional).and_then(|index| element.value.oneof_decl.get(index));
        let choice = choice.map_or(String::new(), |choice| format!("One of `{}`. ", choice.name));
        let meaning = cell(&element.file.comment(&[element.path.as_slice(), &[2, number]].concat()));
        writeln!(page, "| `{}` | {} | {choice}{meaning} |", field.name, type_of(field))?;
    }
    Ok(())
}

fn type_of(field: &Field) -> String {
    let name = match field.type_name.strip_prefix('.') {
        None => field.kind.trim_start_matches("TYPE_").to_lowercase(),
        // A message within another one keeps the name of that one.
        Some(name) => match name.strip_prefix("eticket.").and_then(|name| name.split_once(".v1.")) {
            Some((_, name)) => format!("[{name}](#{})", anchor(name)),
            None => name.to_owned(),
        },
    };
    if field.label == "LABEL_REPEATED" { format!("repeated {name}") } else { name }
}

fn write_enum(page: &mut String, element: &Element<'_, Enum>) -> Result<()> {
    write!(
        page,
        "\n### {}\n\n{}\n\n| value | number | meaning |\n| --- | --- | --- |\n",
        element.name,
        element.comment()
    )?;
    for (index, value) in (0_u32..).zip(&element.value.value) {
        let meaning = cell(&element.file.comment(&[element.path.as_slice(), &[2, index]].concat()));
        writeln!(page, "| `{}` | {} | {meaning} |", value.name, value.number)?;
    }
    Ok(())
}

/// A heading's anchor has no dots.
fn anchor(name: &str) -> String {
    name.to_lowercase().replace('.', "")
}

/// A text as one cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace("\n\n", "<br>")
}
