//! Which instance a node is connected to, where there can be several.

use async_trait::async_trait;
use sea_orm::{ConnectionTrait as _, DbBackend, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

/// Not logged: a server that crashed begins without, and so do its instances.
const TABLES: [&str; 2] = [
    "CREATE UNLOGGED TABLE instance (id bytea PRIMARY KEY, seen timestamptz NOT NULL)",
    "CREATE UNLOGGED TABLE presence (node text PRIMARY KEY, instance bytea NOT NULL, session bigint NOT NULL, \
     connected bigint, disconnected bigint)",
];

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0008_presence"
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait elides the lifetime, and async_trait tells `'_` from that"
)]
#[async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        // A file belongs to one process, which knows its nodes.
        if connection.get_database_backend() == DbBackend::Postgres {
            for table in TABLES {
                connection.execute_unprepared(table).await?;
            }
        }
        Ok(())
    }
}
