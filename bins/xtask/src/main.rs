//! The project's chores: `cargo xtask setup`, `test`, `check`, `ci` and `compare`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks on its terminal"
)]

mod check;
mod compare;
mod component;
mod setup;
mod step;
mod test;
mod workspace;

use std::process::ExitCode;

use component::Need;
use step::{Error, Steps};

const HELP: &str = "\
cargo xtask COMMAND [--benches] [--without NAME]...
cargo xtask compare [ARGUMENT]...

  setup    install what the tests need, each only when it is missing
  test     setup, then every test: unit, doc, integration, end to end, fuzz corpora
  check    setup of the tools, then fmt, clippy, docs, cargo deny and the dependency rules
  ci       check, then test
  compare  setup --benches, a release build, then the comparison, which gets the arguments

  --benches        setup: also what the benches measure against
  --without NAME   do without this component; the tests that need it are left out and say so";

fn main() -> ExitCode {
    let mut steps = Steps::new();
    let outcome = parse(std::env::args().skip(1)).and_then(|command| run(&command, &mut steps));
    steps.summary();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            if matches!(error, Error::Usage(_)) {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verb {
    Help,
    Setup,
    Test,
    Check,
    Ci,
    Compare,
}

#[derive(Debug, PartialEq, Eq)]
struct Command {
    verb: Verb,
    benches: bool,
    /// What the comparison gets.
    arguments: Vec<String>,
    /// Names of components, each known to `component::ALL`.
    without: Vec<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, Error> {
    let verb = match words.next().as_deref() {
        Some("setup") => Verb::Setup,
        Some("test") => Verb::Test,
        Some("check") => Verb::Check,
        Some("ci") => Verb::Ci,
        Some("compare") => Verb::Compare,
        Some("help" | "--help" | "-h") => Verb::Help,
        Some(other) => return Err(Error::Usage(format!("no command `{other}`\n\n{HELP}"))),
        None => return Err(Error::Usage(format!("a command is missing\n\n{HELP}"))),
    };
    let mut command = Command {
        verb,
        benches: false,
        arguments: Vec::new(),
        without: Vec::new(),
    };
    if command.verb == Verb::Compare {
        command.arguments = words.collect();
        return Ok(command);
    }
    while let Some(word) = words.next() {
        match word.as_str() {
            "--benches" if command.verb == Verb::Setup => command.benches = true,
            "--without" => {
                let name = words
                    .next()
                    .ok_or_else(|| Error::Usage("--without wants a name".to_owned()))?;
                if component::ALL.iter().all(|component| component.name != name) {
                    let names: Vec<_> = component::ALL.iter().map(|component| component.name).collect();
                    let names = names.join(", ");
                    return Err(Error::Usage(format!(
                        "--without {name}: no such component; there are {names}"
                    )));
                }
                command.without.push(name);
            }
            other => return Err(Error::Usage(format!("no flag `{other}` here\n\n{HELP}"))),
        }
    }
    Ok(command)
}

fn run(command: &Command, steps: &mut Steps) -> Result<(), Error> {
    let without = &command.without;
    match command.verb {
        Verb::Help => {
            println!("{HELP}");
            Ok(())
        }
        Verb::Setup => {
            setup::run(steps, Need::Tests, without)?;
            setup::run(steps, Need::Checks, without)?;
            if command.benches {
                setup::run(steps, Need::Benches, without)
            } else {
                Ok(())
            }
        }
        Verb::Test => test::run(steps, without),
        Verb::Check => check::run(steps, without),
        Verb::Compare => compare::run(steps, &command.arguments),
        Verb::Ci => {
            check::run(steps, without)?;
            test::run(steps, without)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, Error> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_component_is_left_out_by_its_name_only() {
        let command = parsed("test --without wireguard-go").unwrap();
        assert_eq!(command.without, ["wireguard-go"]);
        let error = parsed("test --without wireguard").unwrap_err().to_string();
        assert!(error.contains("wireguard-go"), "{error}");
    }

    #[test]
    fn an_unknown_word_is_a_usage_error() {
        for line in ["", "tests", "test --benches", "ci fast", "setup --without"] {
            assert!(matches!(parsed(line), Err(Error::Usage(_))), "{line}");
        }
    }
}
