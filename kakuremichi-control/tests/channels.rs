//! Notification channels, with real servers at their ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeSet,
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
};

use axum::Router;
use kakuremichi_control::{
    Control, Mailer, identity_key,
    service::{
        AcceptDraft, ApiKeyDraft, ChannelDraft, ChannelTargetDraft, DeliveryState, UseCaseError, Whereabouts,
        WrittenChannel,
    },
    store::SqlStore,
};
use kakuremichi_core::{id::ChannelId, model::Permissions, secret::Secret};
use kakuremichi_tests::{Hooks, Manner, Postgres, Process, Program, component, wait};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;
use tempfile::TempDir;

/// Where a Control keeps everything, and who it is.
struct World {
    url: String,
    identity: Secret<Vec<u8>>,
    private: bool,
    mail: Option<Mailer>,
    _directory: Option<TempDir>,
}

impl World {
    fn on_file() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("control.db").display());
        Self::new(url, Some(directory))
    }

    fn on_server() -> Option<Self> {
        Some(Self::new(Postgres::shared()?.database(), None))
    }

    /// On each database.
    fn each() -> impl Iterator<Item = Self> {
        std::iter::once(Self::on_file()).chain(Self::on_server())
    }

    fn new(url: String, directory: Option<TempDir>) -> Self {
        Self {
            url,
            identity: identity_key().unwrap(),
            private: true,
            mail: None,
            _directory: directory,
        }
    }

    async fn control(&self, trusted: &[&Hooks]) -> (Control, Router) {
        let mut roots = RootCertStore::empty();
        for hooks in trusted {
            let authority = CertificateDer::from_pem_slice(hooks.authority().as_bytes()).unwrap();
            roots.add(authority).unwrap();
        }
        let mut builder = Control::builder(SqlStore::connect(&self.url).await.unwrap());
        if let Some(mailer) = self.mail.clone() {
            builder = builder.mail(mailer);
        }
        let control = builder
            .public_url("https://control.example.net")
            .identity(self.identity.expose())
            .private_webhooks(self.private)
            .trust(roots)
            .build()
            .unwrap();
        let router = control.router();
        (control, router)
    }
}

async fn channel(control: &Control, name: &str, hooks: &Hooks, events: &[&str]) -> WrittenChannel {
    let actor = control.use_cases().control().await.unwrap();
    let draft = ChannelDraft {
        name: name.parse().unwrap(),
        target: ChannelTargetDraft::Webhook(hooks.url()),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        new_secret: false,
    };
    control.use_cases().create_channel(&actor, draft).await.unwrap()
}

async fn state(control: &Control, id: ChannelId) -> DeliveryState {
    let actor = control.use_cases().control().await.unwrap();
    let channel = control.use_cases().channel(&actor, id).await.unwrap();
    control.use_cases().delivery_state(&channel.value).await.unwrap()
}

async fn make_keys(control: &Control, count: usize) {
    let actor = control.use_cases().control().await.unwrap();
    for _ in 0..count {
        let draft = ApiKeyDraft {
            name: "key".parse().unwrap(),
            permissions: Permissions::NONE,
            expires: None,
        };
        control.use_cases().create_api_key(&actor, draft).await.unwrap();
    }
}

fn sequences(events: &[Value]) -> Vec<u64> {
    let sequences = events.iter().map(|event| event["sequence"].as_str().unwrap());
    sequences.map(|text| text.parse().unwrap()).collect()
}

