use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Client, StatusCode};

use crate::service::NewOrder;

/// What became of the orders that were sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) placed: i64,
    pub(crate) declined: i64,
}

/// Sends orders through HTTP from so many clients at once. One card in ten is declined.
pub(crate) async fn send_orders(address: &str, orders: usize, clients: usize) -> anyhow::Result<Sent> {
    let skus = ["teapot", "kettle", "cup", "saucer"];
    let client = Client::new();
    let answers = stream::iter(0..orders).map(|i| {
        let order = NewOrder { sku: skus[i % skus.len()].to_owned(), quantity: 1 + (i % 3) as i32, card: 1 + i as u64 };
        let request = client.post(format!("{address}/orders")).json(&order);
        async move { anyhow::Ok(request.send().await?.status()) }
    });
    let statuses: Vec<_> = answers.buffer_unordered(clients.max(1)).try_collect().await?;
    let mut sent = Sent::default();
    for status in statuses {
        match status {
            StatusCode::CREATED => sent.placed += 1,
            StatusCode::PAYMENT_REQUIRED => sent.declined += 1,
            other => anyhow::bail!("an order was answered with {other}"),
        }
    }
    Ok(sent)
}
