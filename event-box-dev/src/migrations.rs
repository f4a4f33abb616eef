use std::path::{Path, PathBuf};

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use crate::Error;

/// Makes event-box's tables in the database of `url`, from the SQL files of the checkout and without event-box itself, whose
/// queries are checked against them while it compiles. The table, schema and files are those of `event-box/sqlx.toml`: what
/// `sqlx migrate run` would do.
///
/// # Errors
/// [`Error::Migrate`], or [`Error::Database`] where there is no connection.
pub async fn migrate_for_build(url: &str) -> Result<(), Error> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../event-box/migrations");
    let mut connection = PgConnection::connect(url).await.map_err(Error::database("connect for the migrations"))?;
    migrate(path.clone(), &mut connection).await.map_err(|source| Error::Migrate { path, source })?;
    connection.close().await.map_err(Error::database("disconnect after the migrations"))
}

async fn migrate(path: PathBuf, connection: &mut PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    let mut migrator = Migrator::new(path).await?;
    migrator.dangerous_set_table_name("event_box.migrations");
    migrator.create_schema("event_box");
    migrator.run(connection).await
}
