use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use event_box::{Failure, OrUnavailable};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::OrderPlaced;

/// Our side of the provider's HTTP interface.
#[derive(Debug, Clone)]
pub(crate) struct Payments {
    http: reqwest::Client,
    url: String,
    outages: Arc<AtomicU64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NewCharge {
    pub(crate) order_id: Uuid,
    pub(crate) card: String,
    pub(crate) cents: i64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) charge_id: Uuid,
}

impl Payments {
    pub(crate) fn new(url: String) -> anyhow::Result<Self> {
        // Well below the handler's time-out, which would count as a failed attempt.
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        Ok(Self { http, url, outages: Arc::default() })
    }

    /// Charges once for each key, however often it is asked.
    ///
    /// Says of each answer what it means for the event: nobody there is held against none, a refusal is final, and of everything else
    /// nobody knows whether the charge was made, so that it is asked again.
    pub(crate) async fn charge(&self, key: Uuid, order: &OrderPlaced) -> Result<Receipt, Failure> {
        let &OrderPlaced { order_id, ref card, cents } = order;
        let body = NewCharge { order_id, card: card.clone(), cents };
        let request = self.http.post(&self.url).header("Idempotency-Key", key.to_string()).json(&body);
        let answer = self.count(request.send().await.or_unavailable())?;
        match answer.status() {
            StatusCode::OK => Ok(answer.json().await?),
            status @ (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) => {
                self.count(Err(status_error(status)).or_unavailable())
            }
            // These are no refusals: the first call with this key may be under way still.
            status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT) => {
                Err(Failure::Retry(status_error(status).into()))
            }
            status if status.is_client_error() => Err(Failure::Reject(status_error(status).into())),
            status => Err(Failure::Retry(status_error(status).into())),
        }
    }

    fn count<T>(&self, answer: Result<T, Failure>) -> Result<T, Failure> {
        if matches!(answer, Err(Failure::Unavailable(_))) {
            self.outages.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// How many calls found nobody who could have answered.
    pub(crate) fn outages(&self) -> u64 {
        self.outages.load(Ordering::Relaxed)
    }
}

fn status_error(status: StatusCode) -> String {
    format!("the provider answered {status}")
}
