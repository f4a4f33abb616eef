use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use event_box::EventBox;
use event_box_dev::{Database, Server, ServerOptions};
use fastrand::Rng;
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::{Options, Summary, groups::Kind};
use crate::Seen;

/// A server of its own, since transactions in any of its databases would disturb the calm, and what happens on it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) options: Options,
    /// For emitters and observers.
    pub(super) pool: PgPool,
    /// For the consumers of this process.
    pub(super) consumers: PgPool,
    pub(super) log: EventBox,
    /// Keys that live in one partition.
    pub(super) neighbours: Vec<String>,
    pub(super) faults: AtomicU64,
    pub(super) server: Server,
    /// Groups that came into being, or read all topics, in the middle of it.
    grown: Mutex<Vec<Kind>>,
    database: Database,
}

/// `bases`: what a group need not be given of a key, up to this number; where `tallied`, only every third. `promised`: what it must be given
/// after a time. `emitted`: the log as it was written, for the history of what went wrong.
const TABLES: &str = "
    alter table seen add column xid xid8 not null default pg_current_xact_id(), add column noted_at timestamptz not null default clock_timestamp();
    create index on seen (grp, key, n);
    create table counters (key text primary key, n bigint not null);
    create table cancelled (key text, n bigint, primary key (key, n));
    create table bases (grp text, key text, n bigint not null, tallied boolean not null, primary key (grp, key));
    create table promised (grp text, since timestamptz, key text, n bigint);
    create table emitted (sequence bigint primary key, xid xid8, partition smallint, key text, n bigint, at timestamptz);
    create function note_emitted() returns trigger language plpgsql as $$ begin
        insert into emitted
        select sequence, xid, partition, coalesce(partition_key, 'loose'), (payload->>'n')::bigint, clock_timestamp() from added;
        return null;
    end $$;
    create trigger note_emitted after insert on event_box.events referencing new table as added
        for each statement execute function note_emitted()";

impl World {
    /// It is there until the process ends, as far as the compiler is concerned.
    pub(super) async fn start(options: Options) -> Result<&'static Self> {
        let server = Server::start(&ServerOptions::new().setting("fsync", "off"))?;
        let database = server.create_database("model").await?;
        let pool = database.pool(30).await?;
        event_box::migrate(&pool).await?;
        sqlx::raw_sql(Seen::TABLE).execute(&pool).await?;
        sqlx::raw_sql(TABLES).execute(&pool).await?;
        let consumers = PgPoolOptions::new().max_connections(90).acquire_timeout(Duration::from_secs(60));
        let consumers = consumers.connect_with(pool.connect_options().as_ref().clone()).await?;
        let neighbours = crate::keys_of_one_partition(&pool, 8).await;
        ensure!(neighbours.len() == 8, "too few keys");
        let (log, faults) = (EventBox::from(&consumers), AtomicU64::new(0));
        Ok(Box::leak(Box::new(Self {
            options,
            pool,
            consumers,
            log,
            neighbours,
            faults,
            server,
            grown: Mutex::default(),
            database,
        })))
    }

    pub(super) fn url(&self) -> &str {
        self.database.url()
    }

    pub(super) fn has_grown(&self, kind: Kind) {
        self.grown.lock().unwrap_or_else(PoisonError::into_inner).push(kind);
    }

    /// The group is there, and reads all that it ever will.
    pub(super) fn is_grown(&self, kind: Kind) -> bool {
        kind.comes_after().is_none() || self.grown.lock().unwrap_or_else(PoisonError::into_inner).contains(&kind)
    }

    /// Something was killed or cut off.
    pub(super) fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rng(&self, of: u64) -> Rng {
        Rng::with_seed(self.options.seed.wrapping_add(of.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    pub(super) async fn number(&self, sql: &'static str) -> Result<i64> {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.context(sql)
    }

    pub(super) async fn summary(&self) -> Result<Summary> {
        Ok(Summary {
            events: self.number("select count(*) from emitted").await? as u64,
            deliveries: self.number("select count(*) from seen").await? as u64,
            faults: self.faults.load(Ordering::Relaxed),
        })
    }

    pub(super) async fn end(&self) {
        self.consumers.close().await;
        self.pool.close().await;
        // The world itself stays behind.
        let _ = self.server.stop();
    }
}
