//! Fan-in: what two modules tell of the same orders, handled by one function in the order in which it happened to each.
//!
//! Payments and shipments are modules with tables and topics of their own. Their events have the order's id as partition key, and an enum
//! of both is the handler's argument: one group reads both topics as one stream. What makes the order is the writers' part: each takes the
//! lock on the order's row first and emits second.

#[cfg(test)]
mod tests;

use std::time::Duration;

use event_box::{Backoff, BoxError, BuildError, Consumer, Context, Event, EventBox, Outbox};
use futures_util::future::try_join_all;
use recipes::{Books, Gremlin, until_true, while_running};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// `change` numbers what happened to an order, as its row's lock let it happen. The timeline is the handler's: `place` goes up as it writes.
const TABLES: &str = "
    create table orders (id bigint primary key, changes integer not null default 0);
    create table payments (id uuid primary key, order_id bigint not null, change integer not null, cents bigint not null);
    create table shipments (id uuid primary key, order_id bigint not null, change integer not null, parcel text not null);
    create table timeline (
        place bigint generated always as identity, order_id bigint not null, happened uuid not null unique, what text not null
    );
    insert into orders select generate_series(1, 20);
";

/// Told by the payments module.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "payments.received", partition_key = "order_id")]
struct PaymentReceived {
    order_id: i64,
    payment_id: Uuid,
    cents: i64,
}

/// Told by the shipping module.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "shipments.sent", partition_key = "order_id")]
struct ShipmentSent {
    order_id: i64,
    shipment_id: Uuid,
    parcel: String,
}

/// Both, as one stream.
#[derive(Debug, Event)]
enum OrderActivity {
    Paid(PaymentReceived),
    Shipped(ShipmentSent),
}

/// The lock that orders an order's writers, whatever module they belong to; answers the change's number.
async fn begin_change(connection: &mut PgConnection, order_id: i64) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("update orders set changes = changes + 1 where id = $1 returning changes")
        .bind(order_id)
        .fetch_one(connection)
        .await
}

async fn receive_payment(connection: &mut PgConnection, order_id: i64, cents: i64) -> anyhow::Result<()> {
    let payment_id = Uuid::now_v7();
    let change = begin_change(&mut *connection, order_id).await?;
    Outbox::new().emit(&mut *connection, &PaymentReceived { order_id, payment_id, cents }).await?;
    sqlx::query("insert into payments (id, order_id, change, cents) values ($1, $2, $3, $4)")
        .bind(payment_id)
        .bind(order_id)
        .bind(change)
        .bind(cents)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

async fn send_shipment(connection: &mut PgConnection, order_id: i64, parcel: String) -> anyhow::Result<()> {
    let shipment_id = Uuid::now_v7();
    let change = begin_change(&mut *connection, order_id).await?;
    Outbox::new().emit(&mut *connection, &ShipmentSent { order_id, shipment_id, parcel: parcel.clone() }).await?;
    sqlx::query("insert into shipments (id, order_id, change, parcel) values ($1, $2, $3, $4)")
        .bind(shipment_id)
        .bind(order_id)
        .bind(change)
        .bind(parcel)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// One event of an order at a time, from either module.
async fn note(event: OrderActivity, cx: &mut Context<'_, Gremlin>) -> Result<(), BoxError> {
    let (order_id, happened, what) = match event {
        OrderActivity::Paid(paid) => (paid.order_id, paid.payment_id, format!("paid {} cents", paid.cents)),
        OrderActivity::Shipped(sent) => (sent.order_id, sent.shipment_id, format!("sent {}", sent.parcel)),
    };
    sqlx::query("insert into timeline (order_id, happened, what) values ($1, $2, $3)")
        .bind(order_id)
        .bind(happened)
        .bind(what)
        .execute(&mut *cx)
        .await?;
    // What failed comes before what waits behind it, from whichever topic.
    cx.state().strike()
}

fn group(log: &EventBox, gremlin: Gremlin) -> Result<Consumer, BuildError> {
    let backoff = Backoff::fixed(Duration::from_millis(30));
    Consumer::builder(log, "timeline").state(gremlin).on(note).workers(8).backoff(backoff).build()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    recipes::run("fan_in", TABLES, fan_in).await
}

const WRITERS: i64 = 12;
const CHANGES: i64 = 50;

async fn fan_in(pool: PgPool) -> anyhow::Result<()> {
    println!(
        "12 writers of two modules pay for and ship the same 20 orders at once, 8 workers handle it, every 25th call fails."
    );
    let gremlin = Gremlin::every(25);
    while_running([group(&EventBox::new(pool.clone()), gremlin.clone())?], async {
        try_join_all((0..WRITERS).map(|writer| write(&pool, writer))).await?;
        let handled = "select count(*) = 12 * 50 from timeline";
        until_true(&pool, "everything is on the timeline", handled).await
    })
    .await?;

    let one: Vec<String> = sqlx::query_scalar("select what from timeline where order_id = 1 order by place limit 6")
        .fetch_all(&pool)
        .await?;
    println!("\norder 1: {}, …", one.join(", "));
    println!("{} technical failures, each tried again", gremlin.strikes());
    check(&pool, &gremlin).await
}

/// One module's writer: all its orders in turn.
async fn write(pool: &PgPool, writer: i64) -> anyhow::Result<()> {
    for n in 0..CHANGES {
        let order_id = 1 + (7 * writer + n) % 20;
        let mut tx = pool.begin().await?;
        if writer % 2 == 0 {
            receive_payment(&mut tx, order_id, 100 + n).await?;
        } else {
            send_shipment(&mut tx, order_id, format!("parcel {writer}/{n}")).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

async fn check(pool: &PgPool, gremlin: &Gremlin) -> anyhow::Result<()> {
    let mut books = Books::open();
    books.check("some handlers failed technically", gremlin.strikes() > 0);
    let (told, in_order): (i64, i64) = sqlx::query_as(IN_ORDER).fetch_one(pool).await?;
    books.check("every payment and every shipment is on the timeline once", told == WRITERS * CHANGES);
    books.check("each order's timeline is in the order in which it happened", in_order == told);
    books
        .ask(
            pool,
            "on the timelines payments and shipments alternate, and are not in two heaps",
            "select count(*) filter (where paid <> before) > 100 from (
                 select what like 'paid %' as paid, lag(what like 'paid %') over (partition by order_id order by place) as before from timeline
             ) as lines",
        )
        .await?;
    books.close()
}

/// What is on the timeline, and how much of it follows the change before it.
const IN_ORDER: &str = "
    select count(*), count(*) filter (where change = turn) from (
        select change, row_number() over (partition by t.order_id order by t.place) as turn
        from timeline as t join (
            select id, change from payments union all select id, change from shipments
        ) as happened on happened.id = t.happened
    ) as told";
