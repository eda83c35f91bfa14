//! The chain of the audit, on real databases that somebody else writes to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use kakuremichi_control::{
    Control, identity_key,
    service::{ApiKeyDraft, AuditFault, LinkText, Verified},
    store::SqlStore,
};
use kakuremichi_core::{
    audit::AuditQuery,
    model::Permissions,
    store::{Sequence, Store},
};
use kakuremichi_tests::Postgres;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// More than anything here takes: twice the life of a lease, and then some.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database, and another way into it.
struct Place {
    url: String,
    sql: DatabaseConnection,
    _directory: Option<TempDir>,
}

impl Place {
    async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("control.db").display());
        SqlStore::connect(&url).await.unwrap().close().await.unwrap();
        Self::at(url, Some(directory)).await
    }

    async fn postgresql() -> Option<Self> {
        let url = Postgres::shared()?.database();
        SqlStore::connect(&url).await.unwrap().close().await.unwrap();
        Some(Self::at(url, None).await)
    }

    async fn at(url: String, directory: Option<TempDir>) -> Self {
        let sql = Database::connect(&url).await.unwrap();
        Self {
            url,
            sql,
            _directory: directory,
        }
    }

    async fn store(&self) -> SqlStore {
        SqlStore::connect(&self.url).await.unwrap()
    }

    async fn control(&self) -> Control {
        Control::builder(self.store().await)
            .public_url("https://control.example.net")
            .identity(identity_key().unwrap().expose())
            .build()
            .unwrap()
    }

    async fn tamper(&self, sql: &str) {
        let rows = self.sql.execute_unprepared(sql).await.unwrap().rows_affected();
        assert!(rows > 0, "{sql}");
    }

    async fn sequences(&self) -> Vec<Sequence> {
        let rows = self
            .store()
            .await
            .audit_rows(&AuditQuery::default())
            .await
            .unwrap();
        rows.iter().map(|row| row.sequence).collect()
    }
}

async fn deed(control: &Control) {
    let draft = ApiKeyDraft {
        name: "key".parse().unwrap(),
        permissions: Permissions::NONE,
        expires: None,
    };
    let actor = control.use_cases().control().await.unwrap();
    control.use_cases().create_api_key(&actor, draft).await.unwrap();
}

async fn verified(control: &Control) -> Verified {
    control.use_cases().verify_audit(None).await.unwrap().unwrap()
}

