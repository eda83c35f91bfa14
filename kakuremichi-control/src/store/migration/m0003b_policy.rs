//! Policies that services and routes share.

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sea_query::{Alias, ColumnDef, ForeignKey, Index, Table},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0003b_policy"
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
        let column = |name: &str| ColumnDef::new(Alias::new(name)).not_null().to_owned();
        let mut owner = ForeignKey::create()
            .from(Alias::new("policy"), Alias::new("organization"))
            .to(Alias::new("organization"), Alias::new("id"))
            .to_owned();
        let mut table = Table::create();
        table
            .table(Alias::new("policy"))
            .col(column("id").binary().primary_key())
            .col(column("organization").binary())
            .col(column("version").big_integer())
            .col(column("name").text())
            .col(column("rules").text())
            .col(ColumnDef::new(Alias::new("access")).text().null())
            .col(column("created").big_integer())
            .foreign_key(&mut owner);
        manager.create_table(table).await?;
        let mut index = Index::create();
        index
            .name("policy_organization_id")
            .table(Alias::new("policy"))
            .col(Alias::new("organization"))
            .col(Alias::new("id"));
        manager.create_index(index).await
    }
}
