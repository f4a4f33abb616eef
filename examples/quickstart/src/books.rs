use std::time::Duration;

use anyhow::Context;
use sqlx::PgPool;
use tokio::time::Instant;

use crate::{customers::Sent, stopwatch::Stopwatch};

/// What the tables say once every event was handled.
#[derive(Debug, Default, PartialEq, sqlx::FromRow)]
pub(crate) struct Books {
    orders: i64,
    ordered_cents: i64,
    events: i64,
    reserved: i64,
    booked: i64,
    booked_cents: i64,
}

/// Waits until both groups have caught up with the log, and reads the books.
pub(crate) async fn settle(pool: &PgPool, patience: Duration) -> anyhow::Result<Books> {
    let deadline = Instant::now() + patience;
    loop {
        let books: Books = sqlx::query_as(
            "select (select count(*) from orders) as orders,
                    (select coalesce(sum(total_cents), 0)::bigint from orders) as ordered_cents,
                    (select count(*) from event_box.events) as events,
                    (select count(*) from reservations) as reserved,
                    (select coalesce(sum(orders), 0)::bigint from revenue) as booked,
                    (select coalesce(sum(cents), 0)::bigint from revenue) as booked_cents",
        )
        .fetch_one(pool)
        .await
        .context("the books could not be read")?;
        if (books.reserved >= books.events && books.booked >= books.events) || Instant::now() >= deadline {
            return Ok(books);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Books {
    /// Every order that was placed has its event, every event was handled once by each group, and the money is the same to the cent.
    pub(crate) fn agree(&self, sent: &Sent) -> bool {
        let expected = Self {
            orders: sent.placed,
            ordered_cents: self.ordered_cents,
            events: sent.placed,
            reserved: sent.placed,
            booked: sent.placed,
            booked_cents: self.ordered_cents,
        };
        *self == expected
    }

    pub(crate) fn print(&self, sent: &Sent, stopwatch: &Stopwatch) {
        println!("orders placed            {:>8}", sent.placed);
        println!("declined, rolled back    {:>8}", sent.declined);
        println!("events emitted           {:>8}", self.events);
        println!("handled by `warehouse`   {:>8}", self.reserved);
        println!("handled by `revenue`     {:>8}", self.booked);
        if let Some((median, worst)) = stopwatch.percentiles() {
            println!(
                "commit to handler        {:>8.1} ms median, {:.1} ms 99th percentile",
                millis(median),
                millis(worst)
            );
        }
        println!("orders table             {:>12}", money(self.ordered_cents));
        println!("revenue projection       {:>12}", money(self.booked_cents));
        let verdict = if self.agree(sent) {
            "the books agree: each event was handled once by each group"
        } else {
            "THE BOOKS DO NOT AGREE"
        };
        println!("\n{verdict}");
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
