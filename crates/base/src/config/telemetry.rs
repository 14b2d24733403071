//! `telemetry.*`, and the standard variables of OpenTelemetry that stand in for keys that are not set.

use serde::{Deserialize, Serialize};

use super::Error;

/// `telemetry.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Where spans are sent by OTLP over gRPC, such as `http://127.0.0.1:4317`. Without an address no spans are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// The share of traces that begin here and are exported, from 0 to 1. The caller decides for a trace that it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_ratio: Option<f64>,
}

/// The share without a key and a variable.
const DEFAULT_RATIO: f64 = 0.01;

/// Where spans are sent, and which.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub endpoint: String,
    /// The share of traces that are sampled.
    pub ratio: f64,
    /// Whether the flag of a caller's `traceparent` decides for its trace.
    pub parent_based: bool,
}

impl TelemetryConfig {
    /// Whether no key is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what is exported, from the keys and, for keys that are not set, from the variables of OpenTelemetry;
    /// `None` if nothing is.
    ///
    /// # Errors
    /// The first key or variable with an invalid value.
    pub fn export(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Export>, Error> {
        let variable = |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let key = ("telemetry.otlp_endpoint", self.otlp_endpoint.clone());
        let variables = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let given = std::iter::once(key).chain(variables.map(|name| (name, variable(name))));
        let (ratio, parent_based) = self.sampler(&variable)?;
        let Some((name, endpoint)) = given.into_iter().find_map(|(name, value)| Some((name, value?))) else {
            return Ok(None);
        };
        check_endpoint(name, &endpoint)?;
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            if let Some(value) = variable(name).filter(|value| value != "grpc") {
                return Err(Error::new(name, Some(value), "expected grpc; OTLP over HTTP is not supported"));
            }
        }
        let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        Ok((!disabled).then_some(Export { endpoint, ratio, parent_based }))
    }

    /// Returns the share of sampled traces, and whether the flag of the parent decides first.
    fn sampler(&self, variable: &impl Fn(&str) -> Option<String>) -> Result<(f64, bool), Error> {
        if let Some(ratio) = self.sample_ratio {
            return Ok((within_one("telemetry.sample_ratio", ratio, &ratio.to_string())?, true));
        }
        const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        let argument = || match variable(ARGUMENT) {
            // The default of the specification.
            None => Ok(1.0),
            Some(text) => within_one(ARGUMENT, text.parse().unwrap_or(f64::NAN), &text),
        };
        let Some(name) = variable(SAMPLER) else { return Ok((DEFAULT_RATIO, true)) };
        let (sampler, parent_based) = match name.strip_prefix("parentbased_") {
            Some(root) => (root, true),
            None => (name.as_str(), false),
        };
        let ratio = match sampler {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => argument()?,
            _ => {
                let expected = "expected always_on, always_off or traceidratio, or one of them after parentbased_";
                return Err(Error::new(SAMPLER, Some(name), expected));
            }
        };
        Ok((ratio, parent_based))
    }
}

fn within_one(key: &str, ratio: f64, text: &str) -> Result<f64, Error> {
    if (0.0..=1.0).contains(&ratio) {
        return Ok(ratio);
    }
    Err(Error::new(key, Some(text.to_owned()), "expected a number from 0 to 1"))
}

fn check_endpoint(key: &str, endpoint: &str) -> Result<(), Error> {
    let uri = endpoint.parse::<http::Uri>().ok();
    let fits = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.path().len() <= 1
    });
    if fits {
        return Ok(());
    }
    let expected = "expected http://HOST:PORT or https://HOST:PORT, as http://127.0.0.1:4317, without a path";
    Err(Error::new(key, Some(endpoint.to_owned()), expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(config: &str, variables: &[(&str, &str)]) -> Result<Option<Export>, Error> {
        let config: TelemetryConfig = toml::from_str(config).expect("valid");
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        config.export(find)
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    #[test]
    fn keys_come_before_variables_and_variables_before_defaults() {
        assert_eq!(export("", &[]), Ok(None));
        assert_eq!(export("sample_ratio = 1.0", &[]), Ok(None), "without an address nothing is exported");
        let by_variable = export("", &[ENDPOINT]).expect("valid").expect("an export");
        assert_eq!(by_variable, Export { endpoint: ENDPOINT.1.to_owned(), ratio: 0.01, parent_based: true });
        let both =
            export("otlp_endpoint = 'https://a:1'\nsample_ratio = 0.5", &[ENDPOINT, ("OTEL_TRACES_SAMPLER", "x")]);
        assert_eq!(both, Ok(Some(Export { endpoint: "https://a:1".to_owned(), ratio: 0.5, parent_based: true })));
        let traces = export("", &[ENDPOINT, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:1")]);
        assert_eq!(traces.expect("valid").expect("an export").endpoint, "http://b:1");
    }

    #[test]
    fn the_samplers_of_the_specification_are_known() {
        for (sampler, argument, ratio, parent_based) in [
            ("always_on", "", 1.0, false),
            ("parentbased_always_off", "", 0.0, true),
            ("traceidratio", "0.25", 0.25, false),
            ("parentbased_traceidratio", "", 1.0, true),
        ] {
            let variables = [ENDPOINT, ("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)];
            let export = export("", &variables).expect("valid").expect("an export");
            assert_eq!((export.ratio, export.parent_based), (ratio, parent_based), "{sampler}");
        }
    }

    #[test]
    fn the_export_can_be_turned_off() {
        for (name, value) in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(export("", &[ENDPOINT, (name, value)]), Ok(None), "{name}");
        }
    }

    #[test]
    fn wrong_values_are_named() {
        for (config, variables, key) in [
            ("otlp_endpoint = 'collector:4317'", &[][..], "telemetry.otlp_endpoint"),
            ("otlp_endpoint = 'http://collector:4317/v1/traces'", &[], "telemetry.otlp_endpoint"),
            ("otlp_endpoint = 'http://a:1'\nsample_ratio = 1.5", &[], "telemetry.sample_ratio"),
            ("sample_ratio = nan", &[], "telemetry.sample_ratio"),
            ("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense")], "OTEL_EXPORTER_OTLP_ENDPOINT"),
            ("", &[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")], "OTEL_EXPORTER_OTLP_PROTOCOL"),
            ("", &[ENDPOINT, ("OTEL_TRACES_SAMPLER", "jaeger_remote")], "OTEL_TRACES_SAMPLER"),
            (
                "",
                &[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")],
                "OTEL_TRACES_SAMPLER_ARG",
            ),
        ] {
            assert_eq!(export(config, variables).expect_err(key).key(), key);
        }
    }
}
