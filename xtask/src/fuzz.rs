//! `cargo xtask fuzz`: runs the tests with arbitrary input of clients for longer than `cargo xtask test` does.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{checkout::Checkout, command};

/// The tests, by the names that `cargo test` knows. An input that fails is kept in `proptest-regressions` of its crate, and
/// each later run begins with it.
const TARGETS: [&str; 5] = [
    "tests::fuzz::a_json_body_is_a_message_or_names_what_is_wrong",
    "tests::fuzz::a_rest_request_is_a_message_or_names_what_is_wrong",
    "tests::fuzz::an_envelope_is_one_whole_message_or_an_error",
    "tests::fuzz::only_the_token_that_was_signed_is_accepted",
    "protocol::base64_stream::tests::arbitrary_text_does_not_panic",
];

/// Inputs of one round. A round takes seconds, so the time given is kept.
const ROUND: u32 = 20_000;

/// Runs each target for so many minutes, or at least once. Each round has new random inputs.
pub(crate) fn run(checkout: &Checkout, minutes: u64) -> Result<()> {
    for target in TARGETS {
        let (begin, mut rounds) = (Instant::now(), 0_u64);
        while rounds == 0 || begin.elapsed() < Duration::from_secs(60 * minutes) {
            let mut test = checkout.cargo();
            test.args(["test", "--workspace", "--lib", "--locked", "--", "--exact", target]);
            let output = command::captured(test.env("PROPTEST_CASES", ROUND.to_string()))?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success(), "{target} failed: {}\n{text}", String::from_utf8_lossy(&output.stderr));
            ensure!(text.contains("test result: ok. 1 passed"), "there is no test {target}");
            rounds += 1;
        }
        println!("{target}: {} inputs in {:.0?}", rounds * u64::from(ROUND), begin.elapsed());
    }
    Ok(())
}
