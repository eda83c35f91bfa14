//! Nodes that wait for approval, and labels.

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sea_query::{Alias, ColumnDef, Table},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0010_approval"
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
        // Nodes that enrolled before wait for nobody, and tokens that were made before ask for nothing.
        add(manager, "node", column("pending").text()).await?;
        add(manager, "node", column("labels").text()).await?;
        add(manager, "token", column("approval").boolean()).await?;
        add(manager, "token", column("labels").text()).await
    }
}

/// SQLite adds one column at a time.
async fn add(manager: &SchemaManager<'_>, table: &'static str, column: &mut ColumnDef) -> Result<(), DbErr> {
    let mut alter = Table::alter();
    alter
        .table(Alias::new(table))
        .add_column(column.null().to_owned());
    manager.alter_table(alter).await
}

fn column(name: &'static str) -> ColumnDef {
    ColumnDef::new(Alias::new(name))
}
