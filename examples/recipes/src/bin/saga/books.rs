use recipes::{Books, Gremlin};
use sqlx::PgPool;

/// The only ways an order may go.
pub(crate) const STORIES: [&str; 4] = [
    "orders.placed, stock.reserved, payments.charged, shipping.shipped",
    "orders.placed, stock.refused",
    "orders.placed, stock.reserved, payments.declined, stock.released",
    "orders.placed, stock.reserved, payments.charged, shipping.refused, payments.refunded, stock.released",
];

/// What happened to the orders, in the log's own words, and how often.
pub(crate) async fn stories(pool: &PgPool) -> Result<Vec<(String, i64)>, sqlx::Error> {
    sqlx::query_as(
        "select story, count(*) from (
             select string_agg(topic, ', ' order by sequence) as story from event_box.events group by partition_key
         ) as told group by story order by count(*) desc",
    )
    .fetch_all(pool)
    .await
}

pub(crate) async fn check(pool: &PgPool, gremlin: &Gremlin) -> anyhow::Result<()> {
    let stories = stories(pool).await?;
    println!();
    for (story, orders) in &stories {
        println!("{orders:>4}  {story}");
    }
    println!("{:>4}  technical failures, each tried again", gremlin.strikes());

    let mut books = Books::open();
    let told: Vec<_> = stories.iter().map(|(story, _)| story.as_str()).collect();
    books.check(
        "each way an order may go was gone, no other, and undone in reverse",
        told.len() == STORIES.len() && STORIES.iter().all(|story| told.contains(story)),
    );
    books.check("some handlers failed technically", gremlin.strikes() > 0);
    books
        .ask(
            pool,
            "a completed order has its reservation, its charge and its parcel",
            "select bool_and(r.order_id is not null and c.order_id is not null and p.order_id is not null)
             from orders as o left join reservations as r on r.order_id = o.id left join charges as c on c.order_id = o.id
             left join parcels as p on p.order_id = o.id where o.status = 'completed'",
        )
        .await?;
    books
        .ask(
            pool,
            "a cancelled order has none of them",
            "select bool_and(r.order_id is null and c.order_id is null and p.order_id is null)
             from orders as o left join reservations as r on r.order_id = o.id left join charges as c on c.order_id = o.id
             left join parcels as p on p.order_id = o.id where o.status = 'cancelled'",
        )
        .await?;
    books
        .ask(
            pool,
            "there are as many goods as before",
            "select (select sum(available) from stock) + (select sum(quantity) from reservations) = 4 * 60",
        )
        .await?;
    books
        .ask(
            pool,
            "there is as much money as before",
            "select (select sum(cents) from wallets) + (select sum(cents) from charges) = 20 * 5000",
        )
        .await?;
    books.ask(pool, "nothing is parked", "select not exists (select from event_box.parked)").await?;
    books.close()
}
