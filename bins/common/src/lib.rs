//! What the four binaries share, so that each of them is only its command line, its settings and its role.
//!
//! A binary's life, in the order in which these modules serve it:
//! 1. [`process::private_files`]: everything the process writes is for its user only.
//! 2. [`settings`]: flag, then environment, then file, then default; every value knows where it came from.
//! 3. [`logging`]: on stderr, for people on a terminal and for machines elsewhere.
//! 4. [`data_dir`]: one directory per process, locked, with secrets written whole or not at all.
//! 5. [`admin`]: `/healthz`, `/readyz` and `/metrics`; of nodes with what their engine counts (feature `engine`).
//! 6. [`signal`]: drain on the first signal, leave on the second.
//! 7. [`failure`]: one sentence and an exit code.

pub mod admin;
pub mod data_dir;
#[cfg(feature = "engine")]
pub mod engine;
pub mod failure;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod role;
pub mod run;
pub mod settings;
pub mod signal;

pub use admin::{Admin, AdminAddress, AdminSource, Readiness};
pub use data_dir::{DataDir, DataDirError};
pub use failure::{Failure, FailureKind};
pub use metrics::{Exposition, MetricKind};
pub use role::Role;
pub use settings::{Layers, Setting};
pub use signal::{Drained, Signals};
