//! Policies that services and routes share. Rules and access are documents.

use kakuremichi_core::{id::PolicyId, policy::SharedPolicy, store::Version};
use sea_orm::{ActiveValue::Set, entity::prelude::*};

use crate::store::{
    document::{AccessDocument, RuleDocument},
    row::{self, RowError},
    table::Table,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "policy")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Vec<u8>,
    pub organization: Vec<u8>,
    pub version: i64,
    pub name: String,
    pub rules: String,
    pub access: Option<String>,
    pub created: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Table for Entity {
    type Domain = SharedPolicy;
    const ID: Column = Column::Id;
    const ORGANIZATION: Column = Column::Organization;

    fn write(domain: &SharedPolicy, version: Version) -> Result<ActiveModel, RowError> {
        let rules: Vec<RuleDocument> = domain.rules.iter().map(Into::into).collect();
        let access = domain.access.as_ref().map(AccessDocument::from);
        Ok(ActiveModel {
            id: Set(row::key(domain.id.into())),
            organization: Set(row::key(domain.organization.into())),
            version: Set(row::count(version.0)),
            name: Set(domain.name.to_string()),
            rules: Set(row::to_json("rules", &rules)?),
            access: Set(access.map(|access| row::to_json("access", &access)).transpose()?),
            created: Set(domain.created.as_millis()),
        })
    }

    fn read(row: Model) -> Result<(SharedPolicy, Version), RowError> {
        let rules: Vec<RuleDocument> = row::json("rules", &row.rules)?;
        let access = row
            .access
            .map(|text| row::json::<AccessDocument>("access", &text));
        let policy = SharedPolicy {
            id: PolicyId::from_bytes(row::bytes("id", &row.id)?),
            organization: row::organization(&row.organization)?,
            name: row::text("name", &row.name)?,
            rules: rules.into_iter().map(Into::into).collect(),
            access: access.transpose()?.map(Into::into),
            created: row::time(row.created),
        };
        Ok((policy, row::version(row.version)))
    }
}
