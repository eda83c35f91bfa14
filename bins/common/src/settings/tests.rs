//! Every layer against every other.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use super::*;
use crate::failure::FailureKind;

const OWN: &[Setting] = &[
    Setting::text("https", "ADDR", "Where visitors come in").or("[::]:443"),
    Setting::text("control", "URL", "Control's address"),
    Setting::secret("token", "token-file", "TOKEN", "Enrols this node"),
    Setting::list("tls-cert", "FILE", "A certificate chain"),
    Setting::switch("behind-proxy", "TLS is ended before us"),
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Own {
    https: SocketAddr,
    control: String,
    #[serde(default, deserialize_with = "optional_secret")]
    token: Option<Secret<String>>,
    #[serde(default)]
    tls_cert: Vec<String>,
    #[serde(default)]
    behind_proxy: bool,
}

fn load(flags: &[&str], variables: &[(&str, &str)]) -> Result<Layered, Failure> {
    let layers = Layers::new(Role::Gateway, OWN);
    let command = layers.flags(Command::new("run"));
    let matches = parse(command, ["run"].iter().chain(flags))?;
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    layers.load(&matches, &|name| variables.get(name).map(OsString::from))
}

fn own(flags: &[&str], variables: &[(&str, &str)]) -> Result<Own, Failure> {
    load(flags, variables)?.values()
}

fn usage<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> String {
    let failure = outcome.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Usage, "{failure}");
    let sentence = failure.to_string();
    assert!(!sentence.contains('\n'), "one sentence: {sentence}");
    sentence
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

#[test]
fn each_layer_wins_over_those_below() {
    let scratch = Scratch::new();
    let file = scratch.file(
        "c.toml",
        "version = 1\nhttps = '[::1]:1'\ncontrol = 'https://file'\ntls-cert = ['a', 'b']\n",
    );
    let plain = own(&["--control", "https://c"], &[]).unwrap();
    assert_eq!(plain.https, "[::]:443".parse().unwrap());
    assert!(plain.token.is_none() && plain.tls_cert.is_empty() && !plain.behind_proxy);

    let from_file = own(&["--config", &file], &[]).unwrap();
    assert_eq!(from_file.https, "[::1]:1".parse().unwrap());
    assert_eq!(from_file.tls_cert, ["a", "b"]);

    let variables = [
        ("KAKUREMICHI_HTTPS", "[::1]:2"),
        ("KAKUREMICHI_CONFIG", &file),
        ("KAKUREMICHI_TLS_CERT", "c"),
    ];
    let from_variable = own(&[], &variables).unwrap();
    assert_eq!(from_variable.https, "[::1]:2".parse().unwrap());
    assert_eq!(from_variable.control, "https://file");
    assert_eq!(from_variable.tls_cert, ["c"]);

    let flags = [
        "--https",
        "[::1]:3",
        "--tls-cert",
        "d",
        "--tls-cert",
        "e",
        "--behind-proxy",
    ];
    let from_flag = own(&flags, &variables).unwrap();
    assert_eq!(from_flag.https, "[::1]:3".parse().unwrap());
    assert_eq!(from_flag.tls_cert, ["d", "e"]);
    assert!(from_flag.behind_proxy);
    let off = own(
        &["--behind-proxy=false"],
        &[&variables[..], &[("KAKUREMICHI_BEHIND_PROXY", "yes")]].concat(),
    );
    assert!(!off.unwrap().behind_proxy);
}

#[test]
fn an_unknown_key_suggests_the_nearest() {
    let scratch = Scratch::new();
    let wrong = |text: &str| usage(own(&["--config", &scratch.file("c.toml", text)], &[]));
    let sentence = wrong("version = 1\nhtpps = '[::]:1'\n");
    assert!(
        sentence.ends_with("unknown key `htpps`; did you mean `https`?"),
        "{sentence}"
    );
    let sentence = wrong("version = 1\ntls_cert = []\n");
    assert!(sentence.ends_with("did you mean `tls-cert`?"), "{sentence}");
    let sentence = wrong("version = 1\ntokenfile = 'x'\n");
    assert!(sentence.ends_with("did you mean `token-file`?"), "{sentence}");
    let sentence = wrong("version = 1\nzzzzzzzz = 1\n");
    assert!(sentence.ends_with("unknown key `zzzzzzzz`"), "{sentence}");
}

#[test]
fn a_file_says_its_version_and_is_toml() {
    let scratch = Scratch::new();
    let wrong = |text: &str| usage(own(&["--config", &scratch.file("c.toml", text)], &[]));
    assert!(wrong("https = '[::]:1'\n").ends_with("`version = 1` is missing"));
    assert!(wrong("version = 2\n").ends_with("version 2 is unknown here, 1 is known"));
    let sentence = wrong("version = 1\nhttps = \n");
    assert!(sentence.contains("c.toml, line 2: "), "{sentence}");
    assert!(wrong("version = 1\nhttps = 443\n").ends_with("`https` must be a text in quotes"));
    assert!(wrong("version = 1\ngrace = -1\n").ends_with("`grace` must be zero or more"));
    let failure = own(&["--config", "/nonexistent/c.toml"], &[]).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Refused);
    assert!(
        failure
            .to_string()
            .starts_with("--config: cannot read /nonexistent/c.toml: "),
        "{failure}"
    );
}

