//! Builds the typed configuration from its sources, for one server or several in a process.
//!
//! Sources are merged as untyped trees. The struct of a server refuses unknown keys, so the keys that all servers
//! share, and with several servers the section of each, are taken out before a tree is typed.

mod errors;
pub(crate) mod listen;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use eticket_base::config::{
    Error, text_file,
    urls::{self, StoreSupport},
};
use figment::{
    Figment,
    providers::{Format, Serialized, Toml},
    value::{Dict, Value},
};
use serde::{Serialize, de::DeserializeOwned};

use self::errors::{from_figment, leaf, shown};
use super::{ProcessSettings, Settings};

const PREFIX: &str = "ETICKET__";
const DEFAULTS: &str = include_str!("defaults.toml");
const ALL_IN_ONE: &str = include_str!("all_in_one.toml");

/// Keys that every server has.
const SERVER_KEYS: [&str; 6] = ["listen", "store", "auth", "tls", "limits", "shutdown"];
/// Keys of the process.
const PROCESS_KEYS: [&str; 5] = ["data", "admin", "bus", "log", "telemetry"];
/// Keys that only stateful servers accept.
const STATEFUL_KEYS: [&str; 3] = ["data", "bus", "store"];
/// Keys of `limits` that only a server that limits callers accepts.
const CALLER_LIMITS: [&str; 2] = ["requests_per_second", "burst"];
/// Keys at the root that apply to every server of the process.
const SHARED_KEYS: [&str; 5] = ["store", "auth", "tls", "limits", "shutdown"];

/// The sources of the configuration in addition to the embedded defaults.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) file: Option<PathBuf>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) data: Option<PathBuf>,
}

impl Sources {
    /// The sources of this process.
    ///
    /// # Errors
    /// Fails if one of the variables is not UTF-8: a lossy conversion could change a path.
    pub(crate) fn from_process(file: Option<PathBuf>, data: Option<PathBuf>) -> Result<Self, Error> {
        Self::from_variables(file, std::env::vars_os(), data)
    }

    fn from_variables(
        file: Option<PathBuf>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        data: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let mut environment = Vec::new();
        for (name, value) in variables {
            match (name.to_str(), value.to_str()) {
                (Some(name), Some(value)) => environment.push((name.to_owned(), value.to_owned())),
                _ if name.to_string_lossy().starts_with(PREFIX) => {
                    let value = value.to_string_lossy().into_owned();
                    return Err(Error::new(name.to_string_lossy(), Some(value), NOT_UTF_8));
                }
                // Not a variable of eTicket.
                _ => {}
            }
        }
        Ok(Self { file, environment, data })
    }
}

const NOT_UTF_8: &str = "expected text in UTF-8";

/// The properties of a server that are needed to load its configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceSpec {
    pub(crate) name: &'static str,
    pub(crate) defaults: &'static str,
    pub(crate) store: StoreSupport,
    /// Whether it limits the rate of each caller.
    pub(crate) limits_callers: bool,
}

/// The configuration of a server; its specific keys are still untyped.
#[derive(Debug)]
pub(crate) struct ServerTree {
    pub(crate) settings: Settings,
    pub(crate) own: Dict,
    /// The section of its keys; `None` if they are at the root.
    pub(crate) section: Option<&'static str>,
    /// Other valid keys in the same place, for error messages.
    beside: Vec<&'static str>,
    place: KeyPlace,
}

impl ServerTree {
    /// Deserializes the specific keys of the server.
    pub(crate) fn own<T: DeserializeOwned>(&self) -> Result<T, Error> {
        typed(&self.own, &self.beside).map_err(|error| error.within(self.section))
    }

    /// Completes the key of an error to the place where the value was set.
    pub(crate) fn placed(&self, error: Error) -> Error {
        self.place.locate(error)
    }
}

