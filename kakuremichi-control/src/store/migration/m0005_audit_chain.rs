//! The chain of the audit, and leases.

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sea_query::{Alias, ColumnDef, Index, Table},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0005_audit_chain"
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
        // Entries of before are sealed like new ones.
        let mut audit = Table::alter();
        audit
            .table(Alias::new("audit"))
            .add_column(column("hash").binary().null());
        manager.alter_table(audit).await?;
        let mut index = Index::create();
        index
            .name("audit_organization_sequence")
            .table(Alias::new("audit"))
            .col(Alias::new("organization"))
            .col(Alias::new("sequence"));
        manager.create_index(index).await?;
        let mut lease = Table::create();
        lease
            .table(Alias::new("lease"))
            .col(column("name").text().not_null().primary_key())
            .col(column("holder").text().not_null())
            .col(column("until").big_integer().not_null());
        manager.create_table(lease).await
    }
}

fn column(name: &str) -> ColumnDef {
    ColumnDef::new(Alias::new(name))
}