/// So many different events, which came in their order.
async fn has(hooks: &Hooks, count: usize) -> Vec<Value> {
    let events = wait::until_async("events", async || {
        let events = hooks.events();
        let different: BTreeSet<_> = sequences(&events).into_iter().collect();
        (different.len() >= count).then_some(events)
    })
    .await;
    assert!(sequences(&events).is_sorted(), "{events:?}");
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_gets_every_entry_once_in_order_and_signed() {
    for world in World::each() {
        let (hooks, picky) = (Hooks::here(), Hooks::here());
        let (control, _router) = world.control(&[&hooks, &picky]).await;
        make_keys(&control, 2).await;
        let made = channel(&control, "all", &hooks, &[]).await;
        channel(
            &control,
            "picky",
            &picky,
            &["notification_channel.", "token.create"],
        )
        .await;
        make_keys(&control, 150).await;
        let events = has(&hooks, 151).await;
        // What was done before is not sent; what makes the other channel is.
        assert_eq!(events[0]["action"], "notification_channel.create");
        let keys = events.iter().filter(|event| event["action"] == "api_key.create");
        assert_eq!((events.len(), keys.count()), (151, 150));
        let secret = made.secret.unwrap();
        for delivery in hooks.taken() {
            assert!(delivery.is_signed_with(secret.expose()));
        }
        let actor = control.use_cases().control().await.unwrap();
        let id = made.channel.value.id;
        let state = wait::until_async("the position", async || {
            let state = state(&control, id).await;
            let last = sequences(&events).last().copied();
            (state.sequence.map(|sequence| sequence.0) == last).then_some(state)
        })
        .await;
        assert!(state.delivered.is_some() && state.failures == 0);
        // A channel that chooses its events gets nothing else.
        let deleted = control.use_cases().delete_channel(&actor, id, None).await;
        deleted.unwrap();
        let events = has(&picky, 1).await;
        assert_eq!(
            (events.len(), &events[0]["action"]),
            (1, &"notification_channel.delete".into())
        );
        assert_eq!(events[0]["subject"], id.to_string());
    }
}

/// A receiver that is down loses nothing, and says so meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_receiver_missed_comes_when_it_is_back() {
    for world in World::each() {
        let mut hooks = Hooks::here();
        let (control, _router) = world.control(&[&hooks]).await;
        let id = channel(&control, "keys", &hooks, &["api_key."])
            .await
            .channel
            .value
            .id;
        make_keys(&control, 2).await;
        has(&hooks, 2).await;
        hooks.stop();
        make_keys(&control, 3).await;
        let failing = wait::until_async("a failure", async || {
            let state = state(&control, id).await;
            (state.failures > 0).then_some(state)
        })
        .await;
        assert!(failing.failing_since.is_some() && failing.delivered.is_some());
        assert!(failing.error.unwrap().contains("cannot be connected to"));
        hooks.set(Manner::Fails);
        hooks.start_again();
        wait::until_async("another failure", async || {
            let state = state(&control, id).await;
            state.error.filter(|error| error.contains("502"))
        })
        .await;
        hooks.set(Manner::Takes);
        assert_eq!(has(&hooks, 5).await.len(), 5);
        wait::until_async("the end of the failures", async || {
            let state = state(&control, id).await;
            (state.failures == 0 && state.error.is_none()).then_some(())
        })
        .await;
        // Each attempt at the same events has the same identifier.
        let ids: BTreeSet<_> = hooks
            .taken()
            .iter()
            .map(|delivery| delivery.headers["webhook-id"].clone().as_bytes().to_vec())
            .collect();
        assert_eq!(ids.len(), hooks.taken().len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_hangs_holds_up_no_other_and_a_redirect_leads_nowhere() {
    let world = World::on_file();
    let (hangs, redirects, takes) = (Hooks::here(), Hooks::here(), Hooks::here());
    hangs.set(Manner::Hangs);
    redirects.set(Manner::Redirects);
    let (control, _router) = world.control(&[&hangs, &redirects, &takes]).await;
    channel(&control, "hangs", &hangs, &["api_key."]).await;
    let id = channel(&control, "redirects", &redirects, &["api_key."])
        .await
        .channel
        .value
        .id;
    channel(&control, "takes", &takes, &["api_key."]).await;
    make_keys(&control, 5).await;
    assert_eq!(has(&takes, 5).await.len(), 5);
    wait::until_async("the redirect", async || (redirects.asked() > 1).then_some(())).await;
    assert!(state(&control, id).await.error.unwrap().contains("307"));
    assert!(redirects.taken().is_empty() && hangs.asked() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_goes_on_where_it_was_after_a_restart() {
    for world in World::each() {
        let hooks = Hooks::here();
        let (control, router) = world.control(&[&hooks]).await;
        channel(&control, "keys", &hooks, &["api_key."]).await;
        make_keys(&control, 3).await;
        has(&hooks, 3).await;
        control.shutdown(wait::PATIENCE).await;
        drop((control, router));
        let (control, _router) = world.control(&[&hooks]).await;
        make_keys(&control, 3).await;
        // What was under way when it ended may come twice; nothing is missing, and the order is kept.
        has(&hooks, 6).await;
    }
}

/// Of several processes one sends; when it ends, another one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_several_instances_one_sends() {
    let Some(world) = World::on_server() else {
        return;
    };
    let hooks = Hooks::here();
    let (one, one_router) = world.control(&[&hooks]).await;
    let (two, _two_router) = world.control(&[&hooks]).await;
    channel(&one, "keys", &hooks, &["api_key."]).await;
    make_keys(&one, 20).await;
    make_keys(&two, 20).await;
    assert_eq!(has(&hooks, 40).await.len(), 40);
    one.shutdown(wait::PATIENCE).await;
    drop((one, one_router));
    make_keys(&two, 20).await;
    has(&hooks, 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_says_what_came_of_it() {
    let mut world = World::on_file();
    let (hooks, stranger) = (Hooks::here(), Hooks::here());
    let (control, router) = world.control(&[&hooks]).await;
    let made = channel(&control, "hooks", &hooks, &["nothing.done"]).await;
    let id = made.channel.value.id;
    let strange = channel(&control, "stranger", &stranger, &["nothing.done"])
        .await
        .channel
        .value
        .id;
    let test = async |control: &Control, id| {
        let actor = control.use_cases().control().await.unwrap();
        control.use_cases().test_channel(&actor, id).await.unwrap()
    };
    assert_eq!(test(&control, id).await, None);
    let taken = hooks.taken();
    assert!(taken[0].is_signed_with(made.secret.unwrap().expose()));
    assert_eq!(taken[0].events()[0]["action"], "notification_channel.test");
    assert!(
        test(&control, strange)
            .await
            .unwrap()
            .contains("no TLS is spoken")
    );
    assert!(stranger.taken().is_empty());
    hooks.set(Manner::Fails);
    assert_eq!(
        test(&control, id).await.unwrap(),
        "the server answered 502 Bad Gateway"
    );
    // By default nothing is sent to where only this machine reaches.
    control.shutdown(wait::PATIENCE).await;
    drop((control, router));
    world.private = false;
    let (control, _router) = world.control(&[&hooks]).await;
    let refused = test(&control, id).await.unwrap();
    assert!(refused.contains("--private-webhooks"), "{refused}");
}

/// A mail server that keeps what it gets.
fn mail_server(directory: &Path) -> (Process, Mailer) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("127.0.0.1:{port}");
    let server = Program::other(component::path("aiosmtpd").unwrap());
    let server = server.args(["-n", "-l", &address, "-c", "aiosmtpd.handlers.Mailbox"]);
    let server = server.arg(directory).start();
    wait::until("the mail server", || TcpStream::connect(&address).ok());
    let url = Secret::new(format!("smtp://{address}"));
    (
        server,
        Mailer::smtp(&url, "kakuremichi <no-reply@example.net>").unwrap(),
    )
}

/// The first mail that has this in it.
async fn mail_with(directory: &Path, part: &str) -> String {
    wait::until_async("the mail", async || {
        let mails = fs::read_dir(directory.join("new")).ok()?.flatten();
        let mut mails = mails.map(|mail| fs::read_to_string(mail.path()).unwrap());
        mails.find(|mail| mail.contains(part))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_mailed_and_strangers_are_not() {
    if !component::have(&[component::AIOSMTPD]) {
        return;
    }
    let (mut world, mails) = (World::on_file(), tempfile::tempdir().unwrap());
    let directory = mails.path().join("mails");
    let (_server, mailer) = mail_server(&directory);
    world.mail = Some(mailer);
    let (control, _router) = world.control(&[]).await;
    let use_cases = control.use_cases();
    let link = control.set_up_link().await.unwrap().unwrap();
    let (_, invitation) = link.expose().split_once('#').unwrap();
    let draft = AcceptDraft {
        invitation: invitation.parse().unwrap(),
        email: Some("anna@example.net".parse().unwrap()),
        name: "Anna".parse().unwrap(),
        password: Secret::new("correct horse battery".to_owned()),
    };
    let at = Whereabouts {
        source: Some([192, 0, 2, 1].into()),
        user_agent: "a test".to_owned(),
    };
    use_cases.accept_invitation(draft, at).await.unwrap();
    let actor = use_cases.control().await.unwrap();
    let draft = |to: &str| ChannelDraft {
        name: "mail".parse().unwrap(),
        target: ChannelTargetDraft::Mail(vec![to.parse().unwrap()]),
        events: vec!["api_key.".to_owned()],
        new_secret: false,
    };
    let refused = use_cases
        .create_channel(&actor, draft("stranger@example.net"))
        .await;
    assert!(matches!(refused, Err(UseCaseError::Invalid(_))), "{refused:?}");
    let made = use_cases
        .create_channel(&actor, draft("anna@example.net"))
        .await
        .unwrap();
    assert!(made.secret.is_none());
    make_keys(&control, 1).await;
    let mail = mail_with(&directory, "api_key.create").await;
    assert!(mail.contains("To: anna@example.net"), "{mail}");
    let tested = use_cases
        .test_channel(&actor, made.channel.value.id)
        .await
        .unwrap();
    assert_eq!(tested, None);
    mail_with(&directory, "This is a test").await;
}
