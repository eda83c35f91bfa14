//! Users have passkeys: in their documents, which a Control from before cannot read, so that it has to know.

use async_trait::async_trait;
use sea_orm::DbErr;
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0013_passkeys"
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the trait elides the lifetime, and async_trait tells `'_` from that"
)]
#[async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    /// Users of before have none.
    async fn up(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Ok(())
    }
}
