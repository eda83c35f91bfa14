//! Notice of what other instances write.
//!
//! Every commit on PostgreSQL notifies a channel, and who waits has a connection that listens to it. What is
//! heard is only that it is time to look: the change feed is the truth, and is read in any case from time to
//! time.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use kakuremichi_core::store::Sequence;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend};
use sqlx::{PgPool, postgres::PgListener};
use tokio::{sync::watch, task::AbortHandle};

use super::row;

/// The channel of a database. Channels of different databases have nothing to do with each other.
const CHANNEL: &str = "kakuremichi_change";
/// The pause after listening failed.
const RETRY: Duration = Duration::from_secs(1);

/// Tells the waiting of this process what others have written. Clones share one connection, which is opened
/// when somebody first waits.
#[derive(Clone)]
pub(super) struct Wake(Option<Arc<Listening>>);

struct Listening {
    pool: PgPool,
    task: OnceLock<(watch::Receiver<Sequence>, AbortHandle)>,
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wake").field(&self.0.is_some()).finish()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some((_, task)) = self.task.get() {
            task.abort();
        }
    }
}

/// Notifies, when the transaction commits, whoever listens.
pub(super) async fn notify(transaction: &impl ConnectionTrait) -> Result<(), sea_orm::DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        let sql = format!("NOTIFY {CHANNEL}");
        transaction.execute_unprepared(&sql).await?;
    }
    Ok(())
}

impl Wake {
    /// For this database; on SQLite nobody is ever woken.
    pub(super) fn new(database: &DatabaseConnection) -> Self {
        let postgres = database.get_database_backend() == DbBackend::Postgres;
        Self(postgres.then(|| {
            Arc::new(Listening {
                pool: database.get_postgres_connection_pool().clone(),
                task: OnceLock::new(),
            })
        }))
    }

    /// Waits until there is a change behind `after`.
    pub(super) async fn behind(&self, after: Sequence) {
        let Some(listening) = &self.0 else {
            return std::future::pending().await;
        };
        let (heard, _) = listening.task.get_or_init(|| {
            let (tell, heard) = watch::channel(Sequence::START);
            let task = tokio::spawn(listen(listening.pool.clone(), tell));
            (heard, task.abort_handle())
        });
        let mut heard = heard.clone();
        if heard.wait_for(|last| *last > after).await.is_err() {
            // The pool was closed: nothing will be written by this process, and nothing read.
            std::future::pending().await
        }
    }
}

async fn listen(pool: PgPool, tell: watch::Sender<Sequence>) {
    while !pool.is_closed() {
        match follow(&pool, &tell).await {
            Ok(()) | Err(sqlx::Error::PoolClosed) => return,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot listen to other instances"
                );
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Listens until the connection is lost for good.
async fn follow(pool: &PgPool, tell: &watch::Sender<Sequence>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // Also at the start, and after the connection was made anew: what was said meanwhile was not heard.
        while listener.next_buffered().is_some() {}
        let last: Option<i64> = sqlx::query_scalar("SELECT max(sequence) FROM change")
            .fetch_one(pool)
            .await?;
        tell.send_replace(Sequence(row::number(last.unwrap_or_default())));
        listener.try_recv().await?;
    }
}
