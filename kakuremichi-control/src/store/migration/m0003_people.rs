//! People, their roles and their sessions; what an API key may do.

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sea_query::{Alias, ColumnDef, Index, Table},
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0003_people"
    }
}

/// `user` and `group` are words of SQL.
const TABLES: [&str; 6] = [
    "person",
    "role",
    "people_group",
    "member",
    "invitation",
    "session",
];

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
        for name in TABLES {
            let mut table = Table::create();
            table.table(Alias::new(name));
            table.col(column("id").binary().not_null().primary_key());
            table.col(column("organization").binary().null());
            table.col(column("owner").binary().null());
            table.col(column("version").big_integer().not_null());
            table.col(column("document").text().not_null());
            manager.create_table(table).await?;
            for columns in [["organization", "id"], ["owner", "id"]] {
                let mut index = Index::create();
                index
                    .name(format!("{name}_{}", columns.join("_")))
                    .table(Alias::new(name));
                for column in columns {
                    index.col(Alias::new(column));
                }
                manager.create_index(index).await?;
            }
        }
        // Keys that were made before have every right.
        let mut keys = Table::alter();
        keys.table(Alias::new("api_key"))
            .add_column(column("permissions").text().null());
        manager.alter_table(keys).await
    }
}

fn column(name: &str) -> ColumnDef {
    ColumnDef::new(Alias::new(name))
}
