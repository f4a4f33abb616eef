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
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Schema(Option<Arc<Named>>);

#[derive(PartialEq, Eq)]
struct Named {
    name: String,
    qualifier: String,
}

/// The name cannot be that of a log's schema.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` cannot name a schema: use 1 to 48 ASCII letters, digits, `_` or `-`, the first a letter or `_`")]
pub struct SchemaError(String);

impl Schema {
    /// A schema of another name: 1 to 48 ASCII letters, digits, `_` or `-`, the first a letter or `_`; upper case is kept.
    ///
    /// # Errors
    /// Where the name is anything else: it stands within SQL, and NOTIFY's channel carries it.
    pub fn new(name: &str) -> Result<Self, SchemaError> {
        let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if !first || !rest || name.len() > 48 {
            return Err(SchemaError(name.to_owned()));
        }
        if name == DEFAULT {
            return Ok(Self::default());
        }
        Ok(Self(Some(Arc::new(Named { name: name.to_owned(), qualifier: format!("\"{name}\".") }))))
    }

    /// The schema's name.
    pub fn name(&self) -> &str {
        self.0.as_ref().map_or(DEFAULT, |named| &named.name)
    }

    /// The same SQL for this schema: every name in ours is written `event_box.name`.
    pub(crate) fn rewrite(&self, sql: SqlStr) -> SqlStr {
        match &self.0 {
            None => sql,
            Some(named) => AssertSqlSafe(sql.as_str().replace(QUALIFIER, &named.qualifier)).into_sql_str(),
        }
    }

    /// The executor, sending our SQL to this schema. `search_path` stays the caller's own.
    pub(crate) fn over<X>(&self, executor: X) -> Scoped<'_, X> {
        Scoped { executor, schema: self }
    }
}

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
        self.query.persistent()
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