/// Where the keys of a server were set: in its section, or at the root for all servers.
#[derive(Debug, Default)]
struct KeyPlace {
    section: Option<&'static str>,
    /// The keys set in the section, and the shared keys set at the root.
    in_section: Dict,
    at_root: Dict,
}

impl KeyPlace {
    fn locate(&self, error: Error) -> Error {
        match is_set(&self.at_root, error.key()) && !is_set(&self.in_section, error.key()) {
            true => error,
            false => error.within(self.section),
        }
    }
}

/// Whether a key with this path is set.
fn is_set(tree: &Dict, path: &str) -> bool {
    match path.split_once('.') {
        None => tree.contains_key(path),
        Some((first, rest)) => tree.get(first).and_then(Value::as_dict).is_some_and(|inner| is_set(inner, rest)),
    }
}

/// The valid keys in addition to the specific keys of a server.
fn beside(spec: ServiceSpec, section: bool) -> Vec<&'static str> {
    let from_process = PROCESS_KEYS.iter().filter(|_| !section);
    let all = SERVER_KEYS.iter().chain(from_process).copied();
    all.filter(|key| spec.store != StoreSupport::None || !STATEFUL_KEYS.contains(key)).collect()
}

/// The defaults of a server in a process of its own, as TOML with comments.
pub(crate) fn defaults(spec: ServiceSpec) -> String {
    // The first paragraph of each file describes the file.
    let body = |text: &'static str| text.split_once("\n\n").map_or(text, |(_, body)| body).trim();
    let common = body(DEFAULTS);
    let common = match spec.store {
        StoreSupport::None => {
            common.split("\n\n").filter(|part| !part.starts_with("[bus]")).collect::<Vec<_>>().join("\n\n")
        }
        _ => common.to_owned(),
    };
    format!("{}\n\n{common}", body(spec.defaults))
}