/// Waits until everything is sealed. The chain is without a fault all the time.
async fn sealed(control: &Control) -> Verified {
    let end = Instant::now() + PATIENCE;
    loop {
        let verified = verified(control).await;
        if verified.unsealed == 0 {
            return verified;
        }
        assert!(Instant::now() < end, "{verified:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A database with sealed deeds on which nobody works any more.
async fn filled(place: &Place) -> Verified {
    let control = place.control().await;
    let _router = control.router();
    for _ in 0..6 {
        deed(&control).await;
    }
    let verified = sealed(&control).await;
    control.shutdown(PATIENCE).await;
    verified
}

/// What can be done to the audit of a database, and what a check must find then; nothing for what only a pinned
/// head shows.
fn changes(sqlite: bool, at: &[Sequence]) -> Vec<(Vec<String>, Option<AuditFault>)> {
    let n = at.len();
    let number = |index: usize| at[index].0;
    let only = |index: usize, what: &str| format!("{what} WHERE sequence = {}", number(index));
    let hash = format!("(SELECT hash FROM audit WHERE sequence = {})", number(n - 3));
    let hash = match sqlite {
        true => format!("lower(hex({hash}))"),
        false => format!("encode({hash}, 'hex')"),
    };
    let put_back = format!(
        "UPDATE meta SET value = '{}:' || {hash} WHERE key = 'audit_head'",
        number(n - 3)
    );
    let cut = format!("DELETE FROM audit WHERE sequence > {}", number(n - 3));
    let columns = "at, authority, actor, organization, action, subject";
    let insert = |from: usize, to: u64| {
        let what = format!("INSERT INTO audit (sequence, {columns}) SELECT {to}, {columns} FROM audit");
        only(from, &what)
    };
    let broken = |behind: usize, index: usize| AuditFault::Broken {
        behind: at[behind],
        at: at[index],
    };
    let removed = AuditFault::Removed {
        behind: at[n - 3],
        head: at[n - 1],
    };
    let inserted = |index: usize| Some(AuditFault::Inserted(at[index]));
    vec![
        (
            vec![only(2, "UPDATE audit SET action = 'nothing'")],
            Some(broken(1, 2)),
        ),
        (vec![only(2, "UPDATE audit SET at = at + 1")], Some(broken(1, 2))),
        (
            vec![only(2, "UPDATE audit SET organization = NULL")],
            Some(broken(1, 2)),
        ),
        (vec![only(2, "UPDATE audit SET hash = NULL")], inserted(2)),
        (vec![only(2, "DELETE FROM audit")], Some(broken(1, 3))),
        (
            vec![only(2, "DELETE FROM audit"), insert(3, number(2))],
            inserted(2),
        ),
        (vec![insert(3, 0)], Some(AuditFault::Inserted(Sequence(0)))),
        (vec![cut.clone()], Some(removed)),
        (vec![put_back.clone()], Some(AuditFault::Beyond(at[n - 1]))),
        (vec![cut, put_back], None),
    ]
}

async fn each_change_shows(places: impl AsyncFn() -> Place) {
    let mut case = 0;
    loop {
        let place = places().await;
        let head = filled(&place).await.head;
        let at = place.sequences().await;
        let mut changes = changes(place.url.starts_with("sqlite"), &at);
        if case >= changes.len() {
            return;
        }
        let (statements, fault) = changes.swap_remove(case);
        for statement in &statements {
            place.tamper(statement).await;
        }
        let control = place.control().await;
        let found = control.use_cases().verify_audit(None).await.unwrap();
        assert_eq!(found.err(), fault, "{statements:?}");
        let pinned = control.use_cases().verify_audit(Some(head)).await.unwrap();
        let pinned = pinned.expect_err("a pinned head shows it");
        assert!(
            fault.is_some() || pinned == AuditFault::Pin(head.sequence),
            "{pinned:?}"
        );
        case += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_the_audit_shows_on_sqlite() {
    each_change_shows(Place::sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_the_audit_shows_on_postgresql() {
    if Postgres::shared().is_none() {
        return;
    }
    each_change_shows(async || Place::postgresql().await.unwrap()).await;
}

/// A chain goes on after a restart, and a head that was pinned before is still in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_goes_on_after_a_restart() {
    let place = Place::sqlite().await;
    let first = filled(&place).await;
    let second = filled(&place).await;
    assert!(second.sealed > first.sealed);
    let control = place.control().await;
    for head in [first.head, second.head] {
        assert_eq!(
            control.use_cases().verify_audit(Some(head)).await.unwrap(),
            Ok(second)
        );
    }
    assert_eq!(LinkText(first.head).to_string().parse(), Ok(LinkText(first.head)));
}

/// Deeds of two instances at once make one chain; the one that seals is gone without a word, and the other goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_seal_one_chain_and_one_is_killed() {
    let Some(place) = Place::postgresql().await else {
        return;
    };
    let (one, two) = (place.control().await, place.control().await);
    let routers = (one.router(), two.router());
    let many = async |control: &Control| {
        for _ in 0..40 {
            deed(control).await;
        }
    };
    tokio::join!(many(&one), many(&two));
    let before = sealed(&one).await;
    let holder = "SELECT holder FROM lease WHERE name = 'audit-sealer'";
    let server = Postgres::shared().unwrap();
    let held = server.sql(&place.url, holder);
    // Whichever of the two it is: what is killed gives nothing back.
    drop((one, routers.0));
    many(&two).await;
    let after = sealed(&two).await;
    assert!(after.sealed >= before.sealed + 40);
    drop((two, routers.1));
    let third = place.control().await;
    let _router = third.router();
    deed(&third).await;
    sealed(&third).await;
    assert_ne!(server.sql(&place.url, holder), held);
    let pinned = third.use_cases().verify_audit(Some(before.head)).await.unwrap();
    assert!(pinned.is_ok(), "{pinned:?}");
}