#[test]
fn a_secret_may_stand_in_a_file_and_is_never_shown() {
    let scratch = Scratch::new();
    let file = scratch.file("token", "kkm_enroll_abc\n");
    let token = |flags: &[&str], variables: &[(&str, &str)]| {
        let flags = [&["--control", "x"], flags].concat();
        own(&flags, variables).map(|own| own.token.unwrap().expose().clone())
    };
    assert_eq!(token(&["--token-file", &file], &[]).unwrap(), "kkm_enroll_abc");
    assert_eq!(
        token(&[], &[("KAKUREMICHI_TOKEN_FILE", &file)]).unwrap(),
        "kkm_enroll_abc"
    );
    let mixed = token(&["--token-file", &file], &[("KAKUREMICHI_TOKEN", "lower")]);
    assert_eq!(
        mixed.unwrap(),
        "kkm_enroll_abc",
        "the flag wins, whichever form it has"
    );
    let both = token(&["--token", "a", "--token-file", &file], &[])
        .unwrap_err()
        .to_string();
    assert_eq!(both, "--token and --token-file are both given; one is enough");
    let empty = scratch.file("empty", "\n");
    let failure = token(&["--token-file", &empty], &[]).unwrap_err();
    assert!(failure.to_string().starts_with("--token-file: ") && failure.to_string().ends_with("is empty"));

    let layered = load(&["--token-file", &file], &[]).unwrap();
    assert!(!layered.report().contains("kkm_enroll_abc"));
    assert!(
        layered
            .report()
            .contains("# token = [redacted]  # --token-file\n"),
        "{}",
        layered.report()
    );
    let own: Own = load(&["--token", "kkm_x", "--control", "x"], &[])
        .unwrap()
        .values()
        .unwrap();
    assert!(!format!("{own:?}").contains("kkm_x"));
}

/// A node that has enrolled does not look at its token: that the file is gone is no reason to stop.
#[test]
fn only_the_file_that_counts_is_read_and_that_of_a_first_start_may_be_missing() {
    let scratch = Scratch::new();
    let config = scratch.file("c.toml", "version = 1\ntoken-file = '/nonexistent/lower'\n");
    let flags = ["--control", "x", "--config", &config, "--token", "higher"];
    let token = own(&flags, &[]).unwrap().token.unwrap();
    assert_eq!(token.expose(), "higher");
    assert!(
        own(&flags[..4], &[])
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/lower")
    );

    #[derive(Deserialize)]
    struct First {
        token: FirstSecret,
    }
    const FIRST: &[Setting] =
        &[Setting::secret("token", "token-file", "TOKEN", "Enrols this node").at_first_start()];
    let first = |flags: &[&str]| {
        let layers = Layers::new(Role::Agent, FIRST);
        let command = layers.flags(Command::new("run"));
        let matches = parse(command, ["run"].iter().chain(flags)).unwrap();
        let layered = layers.load(&matches, &|_| None).unwrap();
        layered.values::<First>().unwrap().token
    };
    let given = first(&["--token", "kkm_x"]);
    assert!(given.text() == "kkm_x" && given.unreadable().is_none());
    let missing = first(&["--token-file", "/nonexistent/token"]);
    assert_eq!(missing.text(), "");
    let said = missing.unreadable().unwrap().to_string();
    assert!(
        said.starts_with("--token-file: cannot read /nonexistent/token"),
        "{said}"
    );
}