/// The default listen address of a server.
pub(crate) fn default_address(spec: ServiceSpec) -> String {
    let listen = spec.defaults.lines().find_map(|line| line.strip_prefix("listen = "));
    listen.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

/// Loads the configuration of a server in a process of its own: all keys are at the root.
pub(crate) fn alone(spec: ServiceSpec, sources: &Sources) -> Result<(ProcessSettings, ServerTree), Error> {
    let mut tree = embedded(DEFAULTS)?;
    if spec.store == StoreSupport::None {
        tree.remove("bus");
    }
    merge(&mut tree, embedded(spec.defaults)?);
    let overrides = overrides(sources)?;
    refuse_caller_limits(spec, &overrides)?;
    merge(&mut tree, overrides);
    let (mut process, mut server) = (take(&mut tree, &PROCESS_KEYS), take(&mut tree, &SERVER_KEYS));
    if spec.store == StoreSupport::None {
        // A server without a store has none of these keys, so they are reported as unknown.
        for of in [&mut process, &mut server] {
            tree.extend(take(of, &STATEFUL_KEYS));
        }
    }
    let mut process: ProcessSettings = typed(&process, &[])?;
    process.check()?;
    if spec.store != StoreSupport::None {
        process.data.get_or_insert_with(|| Path::new("./eticket-data").join(spec.name));
        process.bus.check()?;
    }
    let mut settings: Settings = typed(&server, &[])?;
    check(spec, &settings)?;
    settings.auth.resolve();
    let (beside, place) = (beside(spec, false), KeyPlace::default());
    Ok((process, ServerTree { settings, own: tree, section: None, beside, place }))
}

/// Loads the configuration of servers that share a process: the keys of each are in a section with its name.
pub(crate) fn together(specs: &[ServiceSpec], sources: &Sources) -> Result<(ProcessSettings, Vec<ServerTree>), Error> {
    let mut root = embedded(DEFAULTS)?;
    merge(&mut root, embedded(ALL_IN_ONE)?);
    let overrides = overrides(sources)?;
    let set_at_root = take(&mut overrides.clone(), &SHARED_KEYS);
    merge(&mut root, overrides);
    let sections: Vec<_> = specs.iter().map(|spec| take_section(&mut root, spec.name)).collect::<Result<_, _>>()?;
    let process: ProcessSettings = typed(&take(&mut root, &PROCESS_KEYS), &[])?;
    process.check()?;
    process.bus.check()?;
    let shared = take(&mut root, &SHARED_KEYS);
    if let Some((key, value)) = root.pop_first() {
        let names = specs.iter().map(|spec| spec.name);
        let known = PROCESS_KEYS.into_iter().chain(SHARED_KEYS).chain(names).collect::<Vec<_>>().join(", ");
        let (mut path, value) = (vec![key], value);
        let value = Some(shown(leaf(&mut path, &value)));
        return Err(Error::new(path.join("."), value, format!("unknown key; expected one of {known}")));
    }
    let trees = specs.iter().zip(sections).map(|(spec, section)| {
        let (in_section, at_root) = (section.clone(), set_at_root.clone());
        let place = KeyPlace { section: Some(spec.name), in_section, at_root };
        match server_of(*spec, &shared, section) {
            Ok((settings, own)) => {
                Ok(ServerTree { settings, own, section: place.section, beside: beside(*spec, true), place })
            }
            Err(error) => Err(place.locate(error)),
        }
    });
    Ok((process, trees.collect::<Result<_, _>>()?))
}

/// The settings and the specific keys of one of several servers.
fn server_of(spec: ServiceSpec, shared: &Dict, section: Dict) -> Result<(Settings, Dict), Error> {
    let mut tree = embedded(spec.defaults)?;
    let mut shared = shared.clone();
    let store = shared.remove("store");
    if let Some(Value::Dict(_, limits)) = shared.get_mut("limits")
        && !spec.limits_callers
    {
        // At the root these keys are meant for the gateway.
        limits.retain(|key, _| !CALLER_LIMITS.contains(&key.as_str()));
    }
    merge(&mut tree, shared);
    refuse_caller_limits(spec, &section)?;
    if let Some(key) = PROCESS_KEYS.iter().find(|key| section.contains_key(**key)) {
        let value = section.get(*key).map(shown);
        return Err(Error::new(*key, value, "applies to the whole process: set it at the root"));
    }
    merge(&mut tree, section);
    let mut server = take(&mut tree, &SERVER_KEYS);
    if spec.store == StoreSupport::None
        && let Some(value) = server.remove("store")
    {
        return Err(Error::new("store", Some(shown(&value)), "unknown key: this server has no store"));
    }
    let mut settings: Settings = typed(&server, &[])?;
    check(spec, &settings)?;
    if let (Some(store), None) = (store, &settings.store.url) {
        let store = Dict::from([("store".to_owned(), store)]);
        let url = typed::<SharedStore>(&store, &[])?.store.url;
        if let Some(url) = url.as_deref() {
            settings.store.url = urls::shared_store(spec.store, url)?.map(str::to_owned);
            check(spec, &settings)?;
        }
    }
    settings.auth.resolve();
    Ok((settings, tree))
}

/// Refuses the limits of callers for a server that does not have them.
fn refuse_caller_limits(spec: ServiceSpec, given: &Dict) -> Result<(), Error> {
    let Some(limits) = given.get("limits").and_then(Value::as_dict) else { return Ok(()) };
    match CALLER_LIMITS.into_iter().find(|key| limits.contains_key(*key) && !spec.limits_callers) {
        Some(key) => {
            let value = limits.get(key).map(shown);
            Err(Error::new(format!("limits.{key}"), value, "only the gateway has this key: set it there"))
        }
        None => Ok(()),
    }
}

#[derive(serde::Deserialize)]
struct SharedStore {
    store: super::StoreConfig,
}

fn check(spec: ServiceSpec, settings: &Settings) -> Result<(), Error> {
    settings.check()?;
    match &settings.store.url {
        Some(url) => urls::store_place(spec.store, url).map(drop),
        None => Ok(()),
    }
}

fn embedded(text: &str) -> Result<Dict, Error> {
    Figment::from(Toml::string(text)).extract().map_err(|error| from_figment(error, &Dict::new(), &[]))
}

/// Merges file, environment and flags.
fn overrides(sources: &Sources) -> Result<Dict, Error> {
    let mut figment = Figment::new();
    if let Some(path) = &sources.file {
        let refuse = |expected| Error::new("--config", Some(path.display().to_string()), expected);
        let text = text_file::read(path).map_err(refuse)?;
        // Parsed separately for errors with line and column.
        toml::from_str::<toml::Table>(&text).map_err(|error| refuse(format!("the file is not TOML: {error}")))?;
        figment = figment.merge(Toml::string(&text));
    }
    for (name, value) in &sources.environment {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        let key = key.to_ascii_lowercase().replace("__", ".");
        if key.is_empty() || key.split('.').any(str::is_empty) {
            return Err(Error::new(name, Some(value.clone()), "expected ETICKET__ and the path of a key joined by __"));
        }
        // Text that looks like a number may be meant as text; the type of the key decides later.
        let value = match value.parse::<Value>() {
            Ok(value @ (Value::String(..) | Value::Dict(..) | Value::Array(..))) => value,
            _ => Value::from(value.clone()),
        };
        figment = figment.merge((key, value));
    }
    if let Some(data) = &sources.data {
        let refuse = |expected| Error::new("--data", Some(data.display().to_string()), expected);
        let data = match data.to_str() {
            Some("") => return Err(refuse("expected the path of a folder; omit --data for the default")),
            Some(data) => Value::from(data),
            None => return Err(refuse(NOT_UTF_8)),
        };
        figment = figment.merge(("data", data));
    }
    figment.extract().map_err(|error| from_figment(error, &Dict::new(), &[]))
}

fn merge(base: &mut Dict, over: Dict) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Dict(_, base)), Value::Dict(_, over)) => merge(base, over),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

