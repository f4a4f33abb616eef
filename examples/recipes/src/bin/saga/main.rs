//! A saga: an order takes three steps, each in a service of its own. Where one is refused, the steps before it are undone in reverse.
//!
//! ```text
//! orders.placed ──► stock.reserved ──► payments.charged ──► shipping.shipped      completed
//!       │                 │                   │
//!       ▼                 ▼                   ▼
//! stock.refused    payments.declined   shipping.refused
//!       │                 │                   ▼
//!       │                 │            payments.refunded
//!       │                 ▼                   ▼
//!       │           stock.released ◄──────────┘
//!       └─────────────────┴────────────────────────────────────────────────────►  cancelled
//! ```
//!
//! A refusal is an answer, told by an event; only what went wrong technically is an error, and is tried again. Each handler writes its table
//! and emits what follows in the delivery's own transaction: a step is taken and told, or neither.

mod books;
mod events;
mod handlers;
#[cfg(test)]
mod tests;

use std::time::Duration;

use event_box::{Backoff, BuildError, Consumer, EventBox, Outbox};
use recipes::{Gremlin, until_true, while_running};
use sqlx::PgPool;
use uuid::Uuid;

use crate::events::{Order, OrderPlaced};

const TABLES: &str = "
    create table orders (id uuid primary key, status text not null default 'open');
    create table stock (sku text primary key, available integer not null check (available >= 0));
    create table reservations (order_id uuid primary key, sku text not null, quantity integer not null);
    create table wallets (customer text primary key, cents bigint not null check (cents >= 0));
    create table charges (order_id uuid primary key, customer text not null, cents bigint not null);
    create table parcels (order_id uuid primary key, address text not null);

    insert into stock select sku, 60 from unnest(array['teapot', 'kettle', 'cup', 'saucer']) as sku;
    insert into wallets select 'customer ' || n, 5000 from generate_series(1, 20) as n;
";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    recipes::run("saga", TABLES, saga).await
}

async fn saga(pool: PgPool) -> anyhow::Result<()> {
    println!(
        "200 orders: stock, then the customer's wallet, then the carrier. Each may refuse, and one call in 15 fails technically."
    );
    let gremlin = Gremlin::every(15);
    while_running(groups(&EventBox::new(pool.clone()), &gremlin)?, async {
        for n in 0..200 {
            place(&pool, &order(n)).await?;
        }
        let ended = "select not exists (select from orders where status = 'open')";
        until_true(&pool, "every order has ended", ended).await
    })
    .await?;
    books::check(&pool, &gremlin).await
}

/// The services. In one process here; each might be a process of its own, or several.
fn groups(log: &EventBox, gremlin: &Gremlin) -> Result<[Consumer; 4], BuildError> {
    let group = |name| {
        let backoff = Backoff::fixed(Duration::from_millis(50));
        Consumer::builder(log, name).state(gremlin.clone()).backoff(backoff)
    };
    Ok([
        // Orders of all keys share the rows of stock and wallets: several workers would wait for each other's locks.
        group("stock").on(handlers::reserve).on(handlers::release).workers(1).build()?,
        group("payments").on(handlers::charge).on(handlers::refund).workers(1).build()?,
        group("shipping").on(handlers::ship).build()?,
        group("orders").on(handlers::complete).on(handlers::cancel).build()?,
    ])
}

async fn place(pool: &PgPool, order: &Order) -> anyhow::Result<()> {
    let mut tx = pool.begin().await?;
    sqlx::query("insert into orders (id) values ($1)").bind(order.id).execute(&mut *tx).await?;
    Outbox::new().emit(&mut *tx, &OrderPlaced { order: order.clone() }).await?;
    Ok(tx.commit().await?)
}

/// More than stock and wallets can bear; every sixth goes where no carrier does.
fn order(n: usize) -> Order {
    let quantity = 1 + n % 3;
    Order {
        id: Uuid::now_v7(),
        sku: ["teapot", "kettle", "cup", "saucer"][n % 4].to_owned(),
        quantity: quantity as i32,
        customer: format!("customer {}", 1 + n % 20),
        cents: 450 * quantity as i64,
        address: if n % 6 == 5 { "the moon".to_owned() } else { format!("{n} High Street") },
    }
}
