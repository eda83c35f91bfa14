//! Organizations.

use kakuremichi_core::{id::OrganizationId, model::Organization, store::Version};
use sea_orm::{ActiveValue::Set, entity::prelude::*};

use crate::store::{
    document::AccountPolicyDocument,
    row::{self, RowError},
    table::Table,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "organization")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Vec<u8>,
    pub version: i64,
    pub name: String,
    /// Absent where nothing was asked for yet.
    pub accounts: Option<String>,
    pub created: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Table for Entity {
    type Domain = Organization;
    const ID: Column = Column::Id;
    const ORGANIZATION: Column = Column::Id;

    fn write(domain: &Organization, version: Version) -> Result<ActiveModel, RowError> {
        Ok(ActiveModel {
            id: Set(row::key(domain.id.into())),
            version: Set(row::count(version.0)),
            name: Set(domain.name.to_string()),
            accounts: Set(Some(row::to_json(
                "accounts",
                &AccountPolicyDocument::from(domain.accounts),
            )?)),
            created: Set(domain.created.as_millis()),
        })
    }

    fn read(row: Model) -> Result<(Organization, Version), RowError> {
        let accounts = row
            .accounts
            .map(|text| row::json::<AccountPolicyDocument>("accounts", &text));
        let organization = Organization {
            id: OrganizationId::from_bytes(row::bytes("id", &row.id)?),
            name: row::text("name", &row.name)?,
            accounts: accounts.transpose()?.unwrap_or_default().into(),
            created: row::time(row.created),
        };
        Ok((organization, row::version(row.version)))
    }
}