fn take(tree: &mut Dict, keys: &[&str]) -> Dict {
    keys.iter().filter_map(|key| tree.remove_entry(*key)).collect()
}

fn take_section(root: &mut Dict, name: &str) -> Result<Dict, Error> {
    match root.remove(name) {
        None => Ok(Dict::new()),
        Some(Value::Dict(_, section)) => Ok(section),
        Some(other) => Err(Error::new(name, Some(shown(&other)), "expected a section with the keys of this server")),
    }
}

/// Deserializes a tree. Text is converted to the type of its key, because the environment has only text.
fn typed<T: DeserializeOwned>(tree: &Dict, beside: &[&str]) -> Result<T, Error> {
    Figment::from(Serialized::globals(tree)).extract_lossy().map_err(|error| from_figment(error, tree, beside))
}

/// Formats the effective configuration as a valid configuration file, with masked passwords.
pub(crate) fn effective(process: &ProcessSettings, servers: &[(Option<&str>, toml::Table)]) -> Result<String, Error> {
    let unprintable = |error: toml::ser::Error| Error::new("--check-config", None, error.to_string());
    let mut root = table(process)?;
    for (section, server) in servers {
        match section {
            None => root.extend(server.clone()),
            Some(name) => drop(root.insert((*name).to_owned(), toml::Value::Table(server.clone()))),
        }
    }
    hide_passwords(&mut root);
    toml::to_string_pretty(&root).map_err(unprintable)
}

/// Converts a configuration struct to a table.
pub(crate) fn table(value: &impl Serialize) -> Result<toml::Table, Error> {
    toml::Table::try_from(value).map_err(|error| Error::new("--check-config", None, error.to_string()))
}

fn hide_passwords(table: &mut toml::Table) {
    for (_, value) in table.iter_mut() {
        match value {
            toml::Value::Table(table) => hide_passwords(table),
            toml::Value::String(text) => *text = urls::without_password(text),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
