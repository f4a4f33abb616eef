use std::time::Duration;

use clap::ValueEnum;
use event_box_bench::turns::at_once;

use crate::{graphile::Graphile, obix::Obix, pgmq::Pgmq, sink::Sink};

/// Another crate for the same work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    Obix,
    Pgmq,
    Graphile,
}

/// A peer on a database.
pub enum Opened {
    Obix(Obix),
    Pgmq(Pgmq),
    Graphile(Graphile),
}

/// A peer's consumer.
pub enum Consuming {
    Obix(crate::obix::Running),
    Pgmq(crate::pgmq::Running),
    Graphile(crate::graphile::Running),
}

impl Peer {
    pub const ALL: [Self; 3] = [Self::Obix, Self::Pgmq, Self::Graphile];

    /// As its package is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Obix => "obix",
            Self::Pgmq => "pgmq",
            Self::Graphile => "graphile_worker",
        }
    }

    /// As the command line calls it.
    pub fn value(self) -> &'static str {
        match self {
            Self::Obix => "obix",
            Self::Pgmq => "pgmq",
            Self::Graphile => "graphile",
        }
    }

    pub async fn open(self, url: &str) -> anyhow::Result<Opened> {
        Ok(match self {
            Self::Obix => Opened::Obix(Obix::open(url).await?),
            Self::Pgmq => Opened::Pgmq(Pgmq::open(url).await?),
            Self::Graphile => Opened::Graphile(Graphile::open(url).await?),
        })
    }
}

impl Opened {
    /// Orders in one transaction: one by the peer's call for one, several by its call for many.
    pub async fn emit(&self, orders: &[i64]) -> anyhow::Result<()> {
        match self {
            Self::Obix(peer) => peer.emit(orders).await,
            Self::Pgmq(peer) => peer.emit(orders).await,
            Self::Graphile(peer) => peer.emit(orders).await,
        }
    }

    /// `prompt` where latency is what counts, for peers that are then set otherwise.
    pub async fn consume(&self, sink: Sink, prompt: bool) -> anyhow::Result<Consuming> {
        Ok(match self {
            Self::Obix(peer) => Consuming::Obix(peer.consume(sink).await?),
            Self::Pgmq(peer) => Consuming::Pgmq(peer.consume(sink, prompt).await?),
            Self::Graphile(peer) => Consuming::Graphile(peer.consume(sink).await?),
        })
    }
}

impl Consuming {
    pub async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Obix(running) => running.stop().await,
            Self::Pgmq(running) => running.stop().await,
            Self::Graphile(running) => running.stop().await,
        }
    }
}

/// So many transactions from each of so many tasks, of so many orders each.
pub async fn emit(peer: &std::sync::Arc<Opened>, tasks: usize, each: usize, size: usize) -> anyhow::Result<Duration> {
    at_once(tasks, |task| {
        let peer = peer.clone();
        async move {
            for i in 0..each {
                let first = ((task * each + i) * size) as i64;
                let orders: Vec<_> = (first..first + size as i64).collect();
                peer.emit(&orders).await?;
            }
            Ok(())
        }
    })
    .await
}
