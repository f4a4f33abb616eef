use std::time::Duration;

use event_box::{EventBox, testing};
use recipes::Stage;
use sqlx::{AssertSqlSafe, PgPool};

use crate::{EXACT, TABLES, TABLES_V2, group_v1, group_v2, orders::place, swap};

async fn stage() -> Stage {
    let stage = Stage::open("projection_test", TABLES).await.unwrap();
    sqlx::raw_sql(TABLES_V2).execute(&stage.pool).await.unwrap();
    stage
}

async fn orders_in(pool: &PgPool, relation: &str) -> i64 {
    let sql = AssertSqlSafe(format!("select coalesce(sum(orders), 0)::bigint from {relation}"));
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_stay_with_the_old_table_until_the_new_one_has_all_of_it() {
    let stage = stage().await;
    let (pool, log) = (stage.pool.clone(), EventBox::new(stage.pool.clone()));
    let (old, new) = (log.group("revenue-v1"), log.group("revenue-v2"));
    let (v1, v2) = (group_v1(&log).unwrap(), group_v2(&log).unwrap());
    place(&pool, 0..10).await.unwrap();
    assert_eq!(testing::drain(&v2).await.unwrap().handled, 10);
    place(&pool, 10..15).await.unwrap();
    assert_eq!(testing::drain(&v1).await.unwrap().handled, 15);

    {
        let swapped = std::pin::pin!(swap::swap(&pool, &old, &new, async || Ok(())));
        let stands_still = async {
            while old.health().await.unwrap().paused_at.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        tokio::select! {
            swapped = swapped => panic!("the new table is behind: {swapped:?}"),
            () = stands_still => {}
        }
    }
    assert_eq!(orders_in(&pool, "revenue").await, 15);
    // The old table stands still, the new one goes on.
    place(&pool, 15..20).await.unwrap();
    assert_eq!(testing::drain(&v1).await.unwrap().handled, 0);
    assert_eq!(testing::drain(&v2).await.unwrap().handled, 10);
    swap::swap(&pool, &old, &new, async || Ok(())).await.unwrap();
    assert_eq!((orders_in(&pool, "revenue").await, orders_in(&pool, "revenue_v1").await), (20, 15));
    assert!(sqlx::query_scalar::<_, bool>(EXACT).fetch_one(&pool).await.unwrap());
    stage.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_swap_fails_the_old_group_goes_on() {
    let stage = stage().await;
    let (pool, log) = (stage.pool.clone(), EventBox::new(stage.pool.clone()));
    let (old, new) = (log.group("revenue-v1"), log.group("revenue-v2"));
    let (v1, v2) = (group_v1(&log).unwrap(), group_v2(&log).unwrap());
    for group in [&v1, &v2] {
        assert_eq!(testing::drain(group).await.unwrap().handled, 0);
    }
    // Somebody reads for longer than the swap waits.
    let mut reader = pool.begin().await.unwrap();
    sqlx::query("select from revenue").fetch_all(&mut *reader).await.unwrap();
    let error = swap::swap(&pool, &old, &new, async || Ok(())).await.unwrap_err();
    assert!(error.to_string().contains("lock timeout"), "{error:#}");
    reader.rollback().await.unwrap();
    assert_eq!(old.health().await.unwrap().paused_at, None);

    place(&pool, 0..5).await.unwrap();
    assert_eq!(testing::drain(&v1).await.unwrap().handled, 5);
    assert_eq!(orders_in(&pool, "revenue").await, 5);
    stage.close().await.unwrap();
}
