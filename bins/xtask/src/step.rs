//! Named and timed steps; the first that fails ends the run.

use std::fmt;
use std::io;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Why a run ended.
#[derive(Debug)]
pub(crate) enum Error {
    /// The command line makes no sense.
    Usage(String),
    /// A program could not be started.
    Start { program: String, source: io::Error },
    /// A program said no.
    Failed { step: String, status: ExitStatus },
    /// A rule of the project does not hold, or a component cannot be had.
    Refused(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Refused(text) => f.write_str(text),
            Self::Start { program, source } => write!(f, "cannot start {program}: {source}"),
            Self::Failed { step, status } => write!(f, "{step}: {status}"),
        }
    }
}

/// What has been done so far, and how long each part took.
pub(crate) struct Steps {
    done: Vec<(String, Result<Duration, Duration>)>,
    not_run: Vec<String>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self {
            done: Vec::new(),
            not_run: Vec::new(),
        }
    }

    /// Does one step and remembers its time.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        println!("\n== {name}");
        let start = Instant::now();
        let outcome = work();
        let took = start.elapsed();
        self.done.push((
            name.to_owned(),
            if outcome.is_ok() { Ok(took) } else { Err(took) },
        ));
        outcome
    }

    /// A step that is one program; its output goes to the terminal.
    pub(crate) fn program(&mut self, name: &str, command: &mut Command) -> Result<(), Error> {
        self.step(name, || {
            println!("   {}", shown(command));
            let status = command.status().map_err(|source| start_error(command, source))?;
            if status.success() {
                Ok(())
            } else {
                Err(Error::Failed {
                    step: name.to_owned(),
                    status,
                })
            }
        })
    }

    /// Says that something was left out, now and in the summary.
    pub(crate) fn not_run(&mut self, what: &str, why: &str) {
        let line = format!("{what} not run: {why}");
        println!("\n== {line}");
        self.not_run.push(line);
    }

    /// Prints the table of steps.
    pub(crate) fn summary(&self) {
        if self.done.is_empty() {
            return;
        }
        println!("\n== summary");
        let mut total = Duration::ZERO;
        for (name, outcome) in &self.done {
            let (mark, took) = match outcome {
                Ok(took) => ("ok    ", took),
                Err(took) => ("FAILED", took),
            };
            total += *took;
            println!("{mark} {:>7.1} s  {name}", took.as_secs_f64());
        }
        println!("       {:>7.1} s  in all", total.as_secs_f64());
        for line in &self.not_run {
            println!("{line}");
        }
    }
}

/// What a program printed on stdout, when it succeeded.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let output = command.output().map_err(|source| start_error(command, source))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Err(Error::Failed {
        step: shown(command),
        status: output.status,
    })
}

fn start_error(command: &Command, source: io::Error) -> Error {
    Error::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    }
}

fn shown(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            line += &format!("{}={} ", name.to_string_lossy(), value.to_string_lossy());
        }
    }
    line += &command.get_program().to_string_lossy();
    for argument in command.get_args() {
        line += " ";
        line += &argument.to_string_lossy();
    }
    line
}
