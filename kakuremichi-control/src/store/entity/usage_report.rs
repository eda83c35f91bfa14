//! The last usage reports of each node.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "usage_report")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub node: String,
    /// All 64 bits are used: a negative number is a large one.
    pub epoch: i64,
    pub sequence: i64,
    /// The last reports of earlier streams, the newest first: epoch and sequence, eight bytes each, big-endian.
    pub earlier: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
