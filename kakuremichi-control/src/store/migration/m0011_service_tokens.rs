//! Service tokens.

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sea_query::{Alias, ColumnDef, Index, Table},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

const TABLE: &str = "service_token";

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0011_service_tokens"
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
        table.table(Alias::new(TABLE));
        table.col(column("id").binary().not_null().primary_key());
        table.col(column("organization").binary().null());
        table.col(column("owner").binary().null());
        table.col(column("version").big_integer().not_null());
        table.col(column("document").text().not_null());
        manager.create_table(table).await?;
        let mut index = Index::create();
        index.name(format!("{TABLE}_organization_id"));
        index.table(Alias::new(TABLE));
        index.col(Alias::new("organization")).col(Alias::new("id"));
        manager.create_index(index).await
    }
}

fn column(name: &str) -> ColumnDef {
    ColumnDef::new(Alias::new(name))
}
