use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use event_box::Outbox;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{events::OrderPlaced, stopwatch::Stopwatch};

/// What the web service works with.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) pool: PgPool,
    pub(crate) outbox: Outbox,
    pub(crate) stopwatch: Stopwatch,
}

pub(crate) fn router(app: App) -> Router {
    Router::new().route("/orders", post(place_order)).route("/revenue", get(revenue)).with_state(app)
}

/// What a customer sends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NewOrder {
    pub(crate) sku: String,
    pub(crate) quantity: i32,
    /// A card number; those that end in 0 are declined.
    #[serde(default)]
    pub(crate) card: u64,
}

/// The order and its event are written in one transaction: a card that is declined afterwards undoes both.
pub(crate) async fn place_order(State(app): State<App>, Json(new): Json<NewOrder>) -> Result<Response, Problem> {
    let order = OrderPlaced {
        order_id: Uuid::now_v7(),
        total_cents: i64::from(new.quantity) * price_cents(&new.sku),
        sku: new.sku,
        quantity: new.quantity,
    };
    let mut tx = app.pool.begin().await?;
    sqlx::query("insert into orders (id, sku, quantity, total_cents) values ($1, $2, $3, $4)")
        .bind(order.order_id)
        .bind(&order.sku)
        .bind(order.quantity)
        .bind(order.total_cents)
        .execute(&mut *tx)
        .await?;
    app.outbox.emit(&mut *tx, &order).await?;
    if declined(new.card) {
        tx.rollback().await?;
        return Ok((StatusCode::PAYMENT_REQUIRED, "the card was declined\n").into_response());
    }
    tx.commit().await?;
    app.stopwatch.committed(order.order_id);
    Ok((StatusCode::CREATED, Json(order)).into_response())
}

async fn revenue(State(app): State<App>) -> Result<Json<serde_json::Value>, Problem> {
    let rows: Vec<(String, i64, i64)> =
        sqlx::query_as("select sku, orders, cents from revenue order by sku").fetch_all(&app.pool).await?;
    Ok(Json(
        rows.into_iter()
            .map(|(sku, orders, cents)| serde_json::json!({ "sku": sku, "orders": orders, "cents": cents }))
            .collect(),
    ))
}

fn price_cents(sku: &str) -> i64 {
    199 + 100 * sku.len() as i64
}

fn declined(card: u64) -> bool {
    card > 0 && card.is_multiple_of(10)
}

/// Anything that went wrong, as a status and a line of text.
#[derive(Debug)]
pub(crate) struct Problem(String);

impl<E: std::error::Error> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0 + "\n").into_response()
    }
}
