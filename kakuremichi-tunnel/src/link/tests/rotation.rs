//! New keys over the link.

use kakuremichi_core::key::IdentityKey;
use kakuremichi_proto::session::RotateRequest;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn later() -> Timestamp {
    Timestamp::from(SystemTime::now()).after(HOUR)
}

/// What the node would find at its next start: who it is, who it proposes to be, and who it was.
fn on_disk(state: &Path) -> (IdentityKey, Option<IdentityKey>, Option<IdentityKey>) {
    let state = StateDir::open(state).unwrap();
    let held = state
        .key_ring(Timestamp::from(SystemTime::now()))
        .unwrap()
        .0
        .held();
    let identity = |keys: Option<crate::keys::NodeKeys>| keys.map(|keys| keys.identity());
    (
        held.current.identity(),
        identity(held.next),
        identity(held.previous),
    )
}

/// Waits until the node has the keys that it proposed: who asks before is told of those.
async fn promoted(state: &Path) {
    timeout(LIMIT, async {
        while state.join("keys.next").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

async fn shown(connection: &mut Connection) -> IdentityKey {
    match connection.event().await {
        ServerEvent::Enrol(request) => request.identity,
        ServerEvent::Authenticate(request) => request.identity,
        other => panic!("{other:?}"),
    }
}

async fn let_in(control: &FakeControl) -> (Connection, IdentityKey) {
    let mut connection = control.accept().await;
    let identity = shown(&mut connection).await;
    connection.accepted(node_id());
    assert!(matches!(connection.event().await, ServerEvent::Ready(_)));
    (connection, identity)
}

#[tokio::test]
async fn a_node_that_is_asked_has_new_keys_once_control_does() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let (node, running) = start(&control.link(), temp.path());
    let (mut connection, identity) = let_in(&control).await;
    assert_eq!(connection.command(Command::RotateKeys).await, Ok(()));
    let request = connection.rotation().await;
    assert_eq!(request.old, identity);
    // It died before it heard, wherever Control stood: it asks again for the same, as who it was.
    drop(connection);
    kill(node, running, temp.path()).await;
    assert_eq!(on_disk(temp.path()), (identity, Some(request.new), None));
    let (node, running) = start(&control.link(), temp.path());
    let (mut connection, again) = let_in(&control).await;
    assert_eq!(again, identity);
    assert_eq!(connection.rotation().await, request);
    connection.answer_rotation(Ok(Some(later()))).await;
    promoted(temp.path()).await;

    // The program asks for the next ones, and is told.
    let rotations = node.rotations.clone();
    let asked = tokio::spawn(async move { rotate(&rotations, false).await });
    let third = connection.rotation().await;
    assert_eq!(third.old, request.new);
    connection.answer_rotation(Ok(Some(later()))).await;
    let told = async {
        tokio::select! {
            told = asked => told.unwrap(),
            event = connection.event() => panic!("{event:?}"),
        }
    };
    timeout(LIMIT, told).await.unwrap().unwrap();
    drop(connection);
    kill(node, running, temp.path()).await;
    assert_eq!(on_disk(temp.path()), (third.new, None, Some(request.new)));
}

#[tokio::test]
async fn a_node_keeps_its_keys_where_new_ones_are_refused() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let (node, running) = start(&control.link(), temp.path());
    let (mut connection, identity) = let_in(&control).await;
    let rotations = node.rotations.clone();
    let asked = tokio::spawn(async move { rotate(&rotations, false).await });
    connection.rotation().await;
    let refusal = Refusal::new(Code::CONFLICT, "another node has this identity");
    connection.answer_rotation(Err(refusal.clone())).await;
    let told = async {
        tokio::select! {
            told = asked => told.unwrap(),
            event = connection.event() => panic!("{event:?}"),
        }
    };
    let told = timeout(LIMIT, told).await.unwrap();
    assert!(matches!(told, Err(RotateKeysError::Refused(why)) if why == refusal));
    drop(connection);
    kill(node, running, temp.path()).await;
    assert_eq!(on_disk(temp.path()), (identity, None, None));
    let fixed = tokio::sync::mpsc::channel(1).0;
    assert!(matches!(
        rotate(&fixed, true).await,
        Err(RotateKeysError::NoControl)
    ));
}

/// Their configurations have the key, and nobody can tell them another.
#[tokio::test]
async fn a_node_that_stock_devices_know_proposes_another_identity_only() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let (node, running) = start(&control.link(), temp.path());
    let (mut connection, identity) = let_in(&control).await;
    let wireguard = {
        let keys = fs::read_to_string(temp.path().join("wireguard.key")).unwrap();
        move |path: &Path| fs::read_to_string(path.join("wireguard.key")).unwrap() == keys
    };
    assert_eq!(connection.command(Command::RotateKeys).await, Ok(()));
    let both = connection.rotation().await;
    let known = Refusal::new(Code::WIREGUARD_KEY_KNOWN, "sites have it");
    connection.answer_rotation(Err(known)).await;
    let request = connection.rotation().await;
    assert_ne!((request.new, request.wireguard), (both.new, both.wireguard));
    connection.answer_rotation(Ok(Some(later()))).await;
    promoted(temp.path()).await;
    assert!(wireguard(temp.path()));
    drop(connection);
    kill(node, running, temp.path()).await;
    assert_eq!(on_disk(temp.path()), (request.new, None, Some(identity)));
}

/// Control took them, the answer was lost, and the node was away until those of before counted no more.
#[tokio::test]
async fn a_node_whose_keys_are_refused_shows_those_that_it_proposed() {
    let temp = TempDir::new().unwrap();
    let control = FakeControl::start().await;
    let (node, running) = start(&control.link(), temp.path());
    let (mut connection, identity) = let_in(&control).await;
    assert_eq!(connection.command(Command::RotateKeys).await, Ok(()));
    let RotateRequest { new, .. } = connection.rotation().await;
    drop(connection);
    let mut connection = control.accept().await;
    assert_eq!(shown(&mut connection).await, identity);
    let other_keys = Reason::permanent(Code::NODE_KEYS, "these are not its keys");
    connection.refuse(other_keys.clone()).await;
    let (connection, now) = let_in(&control).await;
    assert_eq!(now, new);
    drop(connection);
    // Where those are refused, too, it is over.
    let mut connection = control.accept().await;
    assert_eq!(shown(&mut connection).await, new);
    connection.refuse(other_keys).await;
    let mut running = running;
    assert_eq!(running.end().await.code(), Some(Code::NODE_KEYS));
    kill(node, running, temp.path()).await;
    assert_eq!(on_disk(temp.path()), (new, None, None));
}
