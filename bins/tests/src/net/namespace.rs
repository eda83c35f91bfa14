//! One network namespace.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{ip, run};
use crate::component;

/// Names begin with this and the id of the process that made them, so that what a killed test run leaves behind is
/// found and removed by the next.
const PREFIX: &str = "kkm-";

/// A network namespace with loopback up. The last clone removes it.
#[derive(Debug, Clone)]
pub struct Namespace {
    owned: Arc<Owned>,
}

#[derive(Debug)]
struct Owned {
    name: String,
}

impl Namespace {
    /// A new one; `label` is part of its name.
    ///
    /// # Panics
    ///
    /// The system refuses, for example because this is not root.
    #[must_use]
    pub fn new(label: &str) -> Self {
        static SWEPT: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(sweep);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self {
            owned: Arc::new(Owned { name }),
        };
        ip(&["-netns", namespace.name(), "link", "set", "lo", "up"]);
        namespace
    }

    /// What `ip netns` calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.owned.name
    }

    /// A program that will run in it.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(component::path("ip").expect("iproute2 is there"));
        // `ip` replaces itself by the program, so the process id stays.
        command.args(["netns", "exec", self.name()]).arg(program);
        command
    }

    /// Does something on a thread in this namespace.
    ///
    /// # Panics
    ///
    /// The work panics, or the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// [`Self::run`] with a tokio runtime.
    ///
    /// # Panics
    ///
    /// The work panics, or the namespace cannot be entered.
    pub fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let tasks = tokio::task::LocalSet::new();
            tasks.block_on(&runtime, work())
        })
    }

    /// Moves the calling thread into it, for the rest of the thread's life.
    pub(crate) fn enter(&self) {
        let file = fs::File::open(Path::new("/var/run/netns").join(self.name())).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Writes a kernel setting of this namespace; `name` as below `/proc/sys`.
    pub(super) fn sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys").join(name);
        self.run(|| fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }

    /// Loads a ruleset into its packet filter.
    pub(super) fn nft(&self, rules: &str) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(rules.as_bytes()).unwrap();
        let nft = component::path("nft").expect("nftables is there");
        run(self.command(&nft).arg("--file").arg(file.path()));
    }

    pub(super) fn resolves(&self, names: &[(&str, IpAddr)]) {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for (name, address) in names {
            let _ = writeln!(text, "{address} {name}");
        }
        // `ip netns exec` puts the files of this directory over those in /etc.
        let directory = etc(self.name());
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("hosts"), text).unwrap();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn etc(name: &str) -> PathBuf {
    Path::new("/etc/netns").join(name)
}

/// Removes what can be removed; this also runs while a test panics.
fn remove(name: &str) {
    let Some(ip) = component::path("ip") else { return };
    let _ = Command::new(ip)
        .args(["netns", "delete", name])
        .stderr(Stdio::null())
        .status();
    let _ = fs::remove_dir_all(etc(name));
}

/// Removes namespaces whose process is gone, with the processes that are still in them.
fn sweep() {
    let Ok(entries) = fs::read_dir("/var/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|owner| owner.parse::<u32>().ok()) else {
            continue;
        };
        if Path::new(&format!("/proc/{owner}")).exists() {
            continue;
        }
        let Some(ip) = component::path("ip") else { return };
        if let Ok(pids) = Command::new(ip).args(["netns", "pids", &name]).output() {
            let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
            for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        remove(&name);
    }
}
