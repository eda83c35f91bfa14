//! Commands for a Control that runs somewhere: `list`, `get`, `create`, `delete`, `revoke`, `rotate` and `request`.

mod table;

use std::{fs, io::Read as _, path::Path};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use http::Method;
use kakuremichi_api::{Api, ApiError, BuildError, Secret};
use kakuremichi_bins_common::{Failure, run};
use serde_json::{Value, json};

use self::table::Kind;

/// Items of a list, if nothing is said.
const USUAL_LIMIT: usize = 1_000;
/// The largest file that is sent, in bytes.
const MAX_INPUT: u64 = 1024 * 1024;

/// The commands.
pub(crate) fn commands() -> Vec<Command> {
    let kind = Arg::new("kind")
        .value_name("KIND")
        .required(true)
        .value_parser(value_parser!(Kind))
        .help("What");
    let id = Arg::new("id")
        .value_name("ID")
        .required(true)
        .help("Its identifier");
    let file = |help: &'static str| {
        Arg::new("file")
            .long("file")
            .short('f')
            .value_name("FILE")
            .help(help)
    };
    let commands = [
        Command::new("list")
            .about("List services, nodes and so on")
            .arg(kind.clone())
            .arg(
                Arg::new("filter")
                    .long("filter")
                    .value_name("NAME=VALUE")
                    .action(ArgAction::Append)
                    .help("Only some, such as search=bill or role=agent; the reference has each list's"),
            )
            .arg(
                Arg::new("limit")
                    .long("limit")
                    .value_name("NUMBER")
                    .value_parser(value_parser!(u32).range(1..))
                    .help("At most so many; 1000 when left out"),
            )
            .arg(
                Arg::new("output")
                    .long("output")
                    .short('o')
                    .value_name("table|json")
                    .value_parser(["table", "json"])
                    .default_value("table")
                    .help("For people, or for programs"),
            ),
        Command::new("get")
            .about("Print one, as JSON")
            .args([kind.clone(), id.clone()]),
        Command::new("create")
            .about("Make one from JSON, and print what was made: secrets are shown this once")
            .arg(kind.clone())
            .arg(file("The JSON; `-` for standard input").required(true)),
        Command::new("delete")
            .about("Delete one")
            .args([kind.clone(), id.clone()]),
        Command::new("revoke")
            .about("Revoke a node or a token")
            .args([kind, id.clone()]),
        Command::new("rotate")
            .about("Give a node new keys, without downtime; it makes them once it is connected")
            .arg(
                Arg::new("kind")
                    .value_name("nodes")
                    .required(true)
                    .value_parser(["nodes"])
                    .help("What"),
            )
            .arg(id)
            .arg(
                Arg::new("overlap")
                    .long("overlap")
                    .value_name("SECONDS")
                    .value_parser(value_parser!(u32))
                    .help("How long the keys of before count still, a day when left out; 0 when somebody else has them"),
            ),
        Command::new("request")
            .about("Send any request to the API, and print the answer")
            .arg(
                Arg::new("method")
                    .value_name("METHOD")
                    .required(true)
                    .value_parser(["GET", "POST", "PUT", "PATCH", "DELETE"])
                    .ignore_case(true),
            )
            .arg(
                Arg::new("path")
                    .value_name("PATH")
                    .required(true)
                    .help("Below /api/v1/, with its query: services?kind=tcp"),
            )
            .arg(file("The JSON to send; `-` for standard input")),
    ];
    commands
        .into_iter()
        .map(|command| command.args(place()))
        .collect()
}

/// Where Control is, and who asks.
fn place() -> [Arg; 5] {
    [
        Arg::new("control")
            .long("control")
            .value_name("URL")
            .env("KAKUREMICHI_CONTROL")
            .required(true)
            .help("The URL of Control, such as https://control.example.net:7443"),
        Arg::new("api-key")
            .long("api-key")
            .value_name("KEY")
            .env("KAKUREMICHI_API_KEY")
            .hide_env_values(true)
            .help("An API key; other users of this machine can see it here"),
        Arg::new("api-key-file")
            .long("api-key-file")
            .value_name("FILE")
            .env("KAKUREMICHI_API_KEY_FILE")
            .conflicts_with("api-key")
            .help("A file that holds it, instead of --api-key"),
        Arg::new("ca")
            .long("ca")
            .value_name("FILE")
            .env("KAKUREMICHI_CA")
            .help("The authority of Control's certificate (PEM), such as its ca.pem; the system's when left out"),
        Arg::new("organization")
            .long("organization")
            .value_name("ID")
            .env("KAKUREMICHI_ORGANIZATION")
            .help("In which organization, for people who are in several"),
    ]
}

