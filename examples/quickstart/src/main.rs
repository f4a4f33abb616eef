//! A small order service on event-box that drives itself and checks its own books.
//!
//! `POST /orders` writes an order and emits `OrderPlaced` in one transaction. In the same process one consumer group reserves stock and
//! another keeps a revenue projection. `cargo run -p quickstart` sends it some hundred orders, some of which fail and are rolled back;
//! `cargo run -p quickstart -- --serve` keeps it running for `curl`.

mod books;
mod customers;
mod events;
mod handlers;
mod service;
mod stopwatch;
#[cfg(test)]
mod tests;

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use event_box::{Consumer, EventBox};
use event_box_dev::Server;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{books::Books, customers::Sent, service::App, stopwatch::Stopwatch};

/// A small order service on event-box that drives itself and checks its own books.
#[derive(Debug, Parser)]
struct Arguments {
    /// Keep serving until Ctrl-C, for curl, instead of placing orders itself.
    #[arg(long)]
    serve: bool,
    /// How many orders the clients send.
    #[arg(long, default_value_t = 400)]
    orders: usize,
    /// How many clients send them at once.
    #[arg(long, default_value_t = 8)]
    clients: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    println!("finding a PostgreSQL (set EVENT_BOX_DATABASE_URL to use your own) …");
    let server = tokio::task::spawn_blocking(Server::from_env_or_start).await??;
    let database = server.create_database("quickstart").await?;
    let shutdown = CancellationToken::new();
    tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                shutdown.cancel();
            }
        }
    });
    let done = run(&arguments, database.url(), shutdown).await;
    database.close().await?;
    done
}

async fn run(arguments: &Arguments, url: &str, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(30).connect(url).await?;
    event_box::migrate(&pool).await?;
    sqlx::raw_sql(include_str!("schema.sql")).execute(&pool).await?;

    let stopwatch = Stopwatch::default();
    let log = EventBox::new(pool.clone());
    let app = App { pool: pool.clone(), outbox: log.outbox(), stopwatch: stopwatch.clone() };
    let warehouse =
        Consumer::builder(&log, "warehouse").state(stopwatch.clone()).on(handlers::reserve_stock).build()?;
    // Its rows are shared by orders of all keys: several workers would wait for each other's locks.
    let revenue = Consumer::builder(&log, "revenue").on(handlers::book_revenue).workers(1).build()?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let served = axum::serve(listener, service::router(app)).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let running = tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            tokio::try_join!(
                async { warehouse.run(shutdown.clone()).await.context("the warehouse stopped") },
                async { revenue.run(shutdown.clone()).await.context("the revenue projection stopped") },
                async { served.await.context("the web service stopped") },
            )
        }
    });

    let books = if arguments.serve {
        println!("listening on {address}, for example:\n");
        println!(
            "  curl -d '{{\"sku\":\"teapot\",\"quantity\":2}}' -H 'content-type: application/json' {address}/orders"
        );
        println!("  curl {address}/revenue\n\nthe database is {url}\nCtrl-C stops it");
        shutdown.cancelled().await;
        None
    } else {
        println!(
            "the service listens on {address}, {} clients send {} orders …\n",
            arguments.clients, arguments.orders
        );
        shutdown.run_until_cancelled(place_orders(arguments, &address, &pool)).await.transpose()?
    };
    shutdown.cancel();
    running.await??;
    pool.close().await;
    let agree = books.is_none_or(|(sent, books)| {
        books.print(&sent, &stopwatch);
        books.agree(&sent)
    });
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn place_orders(arguments: &Arguments, address: &str, pool: &PgPool) -> anyhow::Result<(Sent, Books)> {
    let sent = customers::send_orders(address, arguments.orders, arguments.clients).await?;
    Ok((sent, books::settle(pool, Duration::from_secs(30)).await?))
}
