//! The keys of nodes follow each other.

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sea_query::{Alias, ColumnDef, Table},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0014_rotation"
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

    /// Nodes of before have the keys that they enrolled with.
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut rotation = ColumnDef::new(Alias::new("rotation"));
        let mut alter = Table::alter();
        alter
            .table(Alias::new("node"))
            .add_column(rotation.text().null().to_owned());
        manager.alter_table(alter).await
    }
}
