//! A call to somebody else's service, who takes money: made again after every failure, with the event's id as idempotency key, so that each
//! order is charged once.
//!
//! The provider here refuses connections at first, is down with 503 for a while, charges and then fails to say so, and refuses cards that are
//! none. The handler fails too, after the call. In the end the whole group is replayed, and nobody is charged again.

mod client;
mod provider;
#[cfg(test)]
mod tests;

use std::time::Duration;

use event_box::{Backoff, BuildError, Consumer, Detached, Event, EventBox, Failure, Outbox};
use recipes::{Books, Gremlin, until, while_running};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{client::Payments, provider::Provider};

const TABLES: &str = "
    create table payments (order_id uuid primary key, charge_id uuid not null unique, cents bigint not null);
";

/// An order is to be paid by card.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order_id")]
pub(crate) struct OrderPlaced {
    pub(crate) order_id: Uuid,
    pub(crate) card: String,
    pub(crate) cents: i64,
}

pub(crate) struct App {
    pub(crate) pool: PgPool,
    pub(crate) payments: Payments,
    pub(crate) gremlin: Gremlin,
}

/// In no transaction, as it waits for somebody else. Whatever becomes of it after the call, the next delivery asks with the same key.
pub(crate) async fn charge(order: OrderPlaced, cx: &mut Detached<'_, App>) -> Result<(), Failure> {
    let App { pool, payments, gremlin } = cx.state();
    let receipt = payments.charge(cx.id(), &order).await?;
    // A later delivery comes here again, with the same receipt.
    sqlx::query(
        "insert into payments (order_id, charge_id, cents) values ($1, $2, $3) on conflict (order_id) do nothing",
    )
    .bind(order.order_id)
    .bind(receipt.charge_id)
    .bind(order.cents)
    .execute(pool)
    .await?;
    // Too late to take anything back.
    Ok(gremlin.strike()?)
}

pub(crate) fn group(log: &EventBox, app: App) -> Result<Consumer, BuildError> {
    // The last attempt must come while the provider still knows the key, which is a day with most: 10 of them take 8 minutes here.
    let backoff = Backoff::exponential(Duration::from_millis(50), 3.0, Duration::from_secs(300));
    let calls_at_once = 8;
    Consumer::builder(log, "payments")
        .state(app)
        .concurrent(calls_at_once)
        .on(charge)
        .max_attempts(10)
        .backoff(backoff)
        .build()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    recipes::run("idempotent_call", TABLES, idempotent_call).await
}

const ORDERS: u64 = 120;
/// Every twentieth card is none.
const BAD_CARDS: u64 = ORDERS / 20;

async fn idempotent_call(pool: PgPool) -> anyhow::Result<()> {
    println!(
        "{ORDERS} orders to be charged by a provider who cannot be reached, is down, forgets to answer, and refuses every twentieth card."
    );
    let log = EventBox::new(pool.clone());
    let provider = Provider::forgetful(5);
    let doors = provider.open(None).await?;
    let payments = Payments::new(doors.url())?;
    let app = App { pool: pool.clone(), payments: payments.clone(), gremlin: Gremlin::every(10) };
    let operator = log.group("payments").by("the recipe");

    let doors = while_running([group(&log, app)?], async {
        let doors = doors
            .close_and_reopen(async || {
                place(&pool, 0..ORDERS / 2).await?;
                until("a call met no provider", async || Ok(payments.outages() > 0)).await
            })
            .await?;
        provider.set_down(true);
        let before = payments.outages();
        place(&pool, ORDERS / 2..ORDERS).await?;
        until("a call was answered with 503", async || Ok(payments.outages() > before)).await?;
        provider.set_down(false);
        settled(&log).await?;
        println!("\n{:>4}  calls", provider.calls());
        println!("{:>4}  charges", provider.charges().len());
        println!("{:>4}  calls met no provider, or one that was down", payments.outages());

        let before = provider.calls();
        operator.replay_all().await?;
        until("every event has come again", async || Ok(provider.calls() >= before + ORDERS)).await?;
        settled(&log).await?;
        println!("{:>4}  calls after a replay of the whole group", provider.calls());
        Ok(doors)
    })
    .await?;
    doors.close().await?;
    check(&pool, &log, &provider).await
}

/// As `POST /orders` would.
pub(crate) async fn place(pool: &PgPool, orders: impl IntoIterator<Item = u64>) -> anyhow::Result<()> {
    for n in orders {
        let card = if n % 20 == 19 { "none".to_owned() } else { format!("{:016}", 4_000_000_000_000_000 + n) };
        let order = OrderPlaced { order_id: Uuid::now_v7(), card, cents: 100 + n as i64 };
        Outbox::new().emit(pool, &order).await?;
    }
    Ok(())
}

/// Waits until every event was charged or refused.
async fn settled(log: &EventBox) -> anyhow::Result<()> {
    until("every order was charged or refused", async || {
        let health = log.group("payments").health().await?;
        let parked = health.retrying + health.snoozed + health.waiting;
        Ok(health.pending() == 0 && parked == 0 && health.dead == BAD_CARDS)
    })
    .await
}

async fn check(pool: &PgPool, log: &EventBox, provider: &Provider) -> anyhow::Result<()> {
    let mut books = Books::open();
    let charges = provider.charges();
    let mut orders: Vec<_> = charges.iter().map(|charge| charge.order_id).collect();
    orders.sort_unstable();
    orders.dedup();
    books.check("nobody was charged twice", orders.len() == charges.len());
    books.check("everybody with a card was charged", orders.len() as u64 == ORDERS - BAD_CARDS);
    books.check("there were more calls than charges", provider.calls() > 2 * ORDERS);

    let mut known: Vec<(Uuid, Uuid, i64)> =
        sqlx::query_as("select order_id, charge_id, cents from payments").fetch_all(pool).await?;
    let mut theirs: Vec<_> = charges.iter().map(|charge| (charge.order_id, charge.charge_id, charge.cents)).collect();
    known.sort_unstable();
    theirs.sort_unstable();
    books.check("our payments are the provider's charges, one for one", known == theirs);

    let refused = log.group("payments").dead_letters().await?;
    books.check(
        "cards that are none were refused at the first attempt",
        refused.iter().all(|letter| letter.attempts == 1),
    );
    books.close()
}
