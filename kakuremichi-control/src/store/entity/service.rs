//! Services. Routes, targets and the policy are documents: they are written and read as one.

use kakuremichi_core::{id::ServiceId, model::Service, store::Version};
use sea_orm::{ActiveValue::Set, entity::prelude::*};

use crate::store::{
    document::{KindDocument, LifetimeDocument, PolicyDocument},
    row::{self, RowError},
    table::Table,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "service")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Vec<u8>,
    pub organization: Vec<u8>,
    pub version: i64,
    pub name: String,
    pub kind: String,
    pub policy: String,
    pub lifetime: String,
    /// The agent in the lifetime, to find services by it.
    pub declared_by: Option<Vec<u8>>,
    pub created: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Table for Entity {
    type Domain = Service;
    const ID: Column = Column::Id;
    const ORGANIZATION: Column = Column::Organization;
    const OWNER: Option<Column> = Some(Column::DeclaredBy);

    fn write(domain: &Service, version: Version) -> Result<ActiveModel, RowError> {
        Ok(ActiveModel {
            id: Set(row::key(domain.id.into())),
            organization: Set(row::key(domain.organization.into())),
            version: Set(row::count(version.0)),
            name: Set(domain.name.to_string()),
            kind: Set(row::to_json("kind", &KindDocument::from(&domain.kind))?),
            policy: Set(row::to_json(
                "policy",
                &PolicyDocument::new(&domain.policy, &domain.policies),
            )?),
            lifetime: Set(row::to_json(
                "lifetime",
                &LifetimeDocument::from(domain.lifetime),
            )?),
            declared_by: Set(domain.lifetime.declared_by().map(|agent| row::key(agent.into()))),
            created: Set(domain.created.as_millis()),
        })
    }

    fn read(row: Model) -> Result<(Service, Version), RowError> {
        let kind: KindDocument = row::json("kind", &row.kind)?;
        let policy: PolicyDocument = row::json("policy", &row.policy)?;
        let (policy, policies) = policy.into_parts();
        let lifetime: LifetimeDocument = row::json("lifetime", &row.lifetime)?;
        let service = Service {
            id: ServiceId::from_bytes(row::bytes("id", &row.id)?),
            organization: row::organization(&row.organization)?,
            name: row::text("name", &row.name)?,
            kind: kind.into(),
            policy,
            policies,
            lifetime: lifetime.into(),
            created: row::time(row.created),
        };
        Ok((service, row::version(row.version)))
    }
}
