//! Records the steps of a run and their durations, and prints them as a table.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::checkout::Checkout;

/// The file where `.ci/run` finds the steps of all commands; each command appends to it.
const FILE: &str = "xtask-steps.txt";

/// The steps of a command. The table is printed on drop, so that a failed run shows it too.
pub(crate) struct Steps {
    command: &'static str,
    file: PathBuf,
    done: Vec<Step>,
}

struct Step {
    name: String,
    took: Duration,
    passed: bool,
}

impl Steps {
    pub(crate) fn new(checkout: &Checkout, command: &'static str) -> Self {
        Self { command, file: checkout.target().join(FILE), done: Vec::new() }
    }

    /// Runs one step and records its duration, whether it passes or fails.
    pub(crate) fn run<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let outcome = step();
        self.add(name, begin.elapsed(), outcome.is_ok());
        outcome
    }

    /// Records a part of a step that was timed elsewhere.
    pub(crate) fn add(&mut self, name: &str, took: Duration, passed: bool) {
        self.done.push(Step { name: name.to_owned(), took, passed });
    }

    fn table(&self) -> String {
        let mut table = String::new();
        for Step { name, took, passed } in &self.done {
            let failed = if *passed { "" } else { "  FAILED" };
            // Writing to a `String` cannot fail.
            let _ = writeln!(table, "{:>8.1} s  {} {name}{failed}", took.as_secs_f64(), self.command);
        }
        table
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        let table = self.table();
        eprint!("\n{table}");
        let append = fs::OpenOptions::new().create(true).append(true).open(&self.file);
        // The table is informative, so an error such as a full disk does not fail the run.
        if let Err(error) = append.and_then(|mut file| file.write_all(table.as_bytes())) {
            eprintln!("xtask: cannot write {}: {error}", self.file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_in_the_table_and_its_error_is_returned() {
        let folder = std::env::temp_dir();
        let file = folder.join(format!("xtask-steps-{}.txt", std::process::id()));
        let mut steps = Steps { command: "test", file: file.clone(), done: Vec::new() };
        assert_eq!(steps.run("one", || Ok(7)).expect("passes"), 7);
        assert!(steps.run("two", || -> Result<()> { anyhow::bail!("broken") }).is_err());
        drop(steps);
        let written = fs::read_to_string(&file).expect("the table was written");
        fs::remove_file(&file).expect("it can be removed");
        assert!(written.contains(" s  test one\n") && written.contains(" s  test two  FAILED\n"), "{written}");
    }
}
