//! `backup` and `restore`.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use kakuremichi_bins_common::{DataDir, Failure, run};
use kakuremichi_control::backup;
use kakuremichi_control_bin::Files;
use kakuremichi_core::secret::Secret;

use super::secret;

/// The two commands, with the arguments that say where Control is.
pub(super) fn commands(place: &[Arg]) -> [Command; 2] {
    let file = Arg::new("file")
        .value_name("FILE")
        .required(true)
        .value_parser(value_parser!(PathBuf));
    let passphrase = [
        Arg::new("passphrase")
            .long("passphrase")
            .value_name("PASSPHRASE")
            .env("KAKUREMICHI_PASSPHRASE")
            .hide_env_values(true)
            .help("What protects the backup; other users of this machine can see it here"),
        Arg::new("passphrase-file")
            .long("passphrase-file")
            .value_name("FILE")
            .env("KAKUREMICHI_PASSPHRASE_FILE")
            .help("A file that holds it, instead of --passphrase"),
    ];
    let replace = Arg::new("replace")
        .long("replace")
        .action(ArgAction::SetTrue)
        .help("Everything that is there goes, if something is there");
    let backup = Command::new("backup")
        .about("Write everything that Control is into one encrypted file; Control may be running")
        .arg(file.clone().help("The file, which must not be there yet"))
        .args(place)
        .args(passphrase.clone());
    let restore = Command::new("restore")
        .about(
            "Make Control what a backup says, on whichever database; no Control may be running on it meanwhile",
        )
        .arg(file.help("The file that `backup` wrote"))
        .args(place)
        .args(passphrase)
        .arg(replace);
    [backup, restore]
}

/// Runs `backup`.
pub(super) async fn make(matches: &ArgMatches, data: &Path) -> Result<(), Failure> {
    let path = file(matches)?;
    let passphrase = passphrase(matches)?;
    let files = Files::new(DataDir::visit(data)?);
    let store = files.visit_store(database(matches)?.as_ref()).await?;
    let failed =
        |error: &dyn std::error::Error| Failure::because(&format!("cannot write {}", path.display()), error);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    // For this user only, and under its name only when it is whole.
    let partial = tempfile::NamedTempFile::new_in(directory).map_err(|error| failed(&error))?;
    let mut out = BufWriter::new(partial);
    backup::write(&store, &files.to_back_up()?, &passphrase, &mut out)
        .await
        .map_err(|error| failed(&error))?;
    out.flush().map_err(|error| failed(&error))?;
    let partial = out.into_inner().map_err(|error| failed(error.error()))?;
    partial.as_file().sync_all().map_err(|error| failed(&error))?;
    partial
        .persist_noclobber(path)
        .map_err(|error| failed(&error.error))?;
    let made = File::open(directory).and_then(|directory| directory.sync_all());
    made.map_err(|error| failed(&error))?;
    run::print(&format!("{}\n", path.display()))
}

/// Runs `restore`.
pub(super) async fn restore(matches: &ArgMatches, data: &Path) -> Result<(), Failure> {
    let path = file(matches)?;
    let passphrase = passphrase(matches)?;
    let database = database(matches)?;
    let replace = matches.get_flag("replace");
    let failed = |error: &dyn std::error::Error| {
        Failure::because(&format!("cannot restore {}", path.display()), error)
    };
    let input = File::open(path).map_err(|error| failed(&error))?;
    let files = Files::new(DataDir::open(data)?);
    if !replace && !files.to_back_up()?.is_empty() {
        return Err(Failure::refused(format!(
            "{} holds the keys of a Control: --replace puts those of the backup in their place",
            data.display()
        )));
    }
    let mut store = files.store(database.as_ref()).await?;
    let restored = backup::restore(&mut store, &passphrase, replace, BufReader::new(input))
        .await
        .map_err(|error| failed(&error))?;
    files.put_back(&restored, database.is_some())
}

fn file(matches: &ArgMatches) -> Result<&PathBuf, Failure> {
    matches
        .get_one("file")
        .ok_or_else(|| Failure::usage("FILE is missing"))
}

fn passphrase(matches: &ArgMatches) -> Result<Secret<String>, Failure> {
    secret(matches, "passphrase", "passphrase-file")?.ok_or_else(|| {
        Failure::usage("a backup has a passphrase: give --passphrase-file or KAKUREMICHI_PASSPHRASE")
    })
}

fn database(matches: &ArgMatches) -> Result<Option<Secret<String>>, Failure> {
    secret(matches, "database", "database-file")
}
