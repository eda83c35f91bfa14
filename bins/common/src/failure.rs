//! How a binary ends when it cannot do its work.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Whose doing a [`Failure`] is; each has its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// What the caller asked for makes no sense: exit code 2.
    Usage,
    /// It makes sense, but cannot be done here and now: exit code 1.
    Refused,
}

/// Why a binary ends: one sentence for the person who started it, an exit code for scripts.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct Failure {
    sentence: String,
    kind: FailureKind,
}

impl Failure {
    /// A flag, variable or file that makes no sense.
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            kind: FailureKind::Usage,
        }
    }

    /// Something that cannot be done here and now.
    pub fn refused(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            kind: FailureKind::Refused,
        }
    }

    /// Something that cannot be done, with the error that says why and everything below that error.
    #[must_use]
    pub fn because(what: &str, error: &dyn Error) -> Self {
        let mut sentence = what.to_owned();
        let mut cause = Some(error);
        while let Some(error) = cause {
            // Some errors repeat their source in their own text.
            let text = error.to_string();
            if !sentence.ends_with(&text) {
                let _ = write!(sentence, ": {text}");
            }
            cause = error.source();
        }
        Self::refused(sentence)
    }

    /// An address that cannot be listened on. `setting` is the flag that names it, such as `--https`.
    #[must_use]
    pub fn listen(setting: &str, address: SocketAddr, error: &io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied if address.port() < 1024 => {
                " (ports below 1024 are for root or CAP_NET_BIND_SERVICE)"
            }
            _ => "",
        };
        Self::refused(format!("{setting}: cannot listen on {address}: {error}{hint}"))
    }

    /// Whose doing it is.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        self.kind
    }

    /// 2 for [`FailureKind::Usage`], 1 for [`FailureKind::Refused`].
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self.kind {
            FailureKind::Usage => 2,
            FailureKind::Refused => 1,
        }
    }
}

/// The exit code of a binary called `name`; a failure is printed on stderr, in one line.
#[must_use]
pub fn finish(name: &str, outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let sentence = failure
                .to_string()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(io::stderr(), "{name}: {sentence}");
            ExitCode::from(failure.code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the database")]
    struct Outer(#[source] io::Error);

    #[test]
    fn every_cause_is_in_the_sentence_once() {
        let inner = io::Error::other("disk full");
        let failure = Failure::because("control cannot start", &Outer(inner));
        assert_eq!(
            failure.to_string(),
            "control cannot start: cannot open the database: disk full"
        );
        assert_eq!(failure.code(), 1);
        let failure = Failure::because("cannot read x: disk full", &io::Error::other("disk full"));
        assert_eq!(failure.to_string(), "cannot read x: disk full");
    }

    #[test]
    fn a_low_port_gets_a_hint() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        let low = Failure::listen("--https", "[::]:443".parse().unwrap(), &error).to_string();
        assert!(
            low.starts_with("--https: cannot listen on [::]:443: ") && low.contains("1024"),
            "{low}"
        );
        let high = Failure::listen("--https", "[::]:8443".parse().unwrap(), &error).to_string();
        assert!(!high.contains("1024"), "{high}");
    }
}
