//! A projection that is rebuilt while it is read and written: a second group replays the log into a table beside the first, and then
//! readers are swapped over.
//!
//! Each version of the projection is a table of its own with a group of its own: `revenue_v1` and `revenue_v2`, and no handler ever writes
//! to a table that changes its name. Readers know the view `revenue` alone, and the swap is that view's. So an event that arrives meanwhile is
//! given to both groups, once each, whatever the swap does; what is left to get right is that readers never see less than before.

mod orders;
mod swap;
#[cfg(test)]
mod tests;

use std::time::Duration;

use event_box::{BuildError, Consumer, Context, EventBox};
use recipes::{Books, until};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::orders::{OrderPlaced, Traffic};

const TABLES: &str = "
    create table orders (id uuid primary key, sku text not null, quantity integer not null, cents bigint not null);
    create table revenue_v1 (sku text primary key, orders bigint not null, cents bigint not null);
    create view revenue as select sku, orders, cents from revenue_v1;
";

/// The first version of the projection.
async fn book_v1(order: OrderPlaced, cx: &mut Context<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into revenue_v1 (sku, orders, cents) values ($1, 1, $2)
         on conflict (sku) do update set orders = revenue_v1.orders + 1, cents = revenue_v1.cents + excluded.cents",
    )
    .bind(order.sku)
    .bind(order.cents)
    .execute(cx)
    .await?;
    Ok(())
}

/// What the deployment of the second version brings: its table, and its handler.
const TABLES_V2: &str = "
    create table revenue_v2 (sku text primary key, orders bigint not null, cents bigint not null, units bigint not null);
";

/// The second version counts units too, which the first has thrown away: only the log still knows them.
async fn book_v2(order: OrderPlaced, cx: &mut Context<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into revenue_v2 (sku, orders, cents, units) values ($1, 1, $2, $3)
         on conflict (sku) do update set orders = revenue_v2.orders + 1, cents = revenue_v2.cents + excluded.cents,
                                         units = revenue_v2.units + excluded.units",
    )
    .bind(order.sku)
    .bind(order.cents)
    .bind(i64::from(order.quantity))
    .execute(cx)
    .await?;
    Ok(())
}

/// A new group reads from the beginning of the log, as far as that is still there: whoever wants to rebuild keeps it.
fn group_v1(log: &EventBox) -> Result<Consumer, BuildError> {
    // Orders of all keys share a row: several workers would wait for each other's locks.
    Consumer::builder(log, "revenue-v1").on(book_v1).workers(1).all_or_nothing().retention(None).build()
}

fn group_v2(log: &EventBox) -> Result<Consumer, BuildError> {
    Consumer::builder(log, "revenue-v2").on(book_v2).workers(1).all_or_nothing().retention(None).build()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    recipes::run("projection", TABLES, projection).await
}

const HISTORY: usize = 3_000;
/// A group that is no further behind has caught up, near enough to swap.
const LAG: Duration = Duration::from_secs(5);

async fn projection(pool: PgPool) -> anyhow::Result<()> {
    println!(
        "{HISTORY} orders of the past; then orders go on coming and readers go on reading while the projection is rebuilt and swapped.\n"
    );
    let log = EventBox::new(pool.clone());
    let (old, new) = (log.group("revenue-v1").by("the recipe"), log.group("revenue-v2").by("the recipe"));
    orders::place(&pool, 0..HISTORY).await?;
    let stop_old = CancellationToken::new();
    let running_old = tokio::spawn(group_v1(&log)?.run(stop_old.clone()));
    until("the first version has everything", async || swap::has_all_before(&old, Duration::ZERO).await).await?;
    let traffic = Traffic::start(&pool);

    sqlx::raw_sql(TABLES_V2).execute(&pool).await?;
    let stop_new = CancellationToken::new();
    let running_new = tokio::spawn(group_v2(&log)?.run(stop_new.clone()));
    until("the second version has caught up", async || swap::has_all_before(&new, LAG).await).await?;
    println!("{:>5}  orders when the second version had caught up", traffic.placed());

    let before = traffic.placed();
    swap::swap(&pool, &old, &new, async || traffic.more(20).await).await?;
    let during = traffic.placed() - before;
    println!("{during:>5}  orders while readers were swapped over");

    // Processes that still have the old handler would make its group anew: stop them all before it is removed.
    stop_old.cancel();
    running_old.await??;
    old.remove().await?;
    sqlx::raw_sql("drop table revenue_v1").execute(&pool).await?;

    traffic.more(200).await?;
    let readings = traffic.stop().await?;
    until("the second version has everything", async || swap::has_all_before(&new, Duration::ZERO).await).await?;
    stop_new.cancel();
    running_new.await??;

    let mut books = Books::open();
    books.check("orders came while readers were swapped over", during >= 20);
    books.check("readers never saw less than before", readings.went_back == 0 && readings.taken > 100);
    books.ask(&pool, "the projection is the sum of all orders, to the unit and the cent", EXACT).await?;
    let groups: Vec<_> = log.groups().await?.into_iter().map(|group| group.name).collect();
    books.check("the old group is gone and holds nothing back", groups == ["revenue-v2"]);
    books.close()
}

const EXACT: &str = "
    select bool_and(r.orders is not distinct from o.orders and r.cents is not distinct from o.cents and r.units is not distinct from o.units)
    from revenue as r full join (
        select sku, count(*) as orders, sum(cents)::bigint as cents, sum(quantity) as units from orders group by sku
    ) as o using (sku)";
