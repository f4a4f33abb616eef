use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use crate::mischief::{Mischief, Mishap};

/// A network between a consumer and its server that a test can break. Sockets stay open while it stalls, as they do where a host vanished.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    wires: Arc<Wires>,
    _accepting: JoinSet<()>,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// What the client says.
    ToServer,
    /// What the server answers.
    ToClient,
}

#[derive(Debug)]
struct Wires {
    server_port: AtomicU16,
    state: watch::Sender<State>,
    accepted: AtomicU64,
    /// Everything stalls once a connection was given this many bytes.
    give_at_most: AtomicU64,
    mischief: Mutex<Option<Arc<Mischief>>>,
}

/// Connections are numbered as they come; what is below the number is concerned.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    stalled_to_server: u64,
    stalled_to_client: u64,
    cut: u64,
}

impl State {
    fn stalls(&self, way: Way, connection: u64) -> bool {
        let below = match way {
            Way::ToServer => self.stalled_to_server,
            Way::ToClient => self.stalled_to_client,
        };
        connection < below
    }
}

impl Proxy {
    /// Listens on a port of its own for a server on this machine.
    pub async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let wires = Arc::new(Wires {
            server_port: AtomicU16::new(server_port),
            state: watch::Sender::default(),
            accepted: AtomicU64::new(0),
            give_at_most: AtomicU64::new(u64::MAX),
            mischief: Mutex::default(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, wires.clone()));
        Self { port, wires, _accepting: accepting }
    }

    /// The port to connect to instead of the server's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections have come so far.
    pub fn accepted(&self) -> u64 {
        self.wires.accepted.load(Ordering::Relaxed)
    }

    /// Nothing comes through any more, on any connection.
    pub fn stall(&self) {
        self.stall_below(u64::MAX);
    }

    /// Nothing comes through one way.
    pub fn stall_one_way(&self, way: Way) {
        self.wires.state.send_modify(|state| match way {
            Way::ToServer => state.stalled_to_server = u64::MAX,
            Way::ToClient => state.stalled_to_client = u64::MAX,
        });
    }

    /// Nothing comes through on the connections that there are; new ones work.
    pub fn stall_existing(&self) {
        self.stall_below(self.accepted());
    }

    /// As [`stall`](Self::stall), once a connection was given this many bytes.
    pub fn stall_after(&self, bytes: u64) {
        self.wires.give_at_most.store(bytes, Ordering::Relaxed);
    }

    /// Waits until it stalls.
    pub async fn stalled(&self) {
        let _ = self.wires.state.subscribe().wait_for(|state| state.stalled_to_client > 0).await;
    }

    /// All is well again; what had been sent meanwhile arrives.
    pub fn resume(&self) {
        self.wires.give_at_most.store(u64::MAX, Ordering::Relaxed);
        self.stall_below(0);
    }

    /// New connections go to another server from now on, as where a name or a load balancer follows a failover.
    pub fn turn_to(&self, server_port: u16) {
        self.wires.server_port.store(server_port, Ordering::Relaxed);
    }

    /// Closes every connection that there is.
    pub fn cut(&self) {
        self.wires.state.send_modify(|state| state.cut = self.accepted());
    }

    /// From now on this becomes of what clients say; `None`: nothing any more.
    pub fn make(&self, mischief: Option<Arc<Mischief>>) {
        *self.wires.mischief.lock().unwrap_or_else(PoisonError::into_inner) = mischief;
    }

    fn stall_below(&self, connection: u64) {
        self.wires.stall_below(connection);
    }
}

impl Wires {
    fn stall_below(&self, connection: u64) {
        self.state.send_modify(|state| (state.stalled_to_server, state.stalled_to_client) = (connection, connection));
    }

    /// Waits until a connection stalls that way, or no longer does.
    async fn until(&self, way: Way, connection: u64, stalls: bool) {
        let _ = self.state.subscribe().wait_for(|state| state.stalls(way, connection) == stalls).await;
    }

    /// `deaf`: the client does not hear the next answer, and its connection ends.
    async fn pump(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        way: Way,
        connection: u64,
        deaf: &AtomicBool,
    ) -> io::Result<()> {
        let (mut buffer, mut given) = (vec![0; 64 * 1024], 0);
        loop {
            self.until(way, connection, false).await;
            let read = tokio::select! {
                biased;
                () = self.until(way, connection, true) => continue,
                read = from.read(&mut buffer) => read?,
            };
            self.until(way, connection, false).await;
            if read == 0 {
                return to.shutdown().await;
            }
            match way {
                Way::ToServer => self.harm(&buffer[..read], &mut to, deaf).await?,
                Way::ToClient if deaf.load(Ordering::Relaxed) => return Err(cut()),
                Way::ToClient => {}
            }
            to.write_all(&buffer[..read]).await?;
            given += read as u64;
            if way == Way::ToClient && given > self.give_at_most.load(Ordering::Relaxed) {
                self.stall_below(u64::MAX);
            }
        }
    }

    async fn harm(&self, message: &[u8], to: &mut OwnedWriteHalf, deaf: &AtomicBool) -> io::Result<()> {
        let mischief = self.mischief.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((mishap, stall)) = mischief.and_then(|mischief| mischief.draw(message)) else { return Ok(()) };
        match mishap {
            Mishap::Late => {
                tokio::time::sleep(stall).await;
                Ok(())
            }
            Mishap::Unanswered => {
                deaf.store(true, Ordering::Relaxed);
                Ok(())
            }
            Mishap::Unheard => Err(cut()),
            Mishap::Torn => {
                to.write_all(&message[..message.len() / 2]).await?;
                tokio::time::sleep(stall).await;
                Err(cut())
            }
        }
    }
}

fn cut() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

async fn accept(listener: TcpListener, wires: Arc<Wires>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (wires, connection) = (wires.clone(), wires.accepted.fetch_add(1, Ordering::Relaxed));
        connections.spawn(async move {
            let forwarded = forward(client, &wires, connection);
            let mut state = wires.state.subscribe();
            tokio::select! {
                _ = state.wait_for(|state| connection < state.cut) => {}
                _ = forwarded => {}
            }
        });
    }
}

async fn forward(client: TcpStream, wires: &Wires, connection: u64) -> io::Result<()> {
    // A new connection does not get through either.
    wires.until(Way::ToServer, connection, false).await;
    let server = TcpStream::connect(("127.0.0.1", wires.server_port.load(Ordering::Relaxed))).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let deaf = AtomicBool::new(false);
    tokio::try_join!(
        wires.pump(from_client, to_server, Way::ToServer, connection, &deaf),
        wires.pump(from_server, to_client, Way::ToClient, connection, &deaf),
    )?;
    Ok(())
}
