//! Sites.

use kakuremichi_core::{id::SiteId, key::WireGuardKey, model::Site, net::Cidr, store::Version};
use sea_orm::{ActiveValue::Set, entity::prelude::*};

use crate::{
    store::{
        row::{self, RowError},
        table::Table,
    },
    text::Text,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "site")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Vec<u8>,
    pub organization: Vec<u8>,
    pub version: i64,
    pub name: String,
    pub wireguard: Vec<u8>,
    pub address_v4: String,
    pub networks: String,
    pub endpoint: Option<String>,
    pub created: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Table for Entity {
    type Domain = Site;
    const ID: Column = Column::Id;
    const ORGANIZATION: Column = Column::Organization;

    fn write(domain: &Site, version: Version) -> Result<ActiveModel, RowError> {
        let networks: Vec<Text<Cidr>> = domain.networks.iter().copied().map(Text).collect();
        Ok(ActiveModel {
            id: Set(row::key(domain.id.into())),
            organization: Set(row::key(domain.organization.into())),
            version: Set(row::count(version.0)),
            name: Set(domain.name.to_string()),
            wireguard: Set(domain.wireguard.as_bytes().to_vec()),
            address_v4: Set(domain.address_v4.to_string()),
            networks: Set(row::to_json("networks", &networks)?),
            endpoint: Set(domain.endpoint.as_ref().map(ToString::to_string)),
            created: Set(domain.created.as_millis()),
        })
    }

    fn read(row: Model) -> Result<(Site, Version), RowError> {
        let networks: Vec<Text<Cidr>> = row::json("networks", &row.networks)?;
        let endpoint = row
            .endpoint
            .map(|text| row::text("endpoint", &text))
            .transpose()?;
        let site = Site {
            id: SiteId::from_bytes(row::bytes("id", &row.id)?),
            organization: row::organization(&row.organization)?,
            name: row::text("name", &row.name)?,
            wireguard: WireGuardKey::from_bytes(row::bytes("wireguard", &row.wireguard)?),
            address_v4: row::text("address_v4", &row.address_v4)?,
            networks: networks.into_iter().map(|text| text.0).collect(),
            endpoint,
            created: row::time(row.created),
        };
        Ok((site, row::version(row.version)))
    }
}
