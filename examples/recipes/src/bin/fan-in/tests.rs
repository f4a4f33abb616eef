use event_box::{EventBox, testing};
use recipes::{Gremlin, Stage, until_true};
use sqlx::PgPool;

use crate::{IN_ORDER, PaymentReceived, ShipmentSent, TABLES, group, receive_payment, send_shipment};

async fn timeline(pool: &PgPool, order_id: i64) -> Vec<String> {
    sqlx::query_scalar("select what from timeline where order_id = $1 order by place")
        .bind(order_id)
        .fetch_all(pool)
        .await
        .unwrap()
}

/// The second writer begins while the first has the row and has told nothing yet: it waits, and so does its event.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_lock_first_is_first_on_the_timeline() {
    let stage = Stage::open("fan_in_test", TABLES).await.unwrap();
    let pool = stage.pool.clone();
    let mut payment = pool.begin().await.unwrap();
    sqlx::query("select from orders where id = 1 for update").execute(&mut *payment).await.unwrap();
    let shipment = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut tx = pool.begin().await.unwrap();
            send_shipment(&mut tx, 1, "a teapot".to_owned()).await.unwrap();
            tx.commit().await.unwrap();
        }
    });
    let waits =
        "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
    until_true(&pool, "the shipment waits for the order", waits).await.unwrap();
    receive_payment(&mut payment, 1, 995).await.unwrap();
    payment.commit().await.unwrap();
    shipment.await.unwrap();

    testing::assert_emitted_matching(&pool, |paid: &PaymentReceived| paid.cents == 995).await;
    testing::assert_emitted_matching(&pool, |sent: &ShipmentSent| sent.parcel == "a teapot").await;
    let drained = testing::drain(&group(&EventBox::new(pool.clone()), Gremlin::every(0)).unwrap()).await.unwrap();
    assert_eq!((drained.handled, drained.failures.len()), (2, 0));
    assert_eq!(timeline(&pool, 1).await, ["paid 995 cents", "sent a teapot"]);
    stage.close().await.unwrap();
}

/// A payment that fails holds up the shipment behind it, although that comes from another topic.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_on_one_topic_holds_the_key_on_the_other() {
    let stage = Stage::open("fan_in_test", TABLES).await.unwrap();
    let pool = stage.pool.clone();
    for order_id in 1..=3 {
        let mut tx = pool.begin().await.unwrap();
        receive_payment(&mut tx, order_id, 995).await.unwrap();
        send_shipment(&mut tx, order_id, "a teapot".to_owned()).await.unwrap();
        receive_payment(&mut tx, order_id, 5).await.unwrap();
        tx.commit().await.unwrap();
    }
    let drained = testing::drain(&group(&EventBox::new(pool.clone()), Gremlin::every(2)).unwrap()).await.unwrap();
    assert_eq!(drained.handled, 9);
    assert!(drained.failures.len() >= 8, "{:?}", drained.failures);
    assert_eq!(sqlx::query_as::<_, (i64, i64)>(IN_ORDER).fetch_one(&pool).await.unwrap(), (9, 9));
    assert_eq!(timeline(&pool, 2).await, ["paid 995 cents", "sent a teapot", "paid 5 cents"]);
    stage.close().await.unwrap();
}
