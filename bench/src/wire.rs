//! Counts round trips where they happen: between the client and the server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Passes connections on to a server and counts their round trips: how often a client spoke after the server had. What a client sends in one
/// go, however many statements, is one. A server's unasked word (a notification) makes the client's next one count, as an answer would.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    trips: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Wire {
    /// In front of the server on this port of the loopback.
    ///
    /// # Errors
    /// Where no port is free.
    pub async fn before(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let trips = Arc::new(AtomicU64::new(0));
        let counted = trips.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, port, counted.clone()));
            }
        });
        Ok(Self { address, trips, accepting })
    }

    /// The URL that leads through here.
    pub fn url(&self, url: &str, port: u16) -> String {
        url.replace(&format!(":{port}/"), &format!(":{}/", self.address.port()))
    }

    /// So far.
    pub fn trips(&self) -> f64 {
        self.trips.load(Ordering::Relaxed) as f64
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(client: TcpStream, port: u16, trips: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let answered = AtomicBool::new(true);
    let asked = || {
        if answered.swap(false, Ordering::Relaxed) {
            trips.fetch_add(1, Ordering::Relaxed);
        }
    };
    let requests = copy(from_client, to_server, asked);
    let answers = copy(from_server, to_client, || answered.store(true, Ordering::Relaxed));
    tokio::join!(requests, answers);
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, seen: impl Fn()) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        seen();
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
