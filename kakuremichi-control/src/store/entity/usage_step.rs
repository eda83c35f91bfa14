//! What was used in each step of time.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "usage_step")]
pub struct Model {
    /// 0 minutes, 1 hours, 2 days.
    #[sea_orm(primary_key, auto_increment = false)]
    pub level: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub organization: Vec<u8>,
    #[sea_orm(primary_key, auto_increment = false)]
    pub start: i64,
    /// Empty for services that were gone or could not be told apart.
    #[sea_orm(primary_key, auto_increment = false)]
    pub service: Vec<u8>,
    #[sea_orm(primary_key, auto_increment = false)]
    pub node: String,
    pub connections: i64,
    pub requests: i64,
    pub bytes_in: i64,
    pub bytes_out: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
