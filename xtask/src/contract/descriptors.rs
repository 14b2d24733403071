//! The descriptors of the contract with comments and options, as buf writes them in JSON.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(super) struct Image {
    pub(super) file: Vec<File>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(super) struct File {
    pub(super) package: String,
    message_type: Vec<Message>,
    enum_type: Vec<Enum>,
    service: Vec<Service>,
    source_code_info: SourceInfo,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SourceInfo {
    location: Vec<Location>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Location {
    path: Vec<u32>,
    leading_comments: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Message {
    name: String,
    pub(super) field: Vec<Field>,
    nested_type: Vec<Message>,
    enum_type: Vec<Enum>,
    pub(super) oneof_decl: Vec<Named>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) label: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) type_name: String,
    pub(super) oneof_index: Option<usize>,
    pub(super) proto3_optional: bool,
}

#[derive(Deserialize)]
pub(super) struct Enum {
    name: String,
    pub(super) value: Vec<Constant>,
}

#[derive(Deserialize)]
pub(super) struct Constant {
    pub(super) name: String,
    pub(super) number: i32,
}

#[derive(Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Deserialize)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) method: Vec<Method>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Method {
    pub(super) name: String,
    /// The full name with a dot before it.
    pub(super) input_type: String,
    pub(super) output_type: String,
    #[serde(default)]
    pub(super) server_streaming: bool,
    #[serde(default)]
    options: HashMap<String, Value>,
}

/// A message or enum of a file.
pub(super) struct Element<'a, T> {
    pub(super) file: &'a File,
    /// Without the package; with the messages that it is in.
    pub(super) name: String,
    /// The path of the descriptor, as source info has it.
    pub(super) path: Vec<u32>,
    pub(super) value: &'a T,
}

impl<T> Element<'_, T> {
    /// Returns the full name with a dot before it.
    pub(super) fn full_name(&self) -> String {
        format!(".{}.{}", self.file.package, self.name)
    }

    pub(super) fn comment(&self) -> String {
        self.file.comment(&self.path)
    }
}

impl Method {
    /// Returns the HTTP method and the path.
    pub(super) fn rest(&self) -> Option<String> {
        let rule = self.options.get("[google.api.http]")?.as_object()?;
        rule.iter()
            .find(|(key, _)| *key != "body")
            .and_then(|(verb, path)| Some(format!("{} {}", verb.to_uppercase(), path.as_str()?)))
    }

    pub(super) fn access(&self) -> Option<&str> {
        self.options.get("[eticket.authorization.v1.access]")?.as_str()
    }

    pub(super) fn types(&self) -> [&str; 2] {
        [&self.input_type, &self.output_type]
    }
}

impl File {
    /// Returns the comment before an element: one line for each paragraph, with an empty line between two.
    pub(super) fn comment(&self, path: &[u32]) -> String {
        let location = self.source_code_info.location.iter().find(|location| location.path == path);
        let text = location.map_or("", |location| &location.leading_comments);
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        lines
            .split(|line| line.is_empty())
            .filter(|lines| !lines.is_empty())
            .map(|lines| lines.join(" "))
            .collect::<Vec<_>>()
            .join("\n\n")
    }

    pub(super) fn services(&self) -> impl Iterator<Item = (Vec<u32>, &Service)> {
        (0..).zip(&self.service).map(|(index, service)| (vec![6, index], service))
    }

    /// Returns all messages, those within others after these.
    pub(super) fn messages(&self) -> Vec<Element<'_, Message>> {
        let mut all = Vec::new();
        for (index, message) in (0..).zip(&self.message_type) {
            self.collect(message, message.name.clone(), vec![4, index], &mut all);
        }
        all
    }

    fn collect<'a>(&'a self, value: &'a Message, name: String, path: Vec<u32>, all: &mut Vec<Element<'a, Message>>) {
        let nested = (0..).zip(&value.nested_type).map(|(index, nested)| {
            (nested, format!("{name}.{}", nested.name), [path.as_slice(), &[3, index]].concat())
        });
        let nested: Vec<_> = nested.collect();
        all.push(Element { file: self, name, path, value });
        for (value, name, path) in nested {
            self.collect(value, name, path, all);
        }
    }

    /// Returns all enums, also those within messages.
    pub(super) fn enums(&self) -> Vec<Element<'_, Enum>> {
        let top = (0..).zip(&self.enum_type).map(|(index, value)| Element {
            file: self,
            name: value.name.clone(),
            path: vec![5, index],
            value,
        });
        let mut all: Vec<_> = top.collect();
        for message in self.messages() {
            let within = (0..).zip(&message.value.enum_type).map(|(index, value)| Element {
                file: self,
                name: format!("{}.{}", message.name, value.name),
                path: [message.path.as_slice(), &[4, index]].concat(),
                value,
            });
            all.extend(within);
        }
        all
    }
}
