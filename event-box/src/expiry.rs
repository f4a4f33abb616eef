use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::{retention::CENTURY, schema::Schema, selection::Chosen, skip::Removal};

/// Dead letters removed in one transaction.
const CHUNK: i64 = 1_000;

/// Removes dead letters that died longer than this ago and do not hold their key; answers how many. Partitions with a batch in hand are
/// left for the next time.
pub(crate) async fn expire_dead_letters(
    connection: &mut PgConnection,
    schema: &Schema,
    group: &str,
    older_than: Duration,
) -> Result<u64, sqlx::Error> {
    let age = older_than.min(CENTURY).as_secs_f64();
    let mut removed = 0;
    loop {
        let mut tx = connection.begin_with("begin isolation level read committed").await?;
        let every: Vec<i16> = (0..64).collect();
        let found = expired(&mut tx, schema, group, age, &every).await?;
        let partitions: Vec<_> = found.iter().map(|chosen| chosen.partition).collect();
        let free = sqlx::query_scalar!(
            r#"select partition from event_box.cursors where group_name = $1 and partition = any($2)
               order by partition for update skip locked"#,
            group,
            &partitions,
        )
        .fetch_all(schema.over(&mut *tx))
        .await?;
        // Again, later than the lock: somebody may have requeued them meanwhile.
        let found = expired(&mut tx, schema, group, age, &free).await?;
        let removal = Removal { action: "expire", actor: Some("event-box") };
        let chunk = removal.carry_out(&mut tx, schema, group, &found).await?;
        tx.commit().await?;
        removed += chunk;
        if chunk == 0 {
            return Ok(removed);
        }
    }
}

async fn expired(
    connection: &mut PgConnection,
    schema: &Schema,
    group: &str,
    age: f64,
    partitions: &[i16],
) -> Result<Vec<Chosen>, sqlx::Error> {
    sqlx::query_as!(
        Chosen,
        r#"select partition, sequence, partition_key from event_box.parked
           where group_name = $1 and dead_at < clock_timestamp() - $2::float8 * interval '1 second' and not holds_key
             and partition = any($3)
           order by dead_at limit $4"#,
        group,
        age,
        partitions,
        CHUNK,
    )
    .fetch_all(schema.over(connection))
    .await
}

/// Topics with events that have waited for more than a day for a process with a handler, and how many, by topic.
pub(crate) async fn without_handler(
    connection: &mut PgConnection,
    schema: &Schema,
    group: &str,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let rows = sqlx::query!(
        r#"select topic, count(*) as "events!" from event_box.parked
           where group_name = $1 and reason = 'no_handler' and parked_at < clock_timestamp() - interval '1 day'
           group by topic order by topic"#,
        group
    )
    .fetch_all(schema.over(&mut *tx))
    .await?;
    tx.commit().await?;
    Ok(rows.into_iter().map(|row| (row.topic, row.events)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{group::Start, test_log::TestLog};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[tokio::test]
    async fn old_dead_letters_go_but_those_that_hold_their_key_and_those_in_hand_stay() {
        let log = TestLog::new().await;
        log.group("g", Start::Beginning).await;
        let fill = "insert into event_box.parked (group_name, partition, sequence, topic, partition_key, reason, dead_at, holds_key)
                    select 'g', i % 64, i, 't', 'k' || i, 'failed', now() - interval '2 days', false from generate_series(1, 2500) as i
                    union all values
                    ('g', 0, 9001, 't', 'held', 'failed', now() - interval '2 days', true),
                    ('g', 1, 9002, 't', 'young', 'failed', now(), false),
                    ('g', 2, 9003, 't', 'alive', 'failed', null, false),
                    ('other', 3, 9004, 't', 'foreign', 'failed', now() - interval '2 days', false)";
        sqlx::raw_sql(fill).execute(&log.pool).await.unwrap();
        let mut batch = log.pool.begin().await.unwrap();
        sqlx::raw_sql("select from event_box.cursors where partition = 5 for update")
            .execute(&mut *batch)
            .await
            .unwrap();
        let mut connection = log.pool.acquire().await.unwrap();
        let in_hand = (1..=2500).filter(|i| i % 64 == 5).count() as u64;
        assert_eq!(expire_dead_letters(&mut connection, &log.schema, "g", DAY).await.unwrap(), 2500 - in_hand);
        batch.rollback().await.unwrap();
        assert_eq!(expire_dead_letters(&mut connection, &log.schema, "g", DAY).await.unwrap(), in_hand);
        assert_eq!(expire_dead_letters(&mut connection, &log.schema, "g", DAY).await.unwrap(), 0);
        let left: Vec<String> = sqlx::query_scalar("select partition_key from event_box.parked order by sequence")
            .fetch_all(&log.pool)
            .await
            .unwrap();
        assert_eq!(left, ["held", "young", "alive", "foreign"]);
        let recorded: Vec<(String, String, i64)> =
            sqlx::query_as("select actor, action, count(*) from event_box.interventions group by 1, 2")
                .fetch_all(&log.pool)
                .await
                .unwrap();
        assert_eq!(recorded, [("event-box".to_owned(), "expire".to_owned(), 2500)]);
        drop(connection);
        log.close().await;
    }

    #[tokio::test]
    async fn topics_that_no_process_handles_for_a_day_are_named() {
        let log = TestLog::new().await;
        let fill = "insert into event_box.parked (group_name, partition, sequence, topic, reason, parked_at) values
                    ('g', 0, 1, 'b', 'no_handler', now() - interval '2 days'), ('g', 1, 2, 'b', 'no_handler', now() - interval '2 days'),
                    ('g', 0, 3, 'a', 'no_handler', now() - interval '25 hours'), ('g', 0, 4, 'new', 'no_handler', now()),
                    ('g', 0, 5, 'failed', 'failed', now() - interval '2 days'), ('h', 0, 6, 'c', 'no_handler', now() - interval '2 days')";
        sqlx::raw_sql(fill).execute(&log.pool).await.unwrap();
        let mut connection = log.pool.acquire().await.unwrap();
        let named = without_handler(&mut connection, &log.schema, "g").await.unwrap();
        assert_eq!(named, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        drop(connection);
        log.close().await;
    }
}
