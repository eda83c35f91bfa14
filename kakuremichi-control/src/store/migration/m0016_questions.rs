//! What instances ask each other, where there can be several.

use async_trait::async_trait;
use sea_orm::{ConnectionTrait as _, DbBackend, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

/// Not logged: who asked is gone when the server is.
const TABLES: [&str; 2] = [
    "CREATE UNLOGGED TABLE question (id bytea PRIMARY KEY, instance bytea NOT NULL, asked timestamptz NOT NULL, \
     question text NOT NULL)",
    "CREATE UNLOGGED TABLE answer (question bytea NOT NULL REFERENCES question (id) ON DELETE CASCADE, \
     instance bytea NOT NULL, answer text NOT NULL, PRIMARY KEY (question, instance))",
];

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0016_questions"
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
        // A file belongs to one process, which has nobody to ask.
        if connection.get_database_backend() == DbBackend::Postgres {
            for table in TABLES {
                connection.execute_unprepared(table).await?;
            }
        }
        Ok(())
    }
}