/// Runs one of the commands; `None` if it is none of them.
pub(crate) fn run(name: &str, matches: &ArgMatches) -> Option<Result<(), Failure>> {
    Some(match name {
        "list" => carry_out(list(matches)),
        "get" => carry_out(async {
            let found = api(matches)?.send(Method::GET, &one(matches)?, None).await;
            print(&found.map_err(refused)?)
        }),
        "create" => carry_out(async {
            let body = input(matches)?;
            let path = kind(matches)?.collection();
            let made = api(matches)?.send(Method::POST, path, body.as_ref()).await;
            print(&made.map_err(refused)?)
        }),
        "delete" => carry_out(async {
            let deleted = api(matches)?.send(Method::DELETE, &one(matches)?, None).await;
            deleted.map(drop).map_err(refused)
        }),
        "revoke" => carry_out(async {
            let path = format!("{}/revoke", one(matches)?);
            let revoked = api(matches)?.send(Method::POST, &path, None).await;
            print(&revoked.map_err(refused)?)
        }),
        "rotate" => carry_out(async {
            let path = format!("nodes/{}/rotate-keys", identifier(matches)?);
            let how = match matches.get_one::<u32>("overlap") {
                Some(seconds) => json!({ "overlap": seconds }),
                None => json!({}),
            };
            let asked = api(matches)?.send(Method::POST, &path, Some(&how)).await;
            print(&asked.map_err(refused)?)
        }),
        "request" => carry_out(async {
            let method = text(matches, "method").unwrap_or_default().to_uppercase();
            let method = method
                .parse()
                .map_err(|_| Failure::usage("there is no such method"))?;
            let body = input(matches)?;
            let path = text(matches, "path").unwrap_or_default();
            let path = path.trim_start_matches('/').trim_start_matches("api/v1/");
            let answer = api(matches)?
                .send(method, path, body.as_ref())
                .await
                .map_err(refused)?;
            if answer.is_null() { Ok(()) } else { print(&answer) }
        }),
        _ => return None,
    })
}

fn carry_out(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    run::runtime()?.block_on(command)
}

async fn list(matches: &ArgMatches) -> Result<(), Failure> {
    let filters = matches.get_many::<String>("filter").into_iter().flatten();
    let filters: Result<Vec<_>, _> = filters
        .map(|filter| {
            let pair = filter.split_once('=');
            pair.ok_or_else(|| Failure::usage(format!("`{filter}` is no filter: NAME=VALUE")))
        })
        .collect();
    let limit = matches
        .get_one::<u32>("limit")
        .map_or(USUAL_LIMIT, |limit| *limit as usize);
    let (api, kind, filters) = (api(matches)?, kind(matches)?, filters?);
    if text(matches, "output") == Some("json") {
        let items = api.items::<Value>(kind.collection(), &filters, limit).await;
        return print(&Value::from(items.map_err(refused)?));
    }
    run::print(&kind.table(&api, &filters, limit).await.map_err(refused)?)
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.get_one::<String>(name).map(String::as_str)
}

fn kind(matches: &ArgMatches) -> Result<Kind, Failure> {
    let kind = matches.get_one::<Kind>("kind");
    kind.copied().ok_or_else(|| Failure::usage("KIND is missing"))
}

/// The path of the one that is meant.
fn one(matches: &ArgMatches) -> Result<String, Failure> {
    let id = identifier(matches)?;
    Ok(format!("{}/{id}", kind(matches)?.collection()))
}

fn identifier(matches: &ArgMatches) -> Result<&str, Failure> {
    let id = text(matches, "id").unwrap_or_default();
    let whole = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !whole {
        return Err(Failure::usage(format!(
            "`{id}` is no identifier: `kakuremichi list` shows them"
        )));
    }
    Ok(id)
}

fn api(matches: &ArgMatches) -> Result<Api, Failure> {
    let key = match (text(matches, "api-key"), text(matches, "api-key-file")) {
        (Some(key), _) => key.to_owned(),
        (None, Some(path)) => read(Path::new(path))?.trim().to_owned(),
        (None, None) => {
            return Err(Failure::usage(
                "there is no API key: set KAKUREMICHI_API_KEY, or give --api-key-file",
            ));
        }
    };
    let mut builder = Api::builder(text(matches, "control").unwrap_or_default(), Secret::new(key));
    if let Some(path) = text(matches, "ca") {
        builder = builder.authority(read(Path::new(path))?);
    }
    if let Some(organization) = text(matches, "organization") {
        builder = builder.organization(organization);
    }
    builder
        .build()
        .map_err(|error: BuildError| Failure::usage(error.to_string()))
}

fn input(matches: &ArgMatches) -> Result<Option<Value>, Failure> {
    let Some(path) = text(matches, "file") else {
        return Ok(None);
    };
    let mut bytes = String::new();
    if path == "-" {
        let read = std::io::stdin().take(MAX_INPUT).read_to_string(&mut bytes);
        read.map_err(|error| Failure::because("cannot read standard input", &error))?;
    } else {
        bytes = read(Path::new(path))?;
    }
    let json = serde_json::from_str(&bytes);
    json.map(Some)
        .map_err(|error| Failure::usage(format!("`{path}` is no JSON: {error}")))
}

fn read(path: &Path) -> Result<String, Failure> {
    let what = format!("cannot read {}", path.display());
    let length = fs::metadata(path)
        .map_err(|error| Failure::because(&what, &error))?
        .len();
    if length > MAX_INPUT {
        return Err(Failure::usage(format!(
            "{what}: it is longer than {MAX_INPUT} bytes"
        )));
    }
    fs::read_to_string(path).map_err(|error| Failure::because(&what, &error))
}

fn print(value: &Value) -> Result<(), Failure> {
    run::print(&format!("{value:#}\n"))
}

fn refused(error: ApiError) -> Failure {
    match &error {
        ApiError::Refused(problem) => {
            let mut sentence = problem.to_string();
            for field in problem.errors.iter().skip(1) {
                sentence.push_str(&format!("\n`{}`: {}", field.field, field.message));
            }
            Failure::refused(sentence)
        }
        _ => Failure::because("the API", &error),
    }
}
