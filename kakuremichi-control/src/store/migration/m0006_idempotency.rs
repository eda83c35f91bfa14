//! Requests that may be sent again; who made a key or an invitation.

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sea_query::{Alias, ColumnDef, Index, Table},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0006_idempotency"
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
        let mut table = Table::create();
        table
            .table(Alias::new("idempotency"))
            .col(column("caller").binary().not_null())
            .col(column("key").binary().not_null())
            .col(column("request").binary().not_null())
            .col(column("subject").text().null())
            .col(column("at").big_integer().not_null())
            .col(column("answer").binary().null())
            .primary_key(Index::create().col(Alias::new("caller")).col(Alias::new("key")));
        manager.create_table(table).await?;
        for columns in [&["at"][..], &["caller", "at"]] {
            let mut index = Index::create();
            index
                .name(format!("idempotency_{}", columns.join("_")))
                .table(Alias::new("idempotency"));
            for column in columns {
                index.col(Alias::new(*column));
            }
            manager.create_index(index).await?;
        }
        // Of keys that were made before, nobody knows who made them.
        let mut keys = Table::alter();
        keys.table(Alias::new("api_key"))
            .add_column(column("maker").binary().null());
        manager.alter_table(keys).await
    }
}

fn column(name: &str) -> ColumnDef {
    ColumnDef::new(Alias::new(name))
}