#[test]
fn an_endless_grace_is_refused() {
    let grace = |seconds: &str| {
        let layered = load(&["--control", "x", "--grace", seconds], &[]).unwrap();
        layered.values::<Common>().map(|common| common.grace)
    };
    assert_eq!(grace("3600").unwrap(), 3600);
    for seconds in ["3601", "18446744073709551615"] {
        let said = usage(grace(seconds));
        assert!(
            said.starts_with("--grace ") && said.contains("more than an hour"),
            "{said}"
        );
    }
}

#[test]
fn the_report_names_every_source_and_can_be_read_again() {
    let scratch = Scratch::new();
    let file = scratch.file("c.toml", "version = 1\ntls-cert = ['a\"b']\n");
    let flags = ["--config", &file, "--https", "[::1]:3", "--print-config"];
    let layered = load(&flags, &[("KAKUREMICHI_GRACE", "3")]).unwrap();
    assert!(layered.print_wanted());
    let report = layered.report();
    for line in [
        "version = 1".to_owned(),
        "https = \"[::1]:3\"  # --https".to_owned(),
        "# control is not set".to_owned(),
        format!("tls-cert = ['a\"b']  # {file}: tls-cert"),
        "admin = \"127.0.0.1:7672\"  # default".to_owned(),
        "grace = 3  # KAKUREMICHI_GRACE".to_owned(),
    ] {
        assert!(
            report.lines().any(|found| found == line),
            "{line}\nis not in\n{report}"
        );
    }
    let again = scratch.file("again.toml", &report);
    let own: Own = load(&["--config", &again, "--control", "x"], &[])
        .unwrap()
        .values()
        .unwrap();
    assert_eq!(own.tls_cert, ["a\"b"]);
}

#[test]
fn what_makes_no_sense_is_one_sentence_that_names_its_source() {
    let sentence = usage(own(&["--control", "x", "--https", "443"], &[]));
    assert!(sentence.starts_with("--https \"443\": "), "{sentence}");
    let sentence = usage(own(&["--control", "x"], &[("KAKUREMICHI_HTTPS", "nowhere")]));
    assert!(
        sentence.starts_with("KAKUREMICHI_HTTPS \"nowhere\": "),
        "{sentence}"
    );
    let sentence = usage(own(&[], &[]));
    assert!(
        sentence.contains("give --control, KAKUREMICHI_CONTROL, or `control`"),
        "{sentence}"
    );
    let sentence = usage(own(&[], &[("KAKUREMICHI_GRACE", "long")]));
    assert_eq!(sentence, "KAKUREMICHI_GRACE: `long` is not a whole number");
    let sentence = usage(own(&["--htps", "x"], &[]));
    assert!(
        sentence.starts_with("unexpected argument '--htps' found") && sentence.contains("--https"),
        "{sentence}"
    );
    let sentence = usage(own(&["--grace", "-1"], &[]));
    assert!(sentence.contains("-1"), "{sentence}");
}

#[test]
fn what_all_roles_share_has_defaults() {
    let common: Common = load(&[], &[]).unwrap().values().unwrap();
    assert_eq!(common.admin, AdminAddress::At("127.0.0.1:7672".parse().unwrap()));
    assert_eq!((common.log.as_str(), common.grace), (logging::DEFAULT_FILTER, 10));
    let common: Common = load(&["--admin", "off"], &[]).unwrap().values().unwrap();
    assert_eq!(common.admin, AdminAddress::Off);
    let failure = load(&["--admin", "here"], &[])
        .unwrap()
        .values::<Common>()
        .unwrap_err()
        .to_string();
    assert_eq!(
        failure,
        "--admin \"here\": neither an address with a port nor `off`"
    );
}

#[test]
fn an_empty_variable_is_no_variable() {
    let own = own(
        &["--control", "x"],
        &[("KAKUREMICHI_TOKEN", ""), ("KAKUREMICHI_HTTPS", "")],
    )
    .unwrap();
    assert!(own.token.is_none());
}
