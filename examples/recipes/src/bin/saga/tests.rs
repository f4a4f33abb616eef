use event_box::{EventBox, testing};
use recipes::{Gremlin, Stage};
use sqlx::PgPool;

use crate::{
    TABLES, books,
    books::STORIES,
    events::{Order, Refunded, StockReleased},
    groups, order, place,
};

/// Delivers to every group until nothing follows from it.
async fn settle(pool: &PgPool, gremlin: &Gremlin) -> usize {
    let groups = groups(&EventBox::new(pool.clone()), gremlin).unwrap();
    let mut failures = 0;
    loop {
        let mut handled = 0;
        for group in &groups {
            let drained = testing::drain(group).await.unwrap();
            assert!(drained.dead_letters.is_empty(), "{drained:?}");
            handled += drained.handled;
            failures += drained.failures.len();
        }
        if handled == 0 {
            return failures;
        }
    }
}

async fn row<T>(pool: &PgPool, query: &'static str) -> T
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    sqlx::query_as(query).fetch_one(pool).await.unwrap()
}

fn to_the_moon() -> Order {
    Order { address: "the moon".to_owned(), ..order(0) }
}

const LEFT: &str = "select (select available from stock where sku = 'teapot'), (select cents from wallets where customer = 'customer 1'), \
                    (select count(*) from reservations), (select count(*) from charges), (select count(*) from parcels), \
                    (select status from orders)";
type Left = (i32, i64, i64, i64, i64, String);

fn as_before() -> Left {
    (60, 5_000, 0, 0, 0, "cancelled".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shipped_is_refunded_and_then_released() {
    let stage = Stage::open("saga_test", TABLES).await.unwrap();
    let order = to_the_moon();
    place(&stage.pool, &order).await.unwrap();
    assert_eq!(settle(&stage.pool, &Gremlin::every(0)).await, 0);

    testing::assert_emitted(&stage.pool, &Refunded { order: order.clone() }).await;
    testing::assert_emitted(&stage.pool, &StockReleased { order }).await;
    assert_eq!(books::stories(&stage.pool).await.unwrap(), [(STORIES[3].to_owned(), 1)]);
    assert_eq!(row::<Left>(&stage.pool, LEFT).await, as_before());
    stage.close().await.unwrap();
}

/// A customer who cannot pay is not asked twice, and was never charged.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_declined_is_released_and_not_refunded() {
    let stage = Stage::open("saga_test", TABLES).await.unwrap();
    place(&stage.pool, &Order { cents: 5_001, ..order(0) }).await.unwrap();
    settle(&stage.pool, &Gremlin::every(0)).await;

    testing::assert_not_emitted(&stage.pool, |_: &Refunded| true).await;
    assert_eq!(books::stories(&stage.pool).await.unwrap(), [(STORIES[2].to_owned(), 1)]);
    assert_eq!(row::<Left>(&stage.pool, LEFT).await, as_before());
    stage.close().await.unwrap();
}

/// Every other call fails, after the handler has written and emitted: no step is taken or told twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_technical_failure_compensates_nothing_and_doubles_nothing() {
    let stage = Stage::open("saga_test", TABLES).await.unwrap();
    place(&stage.pool, &to_the_moon()).await.unwrap();
    let failures = settle(&stage.pool, &Gremlin::every(2)).await;

    assert!(failures >= 2, "{failures}");
    assert_eq!(books::stories(&stage.pool).await.unwrap(), [(STORIES[3].to_owned(), 1)]);
    assert_eq!(row::<Left>(&stage.pool, LEFT).await, as_before());
    stage.close().await.unwrap();
}
