//! Usage over time.

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sea_query::{Alias, ColumnDef, Index, Table},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0005b_usage"
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
        let mut steps = Table::create();
        steps.table(Alias::new("usage_step"));
        steps.col(column("level").big_integer().not_null());
        steps.col(column("organization").binary().not_null());
        steps.col(column("start").big_integer().not_null());
        steps.col(column("service").binary().not_null());
        steps.col(column("node").text().not_null());
        for name in ["connections", "requests", "bytes_in", "bytes_out"] {
            steps.col(column(name).big_integer().not_null());
        }
        let mut key = Index::create();
        for name in ["level", "organization", "start", "service", "node"] {
            key.col(Alias::new(name));
        }
        steps.primary_key(&mut key);
        manager.create_table(steps).await
    }
}

fn column(name: &str) -> ColumnDef {
    ColumnDef::new(Alias::new(name))
}
