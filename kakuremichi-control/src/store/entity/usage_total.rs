//! What each service was used.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "usage_total")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub service: Vec<u8>,
    pub connections: i64,
    pub requests: i64,
    pub bytes_in: i64,
    pub bytes_out: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
