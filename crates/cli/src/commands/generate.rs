//! `completion` and `man`: made from the command line itself, with the commands that run and operate servers.

use std::{fs, io::Write, path::Path};

use clap::Command;
use clap_complete::Shell;

use crate::{Outcome, args, error::Error};

/// Prints the script.
pub(super) fn completion(shell: Shell, servers: Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut whole(servers), "eticket", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script)?;
    Ok(out.flush()?)
}

/// Writes `eticket.1` and a page for each command.
pub(super) fn man(folder: &Path, servers: Command) -> Outcome {
    let failed = |error| Error::usage(format!("{} cannot be written: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(whole(servers), folder).map_err(failed)?;
    let mut out = std::io::stdout().lock();
    Ok(writeln!(
        out,
        "Man pages are in {}. Read one with: man {}",
        folder.display(),
        folder.join("eticket.1").display()
    )?)
}

/// The whole command line. The flags of servers are global; here they belong to the commands of servers, because the commands of
/// clients do not take them.
fn whole(servers: Command) -> Command {
    let global: Vec<_> = servers.get_arguments().filter(|flag| flag.is_global_set()).cloned().collect();
    let servers = servers.mut_subcommands(|command| command.args(global.clone()));
    let servers = servers.mut_args(|flag| flag.global(false));
    servers.subcommands(args::command().get_subcommands().cloned())
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn servers() -> Command {
        let config = Arg::new("config").long("config").global(true);
        Command::new("eticket").arg(config).subcommand(Command::new("serve"))
    }

    #[test]
    fn every_shell_completes_commands_and_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut whole(servers()), "eticket", &mut script);
            let script = String::from_utf8(script).expect("a text");
            for word in ["serve", "reserve", "all-matching", "settled"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().expect("a folder");
        man(folder.path(), servers()).expect("written");
        for page in ["eticket.1", "eticket-reserve.1", "eticket-serve.1"] {
            let text = fs::read_to_string(folder.path().join(page)).expect(page);
            assert!(text.contains(".TH"), "{page}");
        }
        let reserve = fs::read_to_string(folder.path().join("eticket-reserve.1")).expect("a page");
        assert!(reserve.contains("Example") && !reserve.contains(r"\-\-config"), "{reserve}");
        let serve = fs::read_to_string(folder.path().join("eticket-serve.1")).expect("a page");
        assert!(serve.contains(r"\-\-config"), "{serve}");
    }
}
