//! The audit.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub sequence: i64,
    pub at: i64,
    pub authority: Option<String>,
    pub actor: Option<String>,
    pub organization: Option<Vec<u8>>,
    pub action: String,
    pub subject: Option<String>,
    /// The link of the chain; none as long as it is not sealed.
    pub hash: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
