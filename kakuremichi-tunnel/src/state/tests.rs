use std::{fs, os::unix::fs::PermissionsExt as _};

use kakuremichi_core::{
    id::{AgentId, NodeId},
    key::IdentityKey,
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn enrolment() -> Enrolment {
    Enrolment {
        node: NodeId::Agent(AgentId::from_bytes([7; 16])),
        url: "https://control.example.net".to_owned(),
        control: IdentityKey::from_bytes([9; 32]),
        ca: Some([0xab; 32]),
    }
}

#[test]
fn everything_comes_back_and_only_this_user_may_read_it() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("deep/state");
    let state = StateDir::open(&path).unwrap();
    let keys = state.keys().unwrap();
    state.store_enrolment(&enrolment()).unwrap();
    state.store_plan(b"the plan").unwrap();
    state.store_plan(b"the newer plan").unwrap();
    state.store_usage(b"usage").unwrap();
    assert_eq!(mode(&path), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    // No temporary file stays.
    assert_eq!(
        names,
        [
            "enrolment",
            "identity.pk8",
            "plan",
            "state.lock",
            "usage",
            "wireguard.key"
        ]
    );
    drop(state);
    let state = StateDir::open(&path).unwrap();
    assert_eq!(state.keys().unwrap().identity(), keys.identity());
    assert_eq!(state.keys().unwrap().wireguard(), keys.wireguard());
    assert_eq!(state.enrolment().unwrap(), Some(enrolment()));
    assert_eq!(state.plan().unwrap().unwrap(), b"the newer plan");
    assert_eq!(state.usage().unwrap().unwrap(), b"usage");
}

#[test]
fn a_directory_is_used_by_one_node_at_a_time() {
    let temp = TempDir::new().unwrap();
    let state = StateDir::open(temp.path()).unwrap();
    assert!(matches!(StateDir::open(temp.path()), Err(StateError::InUse(_))));
    let clone = state.clone();
    drop(state);
    assert!(matches!(StateDir::open(temp.path()), Err(StateError::InUse(_))));
    drop(clone);
    StateDir::open(temp.path()).unwrap();
}

#[test]
fn somebodys_home_is_not_taken() {
    let temp = TempDir::new().unwrap();
    fs::write(temp.path().join("letter.txt"), "dear").unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(
        StateDir::open(temp.path()),
        Err(StateError::OpenToOthers(_))
    ));
    assert_eq!(mode(temp.path()), 0o755);
    fs::remove_file(temp.path().join("letter.txt")).unwrap();
    StateDir::open(temp.path()).unwrap();
    assert_eq!(mode(temp.path()), 0o700);
}

#[test]
fn a_loose_key_file_is_closed() {
    let temp = TempDir::new().unwrap();
    StateDir::open(temp.path()).unwrap().keys().unwrap();
    for name in ["wireguard.key", CA_KEY, PEERS] {
        let file = temp.path().join(name);
        fs::write(&file, "something").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        StateDir::open(temp.path()).unwrap();
        assert_eq!(mode(&file), 0o600, "{name}");
    }
}

/// The node starts, and Control sends the plan again.
#[test]
fn a_plan_or_usage_that_is_too_long_counts_as_none() {
    let temp = TempDir::new().unwrap();
    let state = StateDir::open(temp.path()).unwrap();
    for name in ["plan", "usage"] {
        let file = File::create(temp.path().join(name)).unwrap();
        file.set_len(MAX_BLOB + 1).unwrap();
    }
    assert_eq!(state.plan().unwrap(), None);
    assert_eq!(state.usage().unwrap(), None);
}

#[test]
fn a_write_that_broke_off_leaves_the_file_as_it_was() {
    let temp = TempDir::new().unwrap();
    let state = StateDir::open(temp.path()).unwrap();
    state.store_plan(b"good").unwrap();
    // What a crash between the two steps of a replacement leaves.
    fs::write(temp.path().join("plan.new"), "half").unwrap();
    assert_eq!(state.plan().unwrap().unwrap(), b"good");
    state.store_plan(b"better").unwrap();
    assert_eq!(state.plan().unwrap().unwrap(), b"better");
}

#[test]
fn damaged_usage_counts_as_none() {
    let temp = TempDir::new().unwrap();
    let state = StateDir::open(temp.path()).unwrap();
    let path = temp.path().join("usage");
    state.store_usage(&[42; 1000]).unwrap();
    let good = fs::read(&path).unwrap();
    for (name, bad) in [
        ("empty", Vec::new()),
        ("short", good[..20].to_vec()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("longer", [good.as_slice(), b"x"].concat()),
        ("flipped", good.iter().map(|byte| byte ^ 1).collect()),
    ] {
        fs::write(&path, bad).unwrap();
        assert_eq!(state.usage().unwrap(), None, "{name}");
    }
    fs::write(&path, good).unwrap();
    assert_eq!(state.usage().unwrap().unwrap(), [42; 1000]);
}

#[test]
fn a_damaged_key_or_enrolment_is_an_error_and_is_kept() {
    let temp = TempDir::new().unwrap();
    let state = StateDir::open(temp.path()).unwrap();
    state.keys().unwrap();
    for name in ["identity.pk8", "wireguard.key"] {
        let path = temp.path().join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, &good[1..]).unwrap();
        let error = state.keys().unwrap_err();
        assert!(
            matches!(&error, StateError::Damaged { path: named, .. } if *named == path),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), &good[1..]);
        fs::write(&path, good).unwrap();
    }
    state.keys().unwrap();
    fs::write(temp.path().join("enrolment"), "node x").unwrap();
    assert!(matches!(state.enrolment(), Err(StateError::Damaged { .. })));
}

#[test]
fn without_a_directory_nothing_is_remembered() {
    let state = StateDir::memory();
    state.store_plan(b"plan").unwrap();
    assert_eq!(state.plan().unwrap(), None);
    assert_ne!(state.keys().unwrap().identity(), state.keys().unwrap().identity());
}

proptest! {
    #[test]
    fn garbage_is_never_a_sealed_file(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(file::unseal(&bytes), None);
        let sealed = file::seal(&bytes);
        prop_assert_eq!(file::unseal(&sealed), Some(bytes.as_slice()));
    }

    #[test]
    fn garbage_is_never_an_enrolment(text in "[ -~\n]{0,200}") {
        prop_assert_eq!(Enrolment::from_text(&text), None);
        let garbled = format!("kakuremichi enrolment 1\n{text}");
        prop_assert_eq!(Enrolment::from_text(&garbled), None);
    }
}
