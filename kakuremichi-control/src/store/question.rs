//! What instances ask each other. Only on PostgreSQL can there be several.

use std::{future::pending, time::Duration};

use kakuremichi_core::store::{Question, StoreError};
use sea_orm::DatabaseConnection;
use sqlx::Row as _;
use tokio::time::sleep;

use super::presence::{failed, server};

/// How often it is looked whether there is a question.
const LOOK: Duration = Duration::from_millis(200);

/// Whoever asked waits no longer.
const FORGET: &str = "DELETE FROM question WHERE asked < clock_timestamp() - interval '1 minute'";
const ASK: &str =
    "INSERT INTO question (id, instance, asked, question) VALUES ($1, $2, clock_timestamp(), $3)";
/// Those that were heard of lately.
const OTHERS: &str =
    "SELECT count(*) FROM instance WHERE id <> $1 AND seen > clock_timestamp() - interval '15 seconds'";
/// At most so many at once, the oldest first; the others come when those are answered.
const UNANSWERED: &str = "
    SELECT id, question FROM question
    WHERE instance <> $1 AND NOT EXISTS (
        SELECT FROM answer WHERE answer.question = question.id AND answer.instance = $1
    )
    ORDER BY asked LIMIT 64";
const ANSWER: &str = "
    INSERT INTO answer (question, instance, answer) SELECT id, $2, $3 FROM question WHERE id = $1
    ON CONFLICT DO NOTHING";
const ANSWERS: &str = "SELECT answer FROM answer WHERE question = $1";

pub(super) async fn ask(
    database: &DatabaseConnection,
    instance: &[u8; 16],
    question: &Question,
) -> Result<usize, StoreError> {
    let Some(pool) = server(database) else {
        return Ok(0);
    };
    let others: i64 = sqlx::query_scalar(OTHERS)
        .bind(instance.as_slice())
        .fetch_one(pool)
        .await
        .map_err(failed)?;
    if others == 0 {
        return Ok(0);
    }
    sqlx::query(FORGET).execute(pool).await.map_err(failed)?;
    sqlx::query(ASK)
        .bind(question.id.as_slice())
        .bind(instance.as_slice())
        .bind(&question.text)
        .execute(pool)
        .await
        .map_err(failed)?;
    Ok(usize::try_from(others).unwrap_or(0))
}

pub(super) async fn unanswered(
    database: &DatabaseConnection,
    instance: &[u8; 16],
) -> Result<Vec<Question>, StoreError> {
    let Some(pool) = server(database) else {
        return pending().await;
    };
    loop {
        let rows = sqlx::query(UNANSWERED)
            .bind(instance.as_slice())
            .fetch_all(pool)
            .await
            .map_err(failed)?;
        let read = |row: &sqlx::postgres::PgRow| {
            let id: Vec<u8> = row.try_get("id")?;
            let text = row.try_get("question")?;
            Ok::<_, sqlx::Error>(<[u8; 16]>::try_from(id).ok().map(|id| Question { id, text }))
        };
        let read: Result<Vec<_>, _> = rows.iter().map(read).collect();
        let questions: Vec<Question> = read.map_err(failed)?.into_iter().flatten().collect();
        if !questions.is_empty() {
            return Ok(questions);
        }
        sleep(LOOK).await;
    }
}

pub(super) async fn answer(
    database: &DatabaseConnection,
    instance: &[u8; 16],
    question: [u8; 16],
    answer: &str,
) -> Result<(), StoreError> {
    let Some(pool) = server(database) else {
        return Ok(());
    };
    sqlx::query(ANSWER)
        .bind(question.as_slice())
        .bind(instance.as_slice())
        .bind(answer)
        .execute(pool)
        .await
        .map_err(failed)?;
    Ok(())
}

pub(super) async fn answers(
    database: &DatabaseConnection,
    question: [u8; 16],
) -> Result<Vec<String>, StoreError> {
    let Some(pool) = server(database) else {
        return Ok(Vec::new());
    };
    sqlx::query_scalar(ANSWERS)
        .bind(question.as_slice())
        .fetch_all(pool)
        .await
        .map_err(failed)
}
