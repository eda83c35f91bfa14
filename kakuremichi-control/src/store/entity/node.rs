//! Nodes. What only one role has is a document.

use kakuremichi_core::{
    id::TokenId,
    key::{IdentityKey, WireGuardKey},
    model::Node,
    store::Version,
};
use sea_orm::{ActiveValue::Set, entity::prelude::*};

use crate::{
    store::{
        document::{NodeDocument, PendingDocument, RotationDocument},
        row::{self, RowError},
        table::Table,
    },
    text::LabelsText,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "node")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Vec<u8>,
    pub organization: Vec<u8>,
    pub version: i64,
    pub name: String,
    pub identity: Vec<u8>,
    pub wireguard: Vec<u8>,
    pub token: Vec<u8>,
    pub created: i64,
    pub revoked: Option<i64>,
    pub details: String,
    /// None where nothing is pending.
    pub pending: Option<String>,
    /// None of nodes that enrolled when there were no labels.
    pub labels: Option<String>,
    /// None where nothing was ever rotated.
    pub rotation: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Table for Entity {
    type Domain = Node;
    const ID: Column = Column::Id;
    const ORGANIZATION: Column = Column::Organization;

    fn write(domain: &Node, version: Version) -> Result<ActiveModel, RowError> {
        let details = NodeDocument::from(&domain.kind);
        Ok(ActiveModel {
            id: Set(row::key(domain.id.into())),
            organization: Set(row::key(domain.organization.into())),
            version: Set(row::count(version.0)),
            name: Set(domain.name.to_string()),
            identity: Set(domain.identity.as_bytes().to_vec()),
            wireguard: Set(domain.wireguard.as_bytes().to_vec()),
            token: Set(row::key(domain.token.into())),
            created: Set(domain.created.as_millis()),
            revoked: Set(domain.revoked.map(|at| at.as_millis())),
            details: Set(row::to_json("details", &details)?),
            pending: Set(domain
                .pending
                .map(|pending| row::to_json("pending", &PendingDocument::from(pending)))
                .transpose()?),
            labels: Set(Some(row::to_json("labels", &LabelsText(domain.labels.clone()))?)),
            rotation: Set(RotationDocument::of(&domain.rotation)
                .map(|rotation| row::to_json("rotation", &rotation))
                .transpose()?),
        })
    }

    fn read(row: Model) -> Result<(Node, Version), RowError> {
        let details: NodeDocument = row::json("details", &row.details)?;
        let pending = row.pending.as_deref();
        let pending = pending
            .map(|text| row::json::<PendingDocument>("pending", text))
            .transpose()?;
        let labels = row.labels.as_deref();
        let labels = labels.map(|text| row::json::<LabelsText>("labels", text));
        let rotation = row.rotation.as_deref();
        let rotation = rotation
            .map(|text| row::json::<RotationDocument>("rotation", text))
            .transpose()?;
        let node = Node {
            id: row::node_id(&row.id)?,
            organization: row::organization(&row.organization)?,
            name: row::text("name", &row.name)?,
            identity: IdentityKey::from_bytes(row::bytes("identity", &row.identity)?),
            wireguard: WireGuardKey::from_bytes(row::bytes("wireguard", &row.wireguard)?),
            token: TokenId::from_bytes(row::bytes("token", &row.token)?),
            created: row::time(row.created),
            revoked: row.revoked.map(row::time),
            pending: pending.map(Into::into),
            labels: labels.transpose()?.unwrap_or_default().0,
            rotation: rotation.map(Into::into).unwrap_or_default(),
            kind: details.into(),
        };
        Ok((node, row::version(row.version)))
    }
}
