use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use event_box::{BoxError, Context, Event, Outbox};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::gauge::Gauge;

/// What requests and events are handled with.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) pool: PgPool,
    pub(crate) requests: Gauge,
    pub(crate) events: Gauge,
}

/// The event, and the request's body: the client chooses the id, so that it may ask again.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order_id")]
pub(crate) struct OrderPlaced {
    pub(crate) order_id: Uuid,
    pub(crate) sku: String,
}

impl App {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, requests: Gauge::default(), events: Gauge::default() }
    }
}

pub(crate) fn router(app: App) -> Router {
    Router::new().route("/orders", post(place_order)).with_state(app)
}

async fn place_order(State(app): State<App>, Json(order): Json<OrderPlaced>) -> Result<StatusCode, Problem> {
    app.requests.measure(store(&app.pool, &order)).await?;
    Ok(StatusCode::CREATED)
}

/// The order and its event, in one transaction. An order that is known already is told already.
async fn store(pool: &PgPool, order: &OrderPlaced) -> Result<(), BoxError> {
    let mut tx = pool.begin().await?;
    let inserted = sqlx::query("insert into orders (id, sku) values ($1, $2) on conflict (id) do nothing")
        .bind(order.order_id)
        .bind(&order.sku)
        .execute(&mut *tx)
        .await?;
    if inserted.rows_affected() > 0 {
        Outbox::new().emit(&mut *tx, order).await?;
    }
    // Whatever else a request does: it is under way for a while, longer than the others take to stop.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(tx.commit().await?)
}

pub(crate) async fn reserve(order: OrderPlaced, cx: &mut Context<'_, App>) -> Result<(), sqlx::Error> {
    let events = &cx.state().events;
    events
        .measure(async {
            sqlx::query("insert into reservations (order_id, sku) values ($1, $2)")
                .bind(order.order_id)
                .bind(order.sku)
                .execute(&mut *cx)
                .await?;
            // And so is an event.
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(())
        })
        .await
}

#[derive(Debug)]
struct Problem(BoxError);

impl From<BoxError> for Problem {
    fn from(error: BoxError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", self.0)).into_response()
    }
}
