//! API keys.

use kakuremichi_core::{
    id::{ApiKeyId, UserId},
    model::{ApiKey, Permissions},
    secret::SecretHash,
    store::Version,
};
use sea_orm::{ActiveValue::Set, entity::prelude::*};

use crate::store::{
    document::PermissionsDocument,
    row::{self, RowError},
    table::Table,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "api_key")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Vec<u8>,
    pub organization: Vec<u8>,
    pub version: i64,
    pub name: String,
    pub secret_hash: Vec<u8>,
    pub expires: Option<i64>,
    pub created: i64,
    /// None of keys that were made when there was but one right.
    pub permissions: Option<String>,
    pub maker: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Table for Entity {
    type Domain = ApiKey;
    const ID: Column = Column::Id;
    const ORGANIZATION: Column = Column::Organization;

    fn write(domain: &ApiKey, version: Version) -> Result<ActiveModel, RowError> {
        Ok(ActiveModel {
            id: Set(row::key(domain.id.into())),
            organization: Set(row::key(domain.organization.into())),
            version: Set(row::count(version.0)),
            name: Set(domain.name.to_string()),
            secret_hash: Set(domain.secret_hash.as_bytes().to_vec()),
            expires: Set(domain.expires.map(|at| at.as_millis())),
            created: Set(domain.created.as_millis()),
            permissions: Set(Some(row::to_json(
                "permissions",
                &PermissionsDocument::from(domain.permissions),
            )?)),
            maker: Set(domain.maker.map(|id| row::key(id.into()))),
        })
    }

    fn read(row: Model) -> Result<(ApiKey, Version), RowError> {
        let permissions = row.permissions.as_deref();
        let permissions = permissions
            .map(|text| row::json::<PermissionsDocument>("permissions", text))
            .transpose()?;
        let maker = row.maker.as_deref();
        let maker = maker.map(|id| row::bytes("maker", id).map(UserId::from_bytes));
        let key = ApiKey {
            id: ApiKeyId::from_bytes(row::bytes("id", &row.id)?),
            organization: row::organization(&row.organization)?,
            name: row::text("name", &row.name)?,
            secret_hash: SecretHash::from_bytes(row::bytes("secret_hash", &row.secret_hash)?),
            permissions: permissions.map_or(Permissions::EVERYTHING, Into::into),
            maker: maker.transpose()?,
            expires: row.expires.map(row::time),
            created: row::time(row.created),
        };
        Ok((key, row::version(row.version)))
    }
}
