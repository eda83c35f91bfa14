//! The numbers of a feed's rows, and how far a feed can be read.
//!
//! A reader asks for what is behind the last number that it saw, so a row must never appear in front of one
//! that was read. SQLite has one writer, and counts. In PostgreSQL transactions end in another order than
//! they took numbers from a sequence, so a row's number is made of its transaction's identifier instead, and
//! of its place in the transaction:
//!
//! ```text
//! number = (base + pg_current_xact_id()) << 20 | place
//! ```
//!
//! A snapshot's `xmin` is the least transaction that may still be under way: each below it has ended, what it
//! wrote is visible, and whatever begins later has a greater identifier. So the rows below `xmin`, in the
//! order of their numbers, are a prefix of the feed that never changes, and one number is the whole cursor.
//!
//! `xmin` counts the transactions of all databases of a server. Were it all, a batch job that runs for an hour
//! in a database next to ours would keep a revocation from its gateways for an hour. Such a transaction cannot
//! write here: when rows are held back, those that are proven to be of another database are left out.
//!
//! Identifiers of transactions begin anew when the database moves to another server. `base` makes up for it:
//! opening the database raises it above every number that is there.

use std::time::Duration;

use kakuremichi_core::store::StoreError;
use sea_orm::{
    ActiveValue::{self, NotSet, Set},
    ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, Statement,
    sea_query::OnConflict,
};
use tokio::time::{Instant, sleep};

use super::{backend, entity::meta};

/// Bits of a number that are the place in the transaction.
const PLACE_BITS: u32 = 20;
/// The key of the base in `meta`.
pub(super) const BASE: &str = "feed_base";
/// How long a read waits for transactions under way whose rows would come first. After that it returns nothing.
const HELD_BACK: Duration = Duration::from_secs(1);
/// The pause between two looks at them; one more of it each time.
const PAUSE: Duration = Duration::from_millis(10);

/// The transactions below this have ended.
const XMIN: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS number";

/// The same, but for transactions that hold their own identifier's lock in a session of another database. One
/// of which that is not known counts.
const XMIN_HERE: &str = "
    SELECT coalesce(min(open.xid), pg_snapshot_xmax(pg_current_snapshot())::text::bigint) AS number
    FROM (SELECT pg_snapshot_xip(pg_current_snapshot())::text::bigint AS xid) AS open
    WHERE NOT EXISTS (
        SELECT FROM pg_locks AS held JOIN pg_stat_activity AS session ON session.pid = held.pid
        WHERE held.locktype = 'transactionid' AND held.mode = 'ExclusiveLock' AND held.granted
          AND held.transactionid::text::bigint = open.xid % 4294967296
          AND session.datid <> (SELECT oid FROM pg_database WHERE datname = current_database()))";

/// How the rows of the feeds of a database are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The database counts.
    Counted,
    /// By transaction.
    ByTransaction {
        /// What is added to each transaction's identifier.
        base: i64,
    },
}

#[derive(Debug, FromQueryResult)]
struct Number {
    number: Option<i64>,
}

impl Order {
    /// The order of this database. On PostgreSQL the base is raised when that is needed, so this is done while
    /// no other instance opens it.
    pub(super) async fn settle(database: &impl ConnectionTrait) -> Result<Self, DbErr> {
        if database.get_database_backend() != DbBackend::Postgres {
            return Ok(Self::Counted);
        }
        let base = Self::read_base(database).await?;
        let last = "SELECT greatest((SELECT max(sequence) FROM change), (SELECT max(sequence) FROM audit)) AS number";
        let last = number(database, last).await?;
        let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS number";
        let next = number(database, next).await?.unwrap_or_default();
        let needed = last.map_or(0, |last| (last >> PLACE_BITS) + 1 - next);
        if needed <= base {
            return Ok(Self::ByTransaction { base });
        }
        let row = meta::ActiveModel {
            key: Set(BASE.to_owned()),
            value: Set(needed.to_string()),
        };
        meta::Entity::insert(row)
            .on_conflict(
                OnConflict::column(meta::Column::Key)
                    .update_column(meta::Column::Value)
                    .to_owned(),
            )
            .exec_without_returning(database)
            .await?;
        Ok(Self::ByTransaction { base: needed })
    }

    /// The order of a database that is open already.
    pub(super) async fn read(database: &impl ConnectionTrait) -> Result<Self, DbErr> {
        match database.get_database_backend() {
            DbBackend::Postgres => Ok(Self::ByTransaction {
                base: Self::read_base(database).await?,
            }),
            _ => Ok(Self::Counted),
        }
    }

