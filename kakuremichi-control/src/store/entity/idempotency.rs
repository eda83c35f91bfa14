//! Requests that were carried out, and what they were answered.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "idempotency")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub caller: Vec<u8>,
    #[sea_orm(primary_key, auto_increment = false)]
    pub key: Vec<u8>,
    pub request: Vec<u8>,
    pub subject: Option<String>,
    pub at: i64,
    pub answer: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
