//! People, their roles and their sessions, channels and service tokens: each kind in a table of its own, and each record whole in one column.
//!
//! What they are found by stands beside it: the identifier, the organization, the owner; unique values are in a
//! table of theirs. Nothing else about them is ever asked of the database.

use kakuremichi_core::{
    model::{Channel, Group, IdentityProvider, Invitation, Member, ServiceToken, Session, User, UserRole},
    store::StoreRecord,
};

use crate::store::document::{
    ChannelDocument, GroupDocument, IdentityProviderDocument, InvitationDocument, MemberDocument,
    ServiceTokenDocument, SessionDocument, UserDocument, UserRoleDocument,
};

macro_rules! tables {
    ($($module:ident $name:literal $domain:ty, $document:ty;)*) => {$(
        pub mod $module {
            use kakuremichi_core::store::Version;
            use sea_orm::{ActiveValue::Set, entity::prelude::*};

            use super::*;
            use crate::store::{
                row::{self, RowError},
                table::Table,
            };

            #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
            #[sea_orm(table_name = $name)]
            pub struct Model {
                #[sea_orm(primary_key, auto_increment = false)]
                pub id: Vec<u8>,
                pub organization: Option<Vec<u8>>,
                pub owner: Option<Vec<u8>>,
                pub version: i64,
                pub document: String,
            }

            #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
            pub enum Relation {}

            impl ActiveModelBehavior for ActiveModel {}

            impl Table for Entity {
                type Domain = $domain;
                const ID: Column = Column::Id;
                const ORGANIZATION: Column = Column::Organization;
                const OWNER: Option<Column> = Some(Column::Owner);

                fn write(domain: &$domain, version: Version) -> Result<ActiveModel, RowError> {
                    let record = StoreRecord::from(domain.clone());
                    Ok(ActiveModel {
                        id: Set(row::key(record.id())),
                        organization: Set(record.organization().map(|id| row::key(id.into()))),
                        owner: Set(record.owner().map(row::key)),
                        version: Set(row::count(version.0)),
                        document: Set(row::to_json("document", &<$document>::from(domain))?),
                    })
                }

                fn read(row: Model) -> Result<($domain, Version), RowError> {
                    let document: $document = row::json("document", &row.document)?;
                    Ok((document.into(), row::version(row.version)))
                }
            }
        }
    )*};
}

tables! {
    user "person" User, UserDocument;
    role "role" UserRole, UserRoleDocument;
    group "people_group" Group, GroupDocument;
    member "member" Member, MemberDocument;
    invitation "invitation" Invitation, InvitationDocument;
    session "session" Session, SessionDocument;
    identity_provider "identity_provider" IdentityProvider, IdentityProviderDocument;
    channel "channel" Channel, ChannelDocument;
    service_token "service_token" ServiceToken, ServiceTokenDocument;
}
