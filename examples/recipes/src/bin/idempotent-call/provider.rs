use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::client::{NewCharge, Receipt};

/// A payment provider over HTTP, of the usual kind: one charge for each `Idempotency-Key`, and without one a charge for each call.
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    /// After every so many charges it fails to answer.
    forgets_every: usize,
    ledger: Arc<Mutex<Ledger>>,
}

#[derive(Debug, Default)]
struct Ledger {
    charges: Vec<Charge>,
    by_key: HashMap<String, Uuid>,
    calls: u64,
    down: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Charge {
    pub(crate) order_id: Uuid,
    pub(crate) charge_id: Uuid,
    pub(crate) cents: i64,
}

impl Provider {
    pub(crate) fn forgetful(forgets_every: usize) -> Self {
        Self { forgets_every, ledger: Arc::default() }
    }

    /// Listens, on a free port of the loopback unless told on which.
    pub(crate) async fn open(&self, address: Option<SocketAddr>) -> anyhow::Result<Doors> {
        let listener = TcpListener::bind(address.unwrap_or(([127, 0, 0, 1], 0).into())).await?;
        let (address, closing) = (listener.local_addr()?, CancellationToken::new());
        let router = Router::new().route("/charges", post(charge)).with_state(self.clone());
        let serving = axum::serve(listener, router).with_graceful_shutdown(closing.clone().cancelled_owned());
        Ok(Doors { provider: self.clone(), address, closing, serving: tokio::spawn(serving.into_future()) })
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.ledger().down = down;
    }

    /// Answers that it was asked, refusals included.
    pub(crate) fn calls(&self) -> u64 {
        self.ledger().calls
    }

    pub(crate) fn charges(&self) -> Vec<Charge> {
        self.ledger().charges.clone()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn charge(State(provider): State<Provider>, headers: HeaderMap, Json(new): Json<NewCharge>) -> Response {
    let key = headers.get("Idempotency-Key").and_then(|key| key.to_str().ok());
    let mut ledger = provider.ledger();
    ledger.calls += 1;
    if ledger.down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if let Some(&charge_id) = key.and_then(|key| ledger.by_key.get(key)) {
        return Json(Receipt { charge_id }).into_response();
    }
    if new.card.len() != 16 {
        return (StatusCode::UNPROCESSABLE_ENTITY, "that is no card").into_response();
    }
    let charge_id = Uuid::now_v7();
    ledger.charges.push(Charge { order_id: new.order_id, charge_id, cents: new.cents });
    if let Some(key) = key {
        ledger.by_key.insert(key.to_owned(), charge_id);
    }
    if ledger.charges.len().is_multiple_of(provider.forgets_every) {
        return (StatusCode::INTERNAL_SERVER_ERROR, "charged, and then something went wrong").into_response();
    }
    Json(Receipt { charge_id }).into_response()
}

/// Where the provider is reached, for as long as it is open.
#[derive(Debug)]
pub(crate) struct Doors {
    provider: Provider,
    address: SocketAddr,
    closing: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Doors {
    pub(crate) fn url(&self) -> String {
        format!("http://{}/charges", self.address)
    }

    /// Refuses connections from now on.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.closing.cancel();
        Ok(self.serving.await??)
    }

    /// Is closed for as long as that takes.
    pub(crate) async fn close_and_reopen(
        self,
        meanwhile: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let (provider, address) = (self.provider.clone(), self.address);
        self.close().await?;
        meanwhile().await?;
        provider.open(Some(address)).await
    }
}
