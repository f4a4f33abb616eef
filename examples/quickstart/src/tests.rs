//! How an application tests what it emits and handles.

use axum::{Json, extract::State, http::StatusCode};
use event_box::{Consumer, Outbox, testing};
use event_box_dev::Server;
use sqlx::PgPool;

use crate::{
    events::OrderPlaced,
    handlers::{book_revenue, reserve_stock},
    service::{App, NewOrder, place_order},
    stopwatch::Stopwatch,
};

async fn order(pool: &PgPool, sku: &str, card: u64) -> StatusCode {
    let app = App { pool: pool.clone(), outbox: Outbox::new(), stopwatch: Stopwatch::default() };
    let new = NewOrder { sku: sku.to_owned(), quantity: 2, card };
    place_order(State(app), Json(new)).await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_told_and_reserved_and_a_declined_one_is_neither() {
    let server = tokio::task::spawn_blocking(Server::from_env_or_start).await.unwrap().unwrap();
    let database = server.create_database("quickstart_test").await.unwrap();
    let pool = database.pool(10).await.unwrap();
    event_box::migrate(&pool).await.unwrap();
    sqlx::raw_sql(include_str!("schema.sql")).execute(&pool).await.unwrap();

    assert_eq!(order(&pool, "tea", 1).await, StatusCode::CREATED);
    assert_eq!(order(&pool, "coffee", 10).await, StatusCode::PAYMENT_REQUIRED);
    testing::assert_emitted_matching(&pool, |event: &OrderPlaced| event.sku == "tea" && event.quantity == 2).await;
    testing::assert_not_emitted(&pool, |event: &OrderPlaced| event.sku == "coffee").await;

    let warehouse =
        Consumer::builder(&pool, "warehouse").state(Stopwatch::default()).on(reserve_stock).build().unwrap();
    let revenue = Consumer::builder(&pool, "revenue").on(book_revenue).build().unwrap();
    for consumer in [warehouse, revenue] {
        let drained = testing::drain(&consumer).await.unwrap();
        assert_eq!((drained.handled, drained.failures), (1, vec![]));
    }
    let books: (String, i64, i32) =
        sqlx::query_as("select sku, cents, quantity from revenue join reservations using (sku)")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(books, ("tea".to_owned(), 2 * 499, 2));
    pool.close().await;
    database.close().await.unwrap();
}
