use std::net::SocketAddr;

use anyhow::{bail, ensure};
use futures_util::future::try_join_all;
use reqwest::{Client, StatusCode};
use uuid::Uuid;

use crate::orders::OrderPlaced;

/// What became of the orders that were sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) accepted: Vec<Uuid>,
    /// Their clients cannot know.
    pub(crate) unanswered: Vec<OrderPlaced>,
}

pub(crate) fn new_orders(orders: usize) -> Vec<OrderPlaced> {
    (0..orders).map(|n| OrderPlaced { order_id: Uuid::now_v7(), sku: format!("sku {}", n % 7) }).collect()
}

/// Sends orders from so many clients at once, until nobody answers any more.
pub(crate) async fn send_until_refused(address: SocketAddr, clients: usize) -> anyhow::Result<Sent> {
    let http = Client::new();
    let client = async |_| {
        let mut sent = Sent::default();
        for order in new_orders(10_000) {
            match post(&http, address, &order).await {
                Ok(StatusCode::CREATED) => sent.accepted.push(order.order_id),
                Ok(status) => bail!("an order was answered with {status}"),
                Err(_) => {
                    sent.unanswered.push(order);
                    return Ok(sent);
                }
            }
        }
        bail!("the service was not stopped")
    };
    let mut all = Sent::default();
    for sent in try_join_all((0..clients).map(client)).await? {
        all.accepted.extend(sent.accepted);
        all.unanswered.extend(sent.unanswered);
    }
    Ok(all)
}

/// Sends these orders at once, and insists.
pub(crate) async fn send(address: SocketAddr, orders: &[OrderPlaced]) -> anyhow::Result<Vec<Uuid>> {
    let http = Client::new();
    let send = async |order: &OrderPlaced| {
        let status = post(&http, address, order).await?;
        ensure!(status == StatusCode::CREATED, "an order was answered with {status}");
        Ok(order.order_id)
    };
    try_join_all(orders.iter().map(send)).await
}

pub(crate) async fn post(http: &Client, address: SocketAddr, order: &OrderPlaced) -> reqwest::Result<StatusCode> {
    Ok(http.post(format!("http://{address}/orders")).json(order).send().await?.status())
}
