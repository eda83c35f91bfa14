//! Which instance a node is connected to. Only on PostgreSQL can there be several.
//!
//! The tables are not in the write-ahead log: what they hold is true for as long as the processes live that wrote it,
//! and a server that crashed begins without.

use kakuremichi_core::{
    id::NodeId,
    store::{Sighting, StoreError},
    time::Timestamp,
};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use sqlx::{PgPool, Row as _};

use super::{backend, row};

/// Says that an instance is there.
const ALIVE: &str = "
    INSERT INTO instance (id, seen) VALUES ($1, clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET seen = excluded.seen";

/// Those that have not been there for a day are of no interest to anybody.
const FORGET: &str = "DELETE FROM instance WHERE seen < clock_timestamp() - interval '1 day'";

/// The newest session of a node stays, and one that goes on rather than one that has ended. Rows are taken in the order of their nodes, so that instances never wait for
/// each other in a circle.
const TELL: &str = "
    INSERT INTO presence (node, instance, session, connected, disconnected)
    SELECT told.node, $1, told.session, told.connected, told.disconnected
    FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
        AS told (node, session, connected, disconnected)
    ORDER BY told.node
    ON CONFLICT (node) DO UPDATE SET instance = excluded.instance, session = excluded.session,
        connected = excluded.connected, disconnected = excluded.disconnected
    WHERE presence.session <= excluded.session
        OR presence.connected IS NULL AND excluded.connected IS NOT NULL";

/// What an instance told last that was silent for fifteen seconds is over since then.
const ASK: &str = "
    SELECT presence.node, presence.session,
        CASE WHEN alive THEN presence.connected END AS connected,
        CASE WHEN alive THEN presence.disconnected
            ELSE coalesce(presence.disconnected, (extract(epoch FROM instance.seen) * 1000)::bigint)
        END AS disconnected
    FROM presence
    LEFT JOIN instance ON instance.id = presence.instance
    CROSS JOIN LATERAL (
        SELECT coalesce(instance.seen > clock_timestamp() - interval '15 seconds', false) AS alive
    ) AS life
    WHERE presence.node = ANY ($1) AND presence.instance <> $2";

pub(super) async fn announce(
    database: &DatabaseConnection,
    instance: &[u8; 16],
    sightings: &[Sighting],
) -> Result<(), StoreError> {
    let Some(pool) = server(database) else {
        return Ok(());
    };
    sqlx::query(ALIVE)
        .bind(instance.as_slice())
        .execute(pool)
        .await
        .map_err(failed)?;
    if sightings.is_empty() {
        sqlx::query(FORGET).execute(pool).await.map_err(failed)?;
        return Ok(());
    }
    let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
    let nodes: Vec<String> = sightings.iter().map(|seen| seen.node.to_string()).collect();
    let sessions: Vec<i64> = sightings.iter().map(|seen| row::count(seen.session)).collect();
    let connected: Vec<Option<i64>> = sightings.iter().map(|seen| millis(seen.connected)).collect();
    let disconnected: Vec<Option<i64>> = sightings.iter().map(|seen| millis(seen.disconnected)).collect();
    sqlx::query(TELL)
        .bind(instance.as_slice())
        .bind(nodes)
        .bind(sessions)
        .bind(connected)
        .bind(disconnected)
        .execute(pool)
        .await
        .map_err(failed)?;
    Ok(())
}

pub(super) async fn sightings(
    database: &DatabaseConnection,
    instance: &[u8; 16],
    nodes: &[NodeId],
) -> Result<Vec<Sighting>, StoreError> {
    let Some(pool) = server(database) else {
        return Ok(Vec::new());
    };
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let rows = sqlx::query(ASK)
        .bind(nodes)
        .bind(instance.as_slice())
        .fetch_all(pool)
        .await
        .map_err(failed)?;
    let read = |found: &sqlx::postgres::PgRow| {
        let time =
            |column: &str| Ok::<_, sqlx::Error>(found.try_get::<Option<i64>, _>(column)?.map(row::time));
        let node: String = found.try_get("node")?;
        Ok::<_, sqlx::Error>((
            node,
            row::number(found.try_get("session")?),
            time("connected")?,
            time("disconnected")?,
        ))
    };
    let sighting = |found: &sqlx::postgres::PgRow| {
        let (node, session, connected, disconnected) = read(found).map_err(failed)?;
        let node = row::text("node", &node).map_err(|error| StoreError::Backend(Box::new(error)))?;
        Ok(Sighting {
            node,
            session,
            connected,
            disconnected,
        })
    };
    rows.iter().map(sighting).collect()
}

/// Forgets a node that is deleted.
pub(super) async fn forget(database: &impl ConnectionTrait, node: NodeId) -> Result<(), StoreError> {
    let backend_kind = database.get_database_backend();
    if backend_kind != DbBackend::Postgres {
        return Ok(());
    }
    let sql = "DELETE FROM presence WHERE node = $1";
    let delete = Statement::from_sql_and_values(backend_kind, sql, [node.to_string().into()]);
    database.execute_raw(delete).await.map_err(backend)?;
    Ok(())
}

pub(super) fn server(database: &DatabaseConnection) -> Option<&PgPool> {
    (database.get_database_backend() == DbBackend::Postgres).then(|| database.get_postgres_connection_pool())
}

pub(super) fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Backend(Box::new(error))
}
