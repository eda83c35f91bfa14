//! Enrolment tokens.

use kakuremichi_core::{
    id::TokenId,
    model::{EnrolmentToken, Role},
    secret::SecretHash,
    store::Version,
};
use sea_orm::{ActiveValue::Set, entity::prelude::*};

use crate::{
    store::{
        document::ScopeDocument,
        row::{self, RowError},
        table::Table,
    },
    text::LabelsText,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "token")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Vec<u8>,
    pub organization: Vec<u8>,
    pub version: i64,
    pub name: String,
    pub role: String,
    pub secret_hash: Vec<u8>,
    pub uses_left: Option<i64>,
    pub expires: Option<i64>,
    pub revoked: Option<i64>,
    pub declare_scope: String,
    pub created: i64,
    /// None of tokens that were made when nobody was asked.
    pub approval: Option<bool>,
    pub labels: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Table for Entity {
    type Domain = EnrolmentToken;
    const ID: Column = Column::Id;
    const ORGANIZATION: Column = Column::Organization;

    fn write(domain: &EnrolmentToken, version: Version) -> Result<ActiveModel, RowError> {
        Ok(ActiveModel {
            id: Set(row::key(domain.id.into())),
            organization: Set(row::key(domain.organization.into())),
            version: Set(row::count(version.0)),
            name: Set(domain.name.to_string()),
            role: Set(domain.role.as_str().to_owned()),
            secret_hash: Set(domain.secret_hash.as_bytes().to_vec()),
            uses_left: Set(domain.uses_left.map(i64::from)),
            expires: Set(domain.expires.map(|at| at.as_millis())),
            revoked: Set(domain.revoked.map(|at| at.as_millis())),
            declare_scope: Set(row::to_json(
                "declare_scope",
                &ScopeDocument::from(&domain.declare),
            )?),
            created: Set(domain.created.as_millis()),
            approval: Set(Some(domain.approval)),
            labels: Set(Some(row::to_json("labels", &LabelsText(domain.labels.clone()))?)),
        })
    }

    fn read(row: Model) -> Result<(EnrolmentToken, Version), RowError> {
        let declare: ScopeDocument = row::json("declare_scope", &row.declare_scope)?;
        let labels = row.labels.as_deref();
        let labels = labels.map(|text| row::json::<LabelsText>("labels", text));
        let token = EnrolmentToken {
            id: TokenId::from_bytes(row::bytes("id", &row.id)?),
            organization: row::organization(&row.organization)?,
            name: row::text("name", &row.name)?,
            role: role(&row.role)?,
            secret_hash: SecretHash::from_bytes(row::bytes("secret_hash", &row.secret_hash)?),
            uses_left: row.uses_left.map(uses).transpose()?,
            expires: row.expires.map(row::time),
            revoked: row.revoked.map(row::time),
            declare: declare.into(),
            approval: row.approval.unwrap_or_default(),
            labels: labels.transpose()?.unwrap_or_default().0,
            created: row::time(row.created),
        };
        Ok((token, row::version(row.version)))
    }
}

fn role(text: &str) -> Result<Role, RowError> {
    [Role::Agent, Role::Gateway]
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| RowError::new("role", "a role is `agent` or `gateway`"))
}

/// A count that is out of range is no count: nobody enrols by it.
fn uses(count: i64) -> Result<u32, RowError> {
    u32::try_from(count).map_err(|error| RowError::new("uses_left", error))
}
