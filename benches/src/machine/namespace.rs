//! Network namespaces: hosts of their own for those who look at addresses and interfaces.

use std::{
    ffi::OsStr,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Trouble, output};

/// A network namespace that goes away with the value.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    /// Makes one with loopback up. Wants root.
    ///
    /// # Errors
    ///
    /// [`Trouble::Failed`] when the system refuses it.
    pub fn new(name: &str) -> Result<Self, Trouble> {
        let name = format!("kkb{}-{name}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self(name);
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Joins this one (with the address `here`) and another, or the host itself (with `there`), by a cable.
    /// Addresses are written with their prefix length.
    ///
    /// # Errors
    ///
    /// [`Trouble::Failed`] when the system refuses it.
    pub fn join(&self, other: Option<&Self>, here: &str, there: &str) -> Result<(), Trouble> {
        static CABLES: AtomicU32 = AtomicU32::new(1);
        // Names of interfaces have at most 15 bytes.
        let number = CABLES.fetch_add(1, Ordering::Relaxed);
        let near = format!("kkb{}n{number}", std::process::id());
        let far = format!("kkb{}f{number}", std::process::id());
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &far])?;
        ip(&["link", "set", &near, "netns", &self.0])?;
        self.run(&["ip", "address", "add", here, "dev", &near])?;
        self.run(&["ip", "link", "set", &near, "up"])?;
        match other {
            Some(other) => {
                ip(&["link", "set", &far, "netns", &other.0])?;
                other.run(&["ip", "address", "add", there, "dev", &far])?;
                other.run(&["ip", "link", "set", &far, "up"])
            }
            None => {
                ip(&["address", "add", there, "dev", &far])?;
                ip(&["link", "set", &far, "up"])
            }
        }
    }

    /// A program that runs in it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    /// Runs a program in it to its end.
    ///
    /// # Errors
    ///
    /// [`Trouble::Io`] and [`Trouble::Failed`].
    pub fn run(&self, words: &[&str]) -> Result<(), Trouble> {
        let (program, words) = words.split_first().unwrap_or((&"true", &[]));
        output(self.command(program).args(words)).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.0]);
    }
}

fn ip(words: &[&str]) -> Result<(), Trouble> {
    output(Command::new("ip").args(words)).map(drop)
}