    async fn read_base(database: &impl ConnectionTrait) -> Result<i64, DbErr> {
        let row = meta::Entity::find_by_id(BASE).one(database).await?;
        let Some(row) = row else { return Ok(0) };
        row.value
            .parse()
            .map_err(|_| DbErr::Type(format!("{BASE} is no number in meta")))
    }

    /// The numbers of this transaction's rows.
    pub(super) async fn numbers(self, transaction: &impl ConnectionTrait) -> Result<Numbers, StoreError> {
        let Self::ByTransaction { base } = self else {
            return Ok(Numbers(None));
        };
        let xid = "SELECT pg_current_xact_id()::text::bigint AS number";
        let xid = number(transaction, xid).await.map_err(backend)?;
        let first = xid.map(|xid| (base + xid) << PLACE_BITS);
        Ok(Numbers(first.map(|first| first..first + (1 << PLACE_BITS))))
    }

    /// The number below which nothing will appear any more; `None` when that is so of all numbers there are.
    async fn bound(self, database: &impl ConnectionTrait, sql: &str) -> Result<Option<i64>, StoreError> {
        let Self::ByTransaction { base } = self else {
            return Ok(None);
        };
        let xmin = number(database, sql).await.map_err(backend)?;
        Ok(xmin.map(|xmin| (base + xmin) << PLACE_BITS))
    }

    /// As [`bound`](Self::bound), as near as it can be known: for reads that do not wait.
    pub(super) async fn nearest_bound(
        self,
        database: &impl ConnectionTrait,
    ) -> Result<Option<i64>, StoreError> {
        self.bound(database, XMIN_HERE).await
    }

    /// Where the next look at the feed ends. The first is cheap; those after it look more closely, a little
    /// later each time. `None` when it is time to give up.
    pub(super) async fn next_bound(
        self,
        database: &impl ConnectionTrait,
        looks: &mut Looks,
    ) -> Result<Option<Bound>, StoreError> {
        let began = *looks.began.get_or_insert_with(Instant::now);
        looks.count += 1;
        let bound = match looks.count {
            1 => self.bound(database, XMIN).await?,
            2 => self.nearest_bound(database).await?,
            _ if began.elapsed() >= HELD_BACK => {
                tracing::warn!("a transaction that does not end holds back the feed of the store");
                return Ok(None);
            }
            _ => {
                sleep(PAUSE * looks.count).await;
                self.nearest_bound(database).await?
            }
        };
        Ok(Some(Bound(bound)))
    }
}

/// The transaction of a row's number.
pub(super) const fn transaction(number: i64) -> i64 {
    number >> PLACE_BITS
}

/// The numbers that the rows of one transaction get.
#[derive(Debug, Clone)]
pub(super) struct Numbers(Option<std::ops::Range<i64>>);

impl Numbers {
    /// The next one; not set when the database counts.
    pub(super) fn next(&mut self) -> Result<ActiveValue<i64>, StoreError> {
        match &mut self.0 {
            None => Ok(NotSet),
            // More rows than places: nobody writes so much at once.
            Some(range) => range.next().map(Set).ok_or(StoreError::Full),
        }
    }
}

/// The looks of one read at how far the feed goes.
#[derive(Debug, Default)]
pub(super) struct Looks {
    began: Option<Instant>,
    count: u32,
}

impl Looks {
    /// Whether to look again, when of so many rows that there are so many can be given out: for any that were
    /// not, if only the cheap look was taken, and for the first one otherwise.
    pub(super) const fn look_again(&self, given: usize, there: usize) -> bool {
        given < there && (given == 0 || self.count == 1)
    }
}

/// Where a read ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound(Option<i64>);

impl Bound {
    /// The number where it ends, if it does.
    pub(super) const fn end(self) -> Option<i64> {
        self.0
    }

    /// Whether a row of this number can be given out.
    pub(super) fn allows(self, number: i64) -> bool {
        self.0.is_none_or(|bound| number < bound)
    }
}

async fn number(database: &impl ConnectionTrait, sql: &str) -> Result<Option<i64>, DbErr> {
    let statement = Statement::from_string(database.get_database_backend(), sql);
    let row = Number::find_by_statement(statement).one(database).await?;
    Ok(row.and_then(|row| row.number))
}
