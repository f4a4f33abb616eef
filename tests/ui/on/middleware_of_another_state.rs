use event_box::{Consumer, Context, Event, Failure, Middleware, Next};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize, Deserialize, Event)]
struct OrderPlaced {
    order_id: i64,
}

struct App;

struct Timed;

impl Middleware<App> for Timed {
    async fn deliver(&self, cx: &mut Context<'_, App>, next: Next<'_, App>) -> Result<(), Failure> {
        next.run(cx).await
    }
}

fn consume(pool: PgPool) {
    let _ = Consumer::builder(pool, "index").middleware(Timed);
}

fn main() {}
