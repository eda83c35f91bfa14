//! The command line.

mod audit;
mod backup;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use kakuremichi_bins_common::{DataDir, Failure, Layers, Role, run, settings};
use kakuremichi_control::{
    Control,
    service::{ApiKeyDraft, TokenDraft, parse_email},
};
use kakuremichi_control_bin::{Config, ControlRole, Files, SETTINGS, Settings};
use kakuremichi_core::{
    model::{DeclareScope, Labels, Permission, Permissions, Role as NodeRole, parse_label},
    name::{HostPattern, Label},
    net::PortRange,
    secret::Secret,
    time::Timestamp,
};

/// Runs the command that the arguments name.
pub(crate) fn run() -> Result<(), Failure> {
    let layers = Layers::new(Role::Control, SETTINGS);
    let matches = settings::arguments(command(&layers))?;
    match matches.subcommand() {
        Some(("run", matches)) => run::role(&layers, matches, async |settings: Settings, common| {
            let config = Config::try_from(settings)?;
            ControlRole::play(config, common).await
        }),
        Some(("token", matches)) => match matches.subcommand() {
            Some(("create", matches)) => run::runtime()?.block_on(create_token(matches)),
            _ => Err(Failure::usage("`token` is followed by `create`")),
        },
        Some(("user", matches)) => match matches.subcommand() {
            Some(("recover", matches)) => run::runtime()?.block_on(recover_user(matches)),
            _ => Err(Failure::usage("`user` is followed by `recover`")),
        },
        Some(("api-key", matches)) => match matches.subcommand() {
            Some(("create", matches)) => run::runtime()?.block_on(create_api_key(matches)),
            _ => Err(Failure::usage("`api-key` is followed by `create`")),
        },
        Some(("audit", matches)) => match matches.subcommand() {
            Some(("verify", matches)) => run::runtime()?.block_on(audit::verify(matches)),
            Some(("export", matches)) => run::runtime()?.block_on(audit::export(matches)),
            _ => Err(Failure::usage("`audit` is followed by `verify` or `export`")),
        },
        Some(("backup", matches)) => run::runtime()?.block_on(backup::make(matches, data(matches)?)),
        Some(("restore", matches)) => run::runtime()?.block_on(backup::restore(matches, data(matches)?)),
        _ => Err(Failure::usage(
            "a command is missing: run, token create, api-key create, user recover, audit verify, audit export, backup or restore",
        )),
    }
}

fn command(layers: &Layers) -> Command {
    let data = Arg::new("data")
        .long("data")
        .value_name("DIR")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help("Control's data directory");
    let database = [
        Arg::new("database")
            .long("database")
            .value_name("URL")
            .env("KAKUREMICHI_DATABASE")
            .hide_env_values(true)
            .help("Control's database, when it is a PostgreSQL server's"),
        Arg::new("database-file")
            .long("database-file")
            .value_name("FILE")
            .env("KAKUREMICHI_DATABASE_FILE")
            .help("A file that holds it, instead of --database"),
    ];
    let name = |default: &'static str| {
        Arg::new("name")
            .long("name")
            .value_name("NAME")
            .default_value(default)
            .help("What it is for")
    };
    let expires = Arg::new("expires-in")
        .long("expires-in")
        .value_name("SECONDS")
        .value_parser(value_parser!(u64).range(1..))
        .help("When it ends to be of use; never when left out");
    let list = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .action(ArgAction::Append)
            .help(help)
    };
    let place = [std::slice::from_ref(&data), database.as_slice()].concat();
    let token = Command::new("create")
        .about("Make an enrolment token, and print it this once")
        .arg(data.clone())
        .args(database.clone())
        .arg(
            Arg::new("role")
                .long("role")
                .value_name("agent|gateway")
                .required(true)
                .value_parser(["agent", "gateway"]),
        )
        .arg(
            Arg::new("uses")
                .long("uses")
                .value_name("NUMBER")
                .value_parser(value_parser!(u32).range(1..))
                .default_value("1")
                .conflicts_with("unlimited")
                .help("How many nodes may enrol with it"),
        )
        .arg(
            Arg::new("unlimited")
                .long("unlimited")
                .action(ArgAction::SetTrue)
                .help("Any number of nodes may enrol"),
        )
        .arg(list(
            "allow-host",
            "PATTERN",
            "A host that the agents may declare services for, such as *.example.net",
        ))
        .arg(list(
            "allow-port",
            "RANGE",
            "A port, or a range, that the agents may declare TCP services for",
        ))
        .arg(
            Arg::new("approval")
                .long("approval")
                .action(ArgAction::SetTrue)
                .help("Each node waits until somebody approves it"),
        )
        .arg(list(
            "label",
            "KEY=VALUE",
            "A label that the nodes begin with, such as env=prod",
        ))
        .arg(expires.clone())
        .arg(name("token"));
    let recover = Command::new("recover")
        .about("Print a link with which a user sets a new password; it is good once, for an hour")
        .arg(data.clone())
        .args(database.clone())
        .arg(
            Arg::new("email")
                .value_name("ADDRESS")
                .required(true)
                .help("The address of the account"),
        );
    let key = Command::new("create")
        .about("Make an API key, and print it this once")
        .arg(data)
        .arg(list(
            "permission",
            "PERMISSION",
            "What it may do, such as services.read; everything when left out",
        ))
        .args(database)
        .arg(expires)
        .arg(name("api-key"));
    let group = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .subcommand_required(true)
            .arg_required_else_help(true)
    };
    Command::new("kakuremichi-control")
        .about("The control plane of kakuremichi")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(layers.flags(Command::new("run").about("Run Control until it is told to end")))
        .subcommand(group("token", "Enrolment tokens").subcommand(token))
        .subcommand(group("api-key", "Credentials for the REST API").subcommand(key))
        .subcommand(group("user", "People with accounts").subcommand(recover))
        .subcommand(group("audit", "Who did what").subcommands(audit::commands(&place)))
        .subcommands(backup::commands(&place))
}

