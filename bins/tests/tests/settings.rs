//! What cannot be used is said in one sentence, and nothing is left behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;

use kakuremichi_core::key::IdentityKey;
use kakuremichi_core::secret::Secret;
use kakuremichi_proto::identity::TokenText;
use kakuremichi_tests::Program;
use tempfile::TempDir;

#[test]
fn unusable_settings_get_one_sentence() {
    let place = Place::new();
    let mut wrong = Vec::new();
    for (program, flags, code, part) in CASES {
        let (name, usual) = usual(program);
        let words = place.fill(&instead(usual, flags));
        let said = Program::ours(name).args(words.split_whitespace()).finish();
        let _ = fs::remove_dir_all(place.data());
        let sentence = said.err.lines().last().unwrap_or_default();
        // Besides the log there is one line.
        let others = said.err.lines().filter(|line| !line.starts_with('{')).count();
        let right = said.status.code() == Some(*code)
            && said.out.is_empty()
            && sentence.starts_with(&format!("{name}: "))
            && sentence.contains(&place.fill(part))
            && others == 1;
        if !right {
            wrong.push(format!(
                "{program} {flags}: {:?}: {}{}",
                said.status.code(),
                said.out,
                said.err
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let left = fs::read_dir(place.top.path().join("open")).unwrap().count();
    assert_eq!(left, 1, "somebody's directory is left alone");
}

/// Program, flags, exit code, and a part of the sentence. In capitals: see [`Place::fill`].
const CASES: &[(&str, &str, i32, &str)] = &[
    // Flags.
    ("control", "", 2, "public-url"),
    ("control", "--public-urll https://c.test", 2, "--public-url"),
    ("control", "--public-url c.test", 2, "--public-url"),
    (
        "control",
        "--public-url http://c.test --listen [::]:0",
        2,
        "https://",
    ),
    (
        "control",
        "--public-url https://c.test --grace soon",
        2,
        "--grace",
    ),
    ("control", "--public-url https://c.test --log x=loud", 2, "--log"),
    (
        "control",
        "--public-url https://c.test --tls-cert FILE",
        2,
        "--tls-key",
    ),
    (
        "control",
        "--public-url https://c.test --tls-cert FILE --tls-key FILE",
        1,
        "certificate",
    ),
    (
        "control",
        "--public-url https://c.test --tls-cert /nowhere --tls-key FILE",
        1,
        "/nowhere",
    ),
    (
        "control",
        "--public-url https://c.test --config /nowhere",
        1,
        "/nowhere",
    ),
    ("control", "--public-url https://c.test --config FILE", 2, "FILE"),
    ("agent", "--control control.test --token TOKEN", 1, "URL"),
    (
        "agent",
        "--control http://control.test --token TOKEN",
        1,
        "https://",
    ),
    (
        "agent",
        "--control https://control.test --token secret",
        1,
        "token",
    ),
    ("agent", "--control https://control.test", 1, "token"),
    (
        "agent",
        "--control https://control.test --token-file /nowhere",
        1,
        "/nowhere",
    ),
    (
        "agent",
        "--control https://control.test --token TOKEN --name no/name",
        1,
        "name",
    ),
    ("gateway", "--tls-cert FILE", 2, "--tls-key"),
    ("gateway", "--tls-cert FILE --tls-key FILE", 1, "--tls-cert"),
    ("gateway", "--public-address a/b", 1, "a/b"),
    ("gateway", "--shards 0", 2, "--shards 0"),
    ("gateway", "--shards 65", 2, "--shards 65"),
    ("quickstart", "--shards 0", 2, "--shards 0"),
    ("quickstart", "--expose web", 2, "--expose"),
    ("quickstart", "--expose demo=http://127.0.0.1:1", 2, "demo"),
    ("quickstart", "--expose web=ftp://127.0.0.1:1", 2, "--expose"),
    // Ports.
    (
        "control",
        "--public-url https://c.test --listen TAKEN_TCP",
        1,
        "--listen: cannot listen on TAKEN_TCP",
    ),
    (
        "control",
        "--public-url https://c.test --admin TAKEN_TCP",
        1,
        "--admin: cannot listen on TAKEN_TCP",
    ),
    (
        "control",
        "--public-url https://c.test --listen 192.0.2.1:1",
        1,
        "--listen: cannot listen on 192.0.2.1:1",
    ),
    (
        "control",
        "--public-url https://c.test --listen localhost",
        2,
        "--listen",
    ),
    ("gateway", "--https TAKEN_TCP", 1, "TAKEN_TCP"),
    ("gateway", "--http TAKEN_TCP", 1, "TAKEN_TCP"),
    ("gateway", "--wireguard TAKEN_UDP", 1, "TAKEN_UDP"),
    ("quickstart", "--control TAKEN_TCP", 1, "TAKEN_TCP"),
    ("quickstart", "--http TAKEN_TCP", 1, "TAKEN_TCP"),
    ("quickstart", "--https TAKEN_TCP", 1, "TAKEN_TCP"),
    ("quickstart", "--wireguard TAKEN_UDP", 1, "TAKEN_UDP"),
    (
        "quickstart",
        "--admin TAKEN_TCP",
        1,
        "--admin: cannot listen on TAKEN_TCP",
    ),
    // Directories.
    (
        "control",
        "--public-url https://c.test --data FILE",
        1,
        "FILE is not a directory",
    ),
    (
        "control",
        "--public-url https://c.test --data OPEN",
        1,
        "open to other users",
    ),
    (
        "control",
        "--public-url https://c.test --data /proc/nowhere",
        1,
        "--data",
    ),
    (
        "agent",
        "--control https://control.test --token TOKEN --data OPEN",
        1,
        "open to other users",
    ),
    ("gateway", "--data FILE", 1, "FILE is not a directory"),
    ("quickstart", "--data FILE", 1, "FILE is not a directory"),
];

/// The usual settings with those of a case in their place.
fn instead(usual: &str, flags: &str) -> String {
    let (command, usual) = usual.split_once(' ').unwrap();
    let usual: Vec<&str> = usual.split_whitespace().collect();
    let mut words = vec![command];
    for pair in usual.chunks(2) {
        if !flags.split_whitespace().any(|flag| flag == pair[0]) {
            words.extend(pair);
        }
    }
    words.extend(flags.split_whitespace());
    words.join(" ")
}

/// The binary, and settings that are all right.
fn usual(program: &str) -> (&'static str, &'static str) {
    match program {
        "control" => (
            "kakuremichi-control",
            "run --admin off --listen 127.0.0.1:0 --data DATA",
        ),
        "agent" => ("kakuremichi-agent", "run --admin off --data DATA"),
        "gateway" => (
            "kakuremichi-gateway",
            "run --admin off --data DATA --control https://control.test --token TOKEN \
             --http 127.0.0.1:0 --https 127.0.0.1:0 --wireguard 127.0.0.1:0",
        ),
        _ => (
            "kakuremichi",
            "quickstart --admin off --data DATA --control 127.0.0.1:0 \
             --http 127.0.0.1:0 --https 127.0.0.1:0 --wireguard 127.0.0.1:0",
        ),
    }
}

/// What cases refer to.
struct Place {
    top: TempDir,
    tcp: TcpListener,
    udp: UdpSocket,
    token: String,
}

impl Place {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("file"), "text").unwrap();
        fs::create_dir(top.path().join("open")).unwrap();
        fs::write(top.path().join("open/letter"), "x").unwrap();
        let key = IdentityKey::from_bytes([1; 32]);
        let token = TokenText::new(Secret::new([2; 32]), key, None);
        Self {
            top,
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            token: token.to_text().expose().clone(),
        }
    }

    fn data(&self) -> PathBuf {
        self.top.path().join("data")
    }

    /// Puts in what words in capitals stand for.
    fn fill(&self, text: &str) -> String {
        let path = |name: &str| self.top.path().join(name).display().to_string();
        text.replace("TAKEN_TCP", &self.tcp.local_addr().unwrap().to_string())
            .replace("TAKEN_UDP", &self.udp.local_addr().unwrap().to_string())
            .replace("TOKEN", &self.token)
            .replace("FILE", &path("file"))
            .replace("OPEN", &path("open"))
            .replace("DATA", &path("data"))
    }
}

#[test]
fn commands_say_what_they_miss() {
    let top = tempfile::tempdir().unwrap();
    let data = top.path().to_str().unwrap();
    let cases: [(&str, &[&str], i32, &str); 7] = [
        (
            "kakuremichi-control",
            &["token", "create", "--data", data, "--role", "agent"],
            1,
            "has not run",
        ),
        (
            "kakuremichi-control",
            &["api-key", "create", "--data", data],
            1,
            "has not run",
        ),
        (
            "kakuremichi-control",
            &["token", "create", "--data", data, "--role", "king"],
            2,
            "king",
        ),
        (
            "kakuremichi-control",
            &[
                "token", "create", "--data", data, "--role", "agent", "--uses", "0",
            ],
            2,
            "--uses",
        ),
        ("kakuremichi-control", &["walk"], 2, "walk"),
        ("kakuremichi-agent", &["run", "--data", data], 2, "--control"),
        ("kakuremichi", &["quickstart", "--grace=-1"], 2, "--grace"),
    ];
    for (binary, words, code, part) in cases {
        let said = Program::ours(binary).args(words).finish();
        assert_eq!(said.status.code(), Some(code), "{binary} {words:?}: {said:?}");
        assert_eq!(said.err.lines().count(), 1, "{binary} {words:?}: {}", said.err);
        assert!(said.err.contains(part), "{binary} {words:?}: {}", said.err);
    }
}

#[test]
fn every_setting_is_printed_with_its_source_and_no_secret() {
    let top = tempfile::tempdir().unwrap();
    let config = top.path().join("gateway.toml");
    fs::write(
        &config,
        "version = 1\nhttps = \"[::1]:8443\"\nhttp = \"[::1]:8080\"\n",
    )
    .unwrap();
    let secret = top.path().join("token");
    fs::write(&secret, "kkm_enroll_hidden\n").unwrap();
    let said = Program::ours("kakuremichi-gateway")
        .args(["run", "--print-config", "--https", "[::1]:9443", "--config"])
        .arg(&config)
        .env("KAKUREMICHI_CONTROL", "https://control.test")
        .env("KAKUREMICHI_TOKEN_FILE", &secret)
        .finish();
    assert!(said.status.success(), "{said:?}");
    let line = |name: &str| {
        let mut lines = said.out.lines();
        let line = lines.find(|line| {
            line.trim_start_matches(['#', ' '])
                .starts_with(&format!("{name} "))
        });
        line.unwrap_or_else(|| panic!("{name}: {}", said.out)).to_owned()
    };
    // Flag, then variable, then file, then default.
    let expected = [
        ("https", "[::1]:9443", "--https"),
        ("control", "https://control.test", "KAKUREMICHI_CONTROL"),
        ("http", "[::1]:8080", "gateway.toml"),
        ("wireguard", "[::]:51820", "default"),
    ];
    for (name, value, source) in expected {
        let line = line(name);
        assert!(line.contains(value) && line.contains(source), "{line}");
    }
    assert!(!said.out.contains("hidden"), "{}", said.out);
}
