use anyhow::{Context, bail};
use event_box_dev::{Database, Server};
use sqlx::PgPool;
use tracing_subscriber::EnvFilter;

/// A database with event-box's tables and a recipe's own, on a PostgreSQL that was found or started.
#[derive(Debug)]
pub struct Stage {
    /// For 40 connections.
    pub pool: PgPool,
    database: Database,
    // The last to go.
    _server: Server,
}

impl Stage {
    /// Makes the database, named after the recipe.
    ///
    /// # Errors
    /// Where no PostgreSQL is to be had, or the recipe's tables are no SQL.
    pub async fn open(name: &str, tables: &'static str) -> anyhow::Result<Self> {
        let server = tokio::task::spawn_blocking(Server::from_env_or_start).await??;
        let database = server.create_database(name).await?;
        let pool = database.pool(40).await?;
        event_box::migrate(&pool).await?;
        sqlx::raw_sql(tables).execute(&pool).await.context("the recipe's own tables")?;
        Ok(Self { pool, database, _server: server })
    }

    /// Drops the database, and stops the server that was started for it.
    ///
    /// # Errors
    /// Where the database cannot be dropped.
    pub async fn close(self) -> anyhow::Result<()> {
        self.pool.close().await;
        Ok(self.database.close().await?)
    }
}

/// Runs a recipe on a database of its own, until it ends or Ctrl-C is pressed. What event-box logs is shown where `RUST_LOG` asks for it:
/// recipes fail on purpose.
///
/// # Errors
/// What the recipe ends with.
pub async fn run(
    name: &str,
    tables: &'static str,
    recipe: impl AsyncFnOnce(PgPool) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    println!("finding a PostgreSQL (set EVENT_BOX_DATABASE_URL to use your own) …\n");
    let stage = Stage::open(&format!("recipe_{name}"), tables).await?;
    let ended = tokio::select! {
        ended = recipe(stage.pool.clone()) => ended,
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            Err(anyhow::anyhow!("interrupted"))
        }
    };
    match (ended, stage.close().await) {
        (Err(error), Err(also)) => bail!("{error:#}; and then {also:#}"),
        (ended, closed) => ended.and(closed),
    }
}