async fn create_token(matches: &ArgMatches) -> Result<(), Failure> {
    let draft = TokenDraft {
        name: label(matches)?,
        role: match matches.get_one::<String>("role").map(String::as_str) {
            Some("gateway") => NodeRole::Gateway,
            _ => NodeRole::Agent,
        },
        uses: matches
            .get_one("uses")
            .copied()
            .filter(|_| !matches.get_flag("unlimited")),
        expires: expiry(matches),
        declare: DeclareScope {
            hosts: parsed::<HostPattern>(matches, "allow-host")?,
            ports: parsed::<PortRange>(matches, "allow-port")?,
        },
        approval: matches.get_flag("approval"),
        labels: labels(matches)?,
    };
    let control = offline(matches).await?;
    let actor = control
        .use_cases()
        .control()
        .await
        .map_err(|error| Failure::because("token create", &error))?;
    let made = control
        .use_cases()
        .create_token(&actor, draft)
        .await
        .map_err(|error| Failure::because("token create", &error))?;
    run::print(&format!("{}\n", made.text.expose()))
}

async fn create_api_key(matches: &ArgMatches) -> Result<(), Failure> {
    let permissions = parsed::<Permission>(matches, "permission")?;
    let draft = ApiKeyDraft {
        name: label(matches)?,
        permissions: match permissions.as_slice() {
            [] => Permissions::EVERYTHING,
            some => some.iter().copied().collect(),
        },
        expires: expiry(matches),
    };
    let control = offline(matches).await?;
    let actor = control
        .use_cases()
        .control()
        .await
        .map_err(|error| Failure::because("api-key create", &error))?;
    let made = control
        .use_cases()
        .create_api_key(&actor, draft)
        .await
        .map_err(|error| Failure::because("api-key create", &error))?;
    run::print(&format!("{}\n", made.text.expose()))
}

/// For whoever may read the data directory, and so may do anything to this Control.
async fn recover_user(matches: &ArgMatches) -> Result<(), Failure> {
    let text = matches.get_one::<String>("email").map_or("", String::as_str);
    let email = parse_email(text).map_err(|error| Failure::usage(format!("{text}: {error}")))?;
    let control = offline(matches).await?;
    let link = control.use_cases().reset_link(&email).await;
    match link.map_err(|error| Failure::because("user recover", &error))? {
        Some(link) => run::print(&format!("{}\n", link.expose())),
        None => Err(Failure::refused(format!(
            "nobody who is not disabled has the address {email}"
        ))),
    }
}

/// Control on its database, without its listener: beside a Control that runs, or after one that ran.
async fn offline(matches: &ArgMatches) -> Result<Control, Failure> {
    let data = data(matches)?;
    let files = Files::new(DataDir::visit(data)?);
    files
        .offline_control(secret(matches, "database", "database-file")?.as_ref())
        .await
}

fn data(matches: &ArgMatches) -> Result<&PathBuf, Failure> {
    matches
        .get_one("data")
        .ok_or_else(|| Failure::usage("--data is missing"))
}

/// A secret that is given as `name` or in a file that `file` names; the first one wins.
fn secret(matches: &ArgMatches, name: &str, file: &str) -> Result<Option<Secret<String>>, Failure> {
    let given = matches.get_one::<String>(name).filter(|text| !text.is_empty());
    if let Some(text) = given {
        return Ok(Some(Secret::new(text.clone())));
    }
    let Some(path) = matches.get_one::<String>(file).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::because(&format!("--{file}: cannot read {path}"), &error))?;
    Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())))
}

fn label(matches: &ArgMatches) -> Result<Label, Failure> {
    let name = matches.get_one::<String>("name").map_or("", String::as_str);
    name.parse()
        .map_err(|error| Failure::usage(format!("--name {name}: {error}")))
}

fn labels(matches: &ArgMatches) -> Result<Labels, Failure> {
    let texts = matches.get_many::<String>("label").into_iter().flatten();
    let labels = texts
        .map(|text| parse_label(text).map_err(|error| Failure::usage(format!("--label {text}: {error}"))));
    let labels = labels.collect::<Result<Vec<_>, _>>()?;
    Labels::new(labels).map_err(|error| Failure::usage(format!("--label: {error}")))
}

fn expiry(matches: &ArgMatches) -> Option<Timestamp> {
    let seconds = matches.get_one::<u64>("expires-in")?;
    Some(Timestamp::from(SystemTime::now()).after(Duration::from_secs(*seconds)))
}

fn parsed<T>(matches: &ArgMatches, name: &str) -> Result<Vec<T>, Failure>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let texts = matches.get_many::<String>(name).into_iter().flatten();
    texts
        .map(|text| {
            text.parse()
                .map_err(|error| Failure::usage(format!("--{name} {text}: {error}")))
        })
        .collect()
}
