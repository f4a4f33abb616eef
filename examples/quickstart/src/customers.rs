use std::time::Duration;

use futures_util::future::try_join_all;
use reqwest::{Client, StatusCode};

use crate::service::NewOrder;

/// What became of the orders that were sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) placed: i64,
    pub(crate) declined: i64,
}

/// How long a customer thinks between two orders.
const PAUSE: Duration = Duration::from_millis(20);

/// Sends orders through HTTP from so many clients at once. One card in ten is declined.
pub(crate) async fn send_orders(address: &str, orders: usize, clients: usize) -> anyhow::Result<Sent> {
    let http = Client::new();
    let one_client = |client: usize| {
        let http = http.clone();
        async move {
            let mut statuses = Vec::new();
            for i in (client..orders).step_by(clients.max(1)) {
                let request = http.post(format!("{address}/orders")).json(&order(i));
                statuses.push(request.send().await?.status());
                tokio::time::sleep(PAUSE).await;
            }
            anyhow::Ok(statuses)
        }
    };
    let mut sent = Sent::default();
    for status in try_join_all((0..clients.max(1)).map(one_client)).await?.into_iter().flatten() {
        match status {
            StatusCode::CREATED => sent.placed += 1,
            StatusCode::PAYMENT_REQUIRED => sent.declined += 1,
            other => anyhow::bail!("an order was answered with {other}"),
        }
    }
    Ok(sent)
}

fn order(i: usize) -> NewOrder {
    let skus = ["teapot", "kettle", "cup", "saucer"];
    NewOrder { sku: skus[i % skus.len()].to_owned(), quantity: 1 + (i % 3) as i32, card: 1 + i as u64 }
}
