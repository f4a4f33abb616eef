//! A web service, its consumer and its relay in one process, which stop together: on SIGTERM nothing further begins, what has begun is
//! finished, and the process ends in bounded time. Where one of the three fails, the others are stopped in the same way.
//!
//! The recipe sends itself SIGTERM in the middle of the traffic, starts the service again, and looks for what may have been lost or doubled.
//! event-box has no relay to brokers yet: `forwarder.rs` stands in for it, and a list in memory for the broker.

mod clients;
mod forwarder;
mod gauge;
mod orders;
mod process;
mod service;
mod signal;
#[cfg(test)]
mod tests;

use std::net::TcpListener;

use recipes::{Books, until};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{forwarder::Sink, orders::App, process::Process};

const TABLES: &str = "
    create table orders (id uuid primary key, sku text not null);
    create table reservations (order_id uuid primary key, sku text not null);
";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    recipes::run("service", TABLES, restarted).await
}

async fn restarted(pool: PgPool) -> anyhow::Result<()> {
    println!("16 clients send orders; the process gets SIGTERM in the middle of it, and is started again.");
    let (app, sink) = (App::new(pool.clone()), Sink::default());
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let running = Process::start(&app, listener, &sink)?;
    let clients = tokio::spawn(clients::send_until_refused(address, 16));
    let mut under_way = (0, 0);
    until("requests and events are under way, and something was published", async || {
        under_way = (app.requests.under_way(), app.events.under_way());
        Ok(under_way.0 > 0 && under_way.1 > 0 && sink.published().len() > 100)
    })
    .await?;
    let took = running.stop().await?;
    let mut sent = clients.await??;
    println!(
        "\nSIGTERM met {} requests and {} events under way; the service ended {took:.0?} later",
        under_way.0, under_way.1
    );

    let mut books = Books::open();
    books.check("every request that had begun was finished", app.requests.under_way() == 0);
    books.check(
        "so was every event: nothing that a handler did was rolled back",
        app.events.under_way() == 0 && {
            let reserved: i64 = sqlx::query_scalar("select count(*) from reservations").fetch_one(&pool).await?;
            reserved as usize == app.events.ended()
        },
    );

    // The same address, the same clients: they send again what was not answered, under the same id.
    let running = Process::start(&app, TcpListener::bind(address)?, &sink)?;
    sent.accepted.extend(clients::send(address, &sent.unanswered).await?);
    sent.accepted.extend(clients::send(address, &clients::new_orders(200)).await?);
    let orders = sent.accepted.len();
    until("every order was handled and published", async || {
        let reserved: i64 = sqlx::query_scalar("select count(*) from reservations").fetch_one(&pool).await?;
        Ok(reserved as usize >= orders && sink.published().len() >= orders)
    })
    .await?;
    running.stop().await?;
    check(&pool, books, sent.accepted, &sink).await
}

async fn check(pool: &PgPool, mut books: Books, mut accepted: Vec<Uuid>, sink: &Sink) -> anyhow::Result<()> {
    accepted.sort_unstable();
    let stored: Vec<Uuid> = sqlx::query_scalar("select id from orders order by id").fetch_all(pool).await?;
    books.check("every order that was accepted is stored, and no other", stored == accepted);
    let told: Vec<Uuid> = sqlx::query_scalar("select partition_key::uuid as id from event_box.events order by id")
        .fetch_all(pool)
        .await?;
    books.check("each has its event, one", told == accepted);
    let reserved: Vec<Uuid> =
        sqlx::query_scalar("select order_id from reservations order by order_id").fetch_all(pool).await?;
    books.check("each has its reservation, one", reserved == accepted);
    let mut published = sink.published();
    published.sort_unstable();
    books.check("each was published, and none twice, as nobody was killed", published == accepted);
    books.close()
}
