//! Configuration keys that only the pricing service accepts.

use std::{path::PathBuf, time::Duration};

use eticket_base::{
    config::{Error, file_path, within},
    doctor::{Check, Group},
};
use eticket_service::config::AuditConfig;
use serde::{Deserialize, Serialize};

use crate::{domain::Policy, policy_file};

/// The configuration of the pricing service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub policy: PolicyConfig,
    pub audit: AuditConfig,
}

/// Section `policy`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Path of the YAML file with the policy; `None` for the embedded policy.
    #[serde(default, deserialize_with = "file_path::optional", skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Interval between checks of the file for changes, in milliseconds.
    pub reload_interval_ms: u64,
    /// How long the file must stay unchanged before it is adopted, in milliseconds. This prevents the use of a file
    /// that is still being written.
    pub settle_ms: u64,
}

impl PolicyConfig {
    pub fn reload_interval(&self) -> Duration {
        Duration::from_millis(self.reload_interval_ms)
    }

    pub fn settle(&self) -> Duration {
        Duration::from_millis(self.settle_ms)
    }

    /// Reads the policy from the file, or returns the embedded policy.
    ///
    /// # Errors
    /// If the file cannot be read or contains no valid policy.
    pub fn read(&self) -> Result<Policy, Error> {
        let wrong = |problem: String| {
            let name = self.file.as_ref().map(|file| file.display().to_string());
            Error::new("policy.file", name, problem)
        };
        let text = match &self.file {
            None => policy_file::DEFAULT.to_owned(),
            Some(file) => policy_file::read(file).map_err(|error| {
                wrong(format!("expected a readable file with a pricing policy in YAML, but reading it failed: {error}"))
            })?,
        };
        policy_file::parse(&text).map_err(|error| wrong(error.to_string()))
    }
}

impl PolicyConfig {
    /// Checks the policy, for `doctor`. Its time zone is in the time zone database of this program, or it has none.
    pub fn examine(&self) -> Check {
        const NAME: &str = "pricing-policy";
        let file =
            self.file.as_ref().map_or_else(|| "the embedded policy".to_owned(), |file| file.display().to_string());
        match self.read() {
            Ok(policy) => {
                let (version, zone) = (policy.version(), policy.business_time_zone());
                Check::ok(Group::Policy, NAME, format!("{file}: version {version}, business time zone {zone}"))
            }
            Err(error) => Check::fail(Group::Policy, NAME, error.to_string(), "correct the file of policy.file"),
        }
    }
}

impl Config {
    /// Validates the values.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(&self) -> Result<(), Error> {
        within("policy.reload_interval_ms", self.policy.reload_interval_ms, 10, 3_600_000)?;
        self.audit.check()?;
        within("policy.settle_ms", self.policy.settle_ms, 10, 3_600_000)?;
        self.policy.read().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(file: Option<PathBuf>) -> Config {
        let audit = AuditConfig { rows_per_second: 200, confirm_after_ms: 10_000 };
        Config { policy: PolicyConfig { file, reload_interval_ms: 2_000, settle_ms: 5_000 }, audit }
    }

    #[test]
    fn the_check_of_the_configuration_reads_the_policy_file() {
        assert!(config(None).check().is_ok());
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("policy.yaml");
        let missing = config(Some(file.clone())).check().expect_err("no such file").to_string();
        assert!(missing.contains("policy.file = ") && missing.contains("policy.yaml"), "{missing}");
        fs::write(&file, "version: 1\nbase_price: 10 KRW\nrules: [{rule_id: a, percent: 101}]\n").expect("written");
        let wrong = config(Some(file.clone())).check().expect_err("not a policy").to_string();
        assert!(wrong.contains("line 3: rule a: percent: expected 1 to 100"), "{wrong}");
        fs::write(&file, "version: 3\nbase_price: 10 KRW\n").expect("written");
        assert_eq!(config(Some(file)).policy.read().expect("a policy").version(), 3);
    }

    #[test]
    fn an_empty_path_is_refused_and_a_missing_one_is_none() {
        let audit = "audit: {rows_per_second: 200, confirm_after_ms: 10000}";
        let read = |text: &str| serde_norway::from_str::<Config>(&format!("{audit}\n{text}"));
        assert!(read("policy: {reload_interval_ms: 10, settle_ms: 10}").expect("enough").policy.file.is_none());
        let error = read("policy: {reload_interval_ms: 10, settle_ms: 10, file: ''}").expect_err("empty").to_string();
        assert!(error.contains("expected a path"), "{error}");
    }
}
