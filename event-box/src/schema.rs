use std::{fmt, sync::Arc};

use futures_core::{future::BoxFuture, stream::BoxStream};
use sqlx::{
    AssertSqlSafe, Either, Execute, Executor, PgExecutor, Postgres, SqlSafeStr, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

const DEFAULT: &str = "event_box";
const QUALIFIER: &str = "event_box.";

/// The PostgreSQL schema a log lives in. Default: `event_box`.
///
/// Several logs may live side by side in one database: they share nothing.
#[derive(Clone, Default)]
pub struct Schema {
    named: Option<Arc<Named>>,
    /// Statements are sent unprepared, for a pooler in transaction mode.
    unprepared: bool,
}

struct Named {
    name: String,
    /// `"name".`, as it stands in SQL.
    qualifier: String,
    /// The same within a literal, which begins with it: `'"name".sequence'::regclass`.
    in_literal: String,
}

/// The name cannot be that of a log's schema.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{name}` ({} bytes) cannot name a log's schema: use 1 to 48 bytes without control characters, `$` and `\\`, not beginning with `pg_`",
    name.len()
)]
pub struct SchemaError {
    name: String,
}

impl Schema {
    /// A schema of another name: 1 to 48 bytes of UTF-8, kept as they are, so that upper case, blanks and quotes mean themselves. NOTIFY's
    /// channel bears the same name, beside which it leaves room for no more.
    ///
    /// ```
    /// # fn main() -> Result<(), event_box::SchemaError> {
    /// use event_box::{Outbox, Schema};
    ///
    /// let outbox = Outbox::new().schema(Schema::new("billing_events")?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where it is empty or longer, holds a control character, `$` or `\` (it stands within SQL of every kind), or begins with `pg_`, which
    /// PostgreSQL keeps for itself.
    pub fn new(name: &str) -> Result<Self, SchemaError> {
        let forbidden = |c: char| c.is_control() || c == '$' || c == '\\';
        if name.is_empty() || name.len() > 48 || name.contains(forbidden) || name.starts_with("pg_") {
            return Err(SchemaError { name: name.to_owned() });
        }
        if name == DEFAULT {
            return Ok(Self::default());
        }
        let qualifier = format!("{}.", quote(name));
        let in_literal = qualifier.replace('\'', "''");
        let named = Some(Arc::new(Named { name: name.to_owned(), qualifier, in_literal }));
        Ok(Self { named, unprepared: false })
    }

    /// The schema's name.
    pub fn name(&self) -> &str {
        self.named.as_ref().map_or(DEFAULT, |named| &named.name)
    }

    /// The same schema behind a pooler that gives every transaction another session: a statement's name is worth nothing there.
    pub(crate) fn behind_pooler(self) -> Self {
        Self { unprepared: true, ..self }
    }

    pub(crate) fn is_behind_pooler(&self) -> bool {
        self.unprepared
    }

    /// The schema's name as SQL's identifier.
    pub(crate) fn quoted(&self) -> String {
        quote(self.name())
    }

    /// The same SQL for this schema: every name in ours is written `event_box.name`, or `'event_box.name'` where it is a literal.
    pub(crate) fn rewrite(&self, sql: SqlStr) -> SqlStr {
        #[cfg(feature = "_mutations")]
        let sql = crate::mutation::rewrite(sql.as_str()).map_or(sql, |sql| AssertSqlSafe(sql).into_sql_str());
        let Some(named) = &self.named else { return sql };
        let mut parts = sql.as_str().split(QUALIFIER);
        let mut rewritten = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let qualifier = if rewritten.ends_with('\'') { &named.in_literal } else { &named.qualifier };
            rewritten.push_str(qualifier);
            rewritten.push_str(part);
        }
        AssertSqlSafe(rewritten).into_sql_str()
    }

    /// The executor, sending our SQL to this schema. `search_path` stays the caller's own.
    pub(crate) fn over<X>(&self, executor: X) -> Scoped<'_, X> {
        Scoped { executor, schema: self }
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Schema {}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.name()).finish()
    }
}

#[derive(Debug)]
pub(crate) struct Scoped<'s, X> {
    executor: X,
    schema: &'s Schema,
}

struct Rewritten<Q> {
    query: Q,
    schema: Schema,
}

impl<'q, Q: Execute<'q, Postgres>> Execute<'q, Postgres> for Rewritten<Q> {
    fn sql(self) -> SqlStr {
        self.schema.rewrite(self.query.sql())
    }

    fn statement(&self) -> Option<&PgStatement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        self.query.persistent() && !self.schema.unprepared
    }
}

impl<'c, 's, X: PgExecutor<'c>> Executor<'c> for Scoped<'s, X> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, Q>(self, query: Q) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        Q: 'q + Execute<'q, Postgres>,
    {
        self.executor.fetch_many(Rewritten { query, schema: self.schema.clone() })
    }

    fn fetch_optional<'e, 'q: 'e, Q>(self, query: Q) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        Q: 'q + Execute<'q, Postgres>,
    {
        self.executor.fetch_optional(Rewritten { query, schema: self.schema.clone() })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        let sql = self.schema.rewrite(sql);
        self.executor.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        let sql = self.schema.rewrite(sql);
        self.executor.describe(sql)
    }
}

#[cfg(test)]
mod tests;
