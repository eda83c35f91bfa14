//! Control as a process, and its REST API.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use kakuremichi_api::{Api, Secret};
use serde_json::Value;

use super::{everywhere, logged};
use crate::client::{Reply, Version, Visitor, VisitorError, request_with};
use crate::net::{Host, Namespace};
use crate::process::{Process, Program};

/// The port of Control.
const PORT: u16 = 7443;
/// The port of its admin address, on its loopback.
const ADMIN: u16 = 7671;
/// The name of its host.
const NAME: &str = "control.test";

/// A Control of its own host. It ends when dropped.
#[derive(Debug)]
pub struct Control {
    process: Process,
    data: PathBuf,
    url: String,
    key: String,
    /// The flags of `run` that its commands need too.
    database: Vec<String>,
    /// Where its name leads: to it, and to the other instances.
    addresses: Vec<IpAddr>,
    host: Host,
}

impl Control {
    /// Starts one that is reached by a name, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// It does not come up.
    #[must_use]
    pub fn start(host: Host, data: &Path) -> Self {
        Self::start_with(host, data, &[])
    }

    /// Starts one with further flags.
    ///
    /// # Panics
    ///
    /// It does not come up.
    #[must_use]
    pub fn start_with(host: Host, data: &Path, flags: &[&str]) -> Self {
        Self::start_at(host, data, NAME, &[], flags)
    }

    /// Starts one whose database is a PostgreSQL server's.
    ///
    /// # Panics
    ///
    /// It does not come up.
    #[must_use]
    pub fn start_on_database(host: Host, data: &Path, url: &str) -> Self {
        Self::start_at(host, data, NAME, &["--database", url], &[])
    }

    /// Starts one that is reached by its host's address: for those who cannot resolve names.
    ///
    /// # Panics
    ///
    /// It does not come up.
    #[must_use]
    pub fn start_by_address(host: Host, data: &Path) -> Self {
        let address = host.at(PORT).to_string();
        let address = address.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
        Self::start_at(host, data, &address, &[], &[])
    }

    /// Starts another instance on the database of this one, with the identity and the authority of this one, and
    /// waits until it is ready. From now on the name leads to both.
    ///
    /// # Panics
    ///
    /// It does not come up.
    #[must_use]
    pub fn another_instance(&mut self, host: Host, data: &Path) -> Self {
        fs::DirBuilder::new().mode(0o700).create(data).unwrap();
        for name in ["identity.p8", "ca.pem", "ca.key"] {
            fs::copy(self.data.join(name), data.join(name)).unwrap();
        }
        let database: Vec<&str> = self.database.iter().map(String::as_str).collect();
        let mut other = Self::start_at(host, data, NAME, &database, &[]);
        self.addresses.extend(&other.addresses);
        other.addresses.clone_from(&self.addresses);
        other
    }

    fn start_at(host: Host, data: &Path, name: &str, database: &[&str], flags: &[&str]) -> Self {
        let url = format!("https://{name}:{PORT}");
        let program = Program::ours("kakuremichi-control").arg("run").on(&host);
        let program = program.args(["--public-url", &url, "--listen", &everywhere(&host, PORT)]);
        let program = logged(program.arg("--data").arg(data).args(database).args(flags));
        let mut process = program.start();
        process.ready(ADMIN);
        let mut control = Self {
            process,
            data: data.to_owned(),
            url,
            key: String::new(),
            database: database.iter().map(|&flag| flag.to_owned()).collect(),
            addresses: vec![host.address()],
            host,
        };
        control.key = control.command(&["api-key", "create"]);
        control
    }

    /// The port that it listens on.
    pub const PORT: u16 = PORT;
    /// The port of its admin address, on its loopback.
    pub const ADMIN: u16 = ADMIN;

    /// Its public URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The host that it is on.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// An API key of it, with every right.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it without a chance to say goodbye.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// It does not come up.
    pub fn start_again(&mut self) {
        self.process = self.process.program().start();
        self.process.ready(ADMIN);
    }

    /// Makes its name known to processes that will be started on a host.
    pub fn is_known_on(&self, host: &Host) {
        let names: Vec<_> = self.addresses.iter().map(|address| (NAME, *address)).collect();
        host.resolves(&names);
    }

    /// A new enrolment token, by `token create --role ROLE` with further flags.
    ///
    /// # Panics
    ///
    /// It is refused.
    #[must_use]
    #[track_caller]
    pub fn token(&self, role: &str, flags: &[&str]) -> String {
        self.command(&[&["token", "create", "--role", role], flags].concat())
    }

