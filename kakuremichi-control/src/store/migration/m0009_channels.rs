//! Notification channels, and what tasks of Control keep about records.

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sea_query::{Alias, ColumnDef, Index, Table},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0009_channels"
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
        let mut channel = Table::create();
        channel.table(Alias::new("channel"));
        channel.col(column("id").binary().not_null().primary_key());
        channel.col(column("organization").binary().null());
        channel.col(column("owner").binary().null());
        channel.col(column("version").big_integer().not_null());
        channel.col(column("document").text().not_null());
        manager.create_table(channel).await?;
        let mut index = Index::create();
        index
            .name("channel_organization_id")
            .table(Alias::new("channel"))
            .col(Alias::new("organization"))
            .col(Alias::new("id"));
        manager.create_index(index).await?;
        let mut memo = Table::create();
        memo.table(Alias::new("memo"))
            .col(column("name").text().not_null())
            .col(column("about").text().not_null())
            .col(column("memo").text().not_null())
            .primary_key(Index::create().col(Alias::new("name")).col(Alias::new("about")));
        manager.create_table(memo).await?;
        let mut index = Index::create();
        index
            .name("memo_about")
            .table(Alias::new("memo"))
            .col(Alias::new("about"));
        manager.create_index(index).await
    }
}

fn column(name: &str) -> ColumnDef {
    ColumnDef::new(Alias::new(name))
}
