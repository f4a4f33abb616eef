use std::borrow::Cow;

use sqlx::{
    Connection, PgConnection,
    migrate::{MigrateError, Migration, Migrator},
};

use crate::{event_box::EventBox, schema::Schema};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Creates or upgrades the log's tables. Run it before the first emit, in a deployment step or at start-up; running it again, or from
/// several processes at once, is safe.
///
/// What was applied is recorded in a table of event-box's own (`event_box.migrations`), so that an application's migrations never
/// collide with these. The same files can be applied by `sqlx migrate run --config
/// <event-box>/sqlx.toml --source <event-box>/migrations --database-url …`.
///
/// ```no_run
/// # async fn start(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// event_box::migrate(&pool).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// Where the database cannot be reached, the role may not create the schema, or an applied migration differs from this version's.
pub async fn migrate(log: impl Into<EventBox>) -> Result<(), MigrateError> {
    let log = log.into();
    let mut connection = log.pool().acquire().await?;
    let schema = log.schema();
    if schema.is_behind_pooler() {
        let applied = apply_in_one_transaction(&mut connection, schema).await;
        // What sqlx remembers of it is gone from the server.
        connection.close_on_drop();
        return applied;
    }
    let applied = apply(&mut connection, schema, &mut migrator(schema)).await;
    if applied.is_err() {
        // It would keep the migrations' lock, and whoever migrates next waiting, for as long as the pool keeps it.
        connection.close_on_drop();
    }
    applied
}

/// For a pooler: neither the migrator's lock nor the statements that it prepares may outlive the transaction.
async fn apply_in_one_transaction(connection: &mut PgConnection, schema: &Schema) -> Result<(), MigrateError> {
    const NO_STATEMENTS: &str = "deallocate all";
    let mut tx = connection.begin_with("begin isolation level read committed").await?;
    sqlx::raw_sql(NO_STATEMENTS).execute(&mut *tx).await?;
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('event_box.migrations', 0))")
        .execute(schema.over(&mut *tx))
        .await?;
    let mut migrator = migrator(schema);
    migrator.set_locking(false);
    apply(&mut tx, schema, &mut migrator).await?;
    sqlx::raw_sql(NO_STATEMENTS).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

async fn apply(connection: &mut PgConnection, schema: &Schema, migrator: &mut Migrator) -> Result<(), MigrateError> {
    let quoted = schema.quoted();
    // Creating a schema "if not exists" needs the privilege to create one even where it exists.
    let exists = sqlx::query_scalar!(r#"select to_regnamespace($1) is not null as "exists!""#, quoted)
        .fetch_one(schema.over(&mut *connection))
        .await?;
    if !exists {
        migrator.create_schema(quoted);
    }
    // `run` on a connection is not seen to be `Send`; this is what it does.
    migrator.run_direct(None, connection, false).await
}

/// The newest migration this code knows.
pub(crate) fn latest_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

fn migrator(schema: &Schema) -> Migrator {
    let rewritten = |migration: &Migration| {
        Migration::new(
            migration.version,
            migration.description.clone(),
            migration.migration_type,
            schema.rewrite(migration.sql.clone()),
            migration.no_tx,
        )
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().map(rewritten).collect());
    migrator.dangerous_set_table_name(Cow::Owned(format!("{}.migrations", schema.quoted())));
    // An older program beside a newer schema: newer migrations only add.
    migrator.set_ignore_missing(true);
    migrator
}