    /// Its REST API, with every right.
    #[must_use]
    pub fn rest(&self) -> Rest {
        let authority = fs::read_to_string(self.data.join("ca.pem")).unwrap();
        Rest {
            namespace: self.host.namespace().clone(),
            visitor: Visitor::trusting(&[&authority]).at(self.host.address()),
            url: self.url.clone(),
            key: self.key.clone(),
        }
    }

    /// Works with its REST API by the typed client, on its host and with every right.
    ///
    /// # Panics
    ///
    /// The work panics.
    pub fn api<T: Send>(&self, work: impl AsyncFnOnce(Api) -> T + Send) -> T {
        let authority = fs::read_to_string(self.data.join("ca.pem")).unwrap();
        let builder = Api::builder(&self.url, Secret::new(self.key.clone()));
        let api = builder.authority(authority).address(self.host.address()).build();
        let api = api.unwrap();
        self.host.namespace().block_on(async || work(api).await)
    }

    /// Runs a command on its data directory; the one line that is printed.
    #[track_caller]
    fn command(&self, words: &[&str]) -> String {
        let program = Program::ours("kakuremichi-control").args(words);
        let program = program.arg("--data").arg(&self.data).args(&self.database);
        let said = program.finish();
        assert!(said.status.success(), "{words:?}: {}", said.err);
        assert_eq!(
            said.out.lines().count(),
            1,
            "the secret stands alone: {}",
            said.out
        );
        said.out.trim().to_owned()
    }
}

/// A client of Control's REST API.
#[derive(Debug, Clone)]
pub struct Rest {
    namespace: Namespace,
    visitor: Visitor,
    url: String,
    key: String,
}

impl Rest {
    /// The same, as whoever has this key or this session.
    #[must_use]
    pub fn with_bearer(&self, bearer: &str) -> Self {
        Self {
            key: bearer.to_owned(),
            ..self.clone()
        }
    }

    /// Any request; the path is below `/api/v1/`.
    ///
    /// # Panics
    ///
    /// There is no answer.
    #[must_use]
    #[track_caller]
    pub fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Reply {
        self.try_send(method, path, body)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The same while Control may be away.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub fn try_send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply, VisitorError> {
        let url = format!("{}/api/v1/{path}", self.url);
        let text = body.map(Value::to_string).unwrap_or_default();
        let mut request = request_with(method, &url, text);
        let bearer = HeaderValue::from_str(&format!("Bearer {}", self.key)).unwrap();
        request.headers_mut().insert(AUTHORIZATION, bearer);
        if body.is_some() {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
        }
        self.namespace
            .block_on(async || self.visitor.send(Version::Http1, request).await)
    }

    /// What is at a path.
    ///
    /// # Panics
    ///
    /// It is not there.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.expect(Method::GET, path, None, StatusCode::OK).json()
    }

    /// Adds something to a collection.
    ///
    /// # Panics
    ///
    /// It is refused.
    #[track_caller]
    pub fn create(&self, path: &str, body: &Value) -> Value {
        self.expect(Method::POST, path, Some(body), StatusCode::CREATED)
            .json()
    }

    /// Describes something anew.
    ///
    /// # Panics
    ///
    /// It is refused.
    #[track_caller]
    pub fn replace(&self, path: &str, body: &Value) -> Value {
        self.expect(Method::PUT, path, Some(body), StatusCode::OK).json()
    }

    /// Deletes something.
    ///
    /// # Panics
    ///
    /// It is refused.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        self.expect(Method::DELETE, path, None, StatusCode::NO_CONTENT);
    }

    /// Revokes a token or a node.
    ///
    /// # Panics
    ///
    /// It is refused.
    #[track_caller]
    pub fn revoke(&self, path: &str) {
        self.expect(Method::POST, &format!("{path}/revoke"), None, StatusCode::OK);
    }

    /// A node by its name.
    ///
    /// # Panics
    ///
    /// There is none.
    #[must_use]
    #[track_caller]
    pub fn node(&self, name: &str) -> Value {
        let nodes = self.get("nodes");
        let mut nodes = nodes["items"].as_array().unwrap().iter();
        let node = nodes.find(|node| node["name"] == name);
        node.unwrap_or_else(|| panic!("there is no {name}")).clone()
    }

    #[track_caller]
    fn expect(&self, method: Method, path: &str, body: Option<&Value>, status: StatusCode) -> Reply {
        let reply = self.send(method.clone(), path, body);
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        reply
    }
}
