//! The first schema.

use async_trait::async_trait;
use sea_orm::{
    DbErr,
    sea_query::{
        Alias, ColumnDef, ForeignKey, ForeignKeyCreateStatement, Index, Table, TableCreateStatement,
    },
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0001_initial"
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
        for table in [records(), feeds()].concat() {
            manager.create_table(table).await?;
        }
        for table in ["node", "site", "service", "token", "api_key"] {
            index(manager, table, &["organization", "id"]).await?;
        }
        index(manager, "service", &["declared_by"]).await?;
        index(manager, "unique_key", &["holder"]).await
    }
}

async fn index(manager: &SchemaManager<'_>, table: &str, columns: &[&str]) -> Result<(), DbErr> {
    let mut index = Index::create();
    index
        .name(format!("{table}_{}", columns.join("_")))
        .table(Alias::new(table));
    for column in columns {
        index.col(Alias::new(*column));
    }
    manager.create_index(index).await
}

fn records() -> Vec<TableCreateStatement> {
    vec![
        table(
            "organization",
            [id(), version(), text("name"), integer("created")],
        ),
        owned(
            "node",
            [
                text("name"),
                binary("identity"),
                binary("wireguard"),
                binary("token"),
                integer("created"),
                optional(integer("revoked")),
                text("details"),
            ],
        ),
        owned(
            "site",
            [
                text("name"),
                binary("wireguard"),
                text("address_v4"),
                text("networks"),
                optional(text("endpoint")),
                integer("created"),
            ],
        ),
        owned(
            "service",
            [
                text("name"),
                text("kind"),
                text("policy"),
                text("lifetime"),
                optional(binary("declared_by")),
                integer("created"),
            ],
        ),
        owned(
            "token",
            [
                text("name"),
                text("role"),
                binary("secret_hash"),
                optional(integer("uses_left")),
                optional(integer("expires")),
                optional(integer("revoked")),
                text("declare_scope"),
                integer("created"),
            ],
        ),
        owned(
            "api_key",
            [
                text("name"),
                binary("secret_hash"),
                optional(integer("expires")),
                integer("created"),
            ],
        ),
    ]
}

fn feeds() -> Vec<TableCreateStatement> {
    vec![
        table("unique_key", [primary(text("key")), text("holder")]),
        table("meta", [primary(text("key")), text("value")]),
        table("change", [sequence(), text("record"), binary("organization")]),
        table(
            "audit",
            [
                sequence(),
                integer("at"),
                optional(text("authority")),
                optional(text("actor")),
                optional(binary("organization")),
                text("action"),
                optional(text("subject")),
            ],
        ),
        table(
            "usage_report",
            [primary(text("node")), integer("epoch"), integer("sequence")],
        ),
        table(
            "usage_total",
            [
                primary(binary("service")),
                integer("connections"),
                integer("requests"),
                integer("bytes_in"),
                integer("bytes_out"),
            ],
        ),
    ]
}

fn table<const N: usize>(name: &str, columns: [ColumnDef; N]) -> TableCreateStatement {
    let mut table = Table::create();
    table.table(Alias::new(name));
    for column in columns {
        table.col(column);
    }
    table
}

/// A table of records that belong to an organization.
fn owned<const N: usize>(name: &str, columns: [ColumnDef; N]) -> TableCreateStatement {
    let mut table = table(name, [id(), binary("organization"), version()]);
    for column in columns {
        table.col(column);
    }
    let mut owner: ForeignKeyCreateStatement = ForeignKey::create()
        .from(Alias::new(name), Alias::new("organization"))
        .to(Alias::new("organization"), Alias::new("id"))
        .to_owned();
    table.foreign_key(&mut owner);
    table
}

fn column(name: &str) -> ColumnDef {
    let mut column = ColumnDef::new(Alias::new(name));
    column.not_null();
    column
}

fn text(name: &str) -> ColumnDef {
    column(name).text().to_owned()
}

fn binary(name: &str) -> ColumnDef {
    column(name).binary().to_owned()
}

fn integer(name: &str) -> ColumnDef {
    column(name).big_integer().to_owned()
}

fn optional(mut column: ColumnDef) -> ColumnDef {
    column.null().to_owned()
}

fn primary(mut column: ColumnDef) -> ColumnDef {
    column.primary_key().to_owned()
}

fn id() -> ColumnDef {
    primary(binary("id"))
}

fn version() -> ColumnDef {
    integer("version")
}

/// Grows with each commit, in the order of the commits (one writer), and is never given twice.
fn sequence() -> ColumnDef {
    integer("sequence").primary_key().auto_increment().to_owned()
}
