//! Counts statements where they arrive: in the server.

use sqlx::PgPool;

/// How a database counts what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Every statement, by `pg_stat_statements`.
    Statements,
    /// Transactions alone, by `pg_stat_database`: where that extension is not to be had.
    Transactions,
}

impl Counting {
    /// What this database can do; installs the extension in it.
    pub async fn of(pool: &PgPool) -> Self {
        let installed = sqlx::raw_sql("create extension if not exists pg_stat_statements").execute(pool).await;
        let counts = sqlx::query("select count(*) from pg_stat_statements").execute(pool).await;
        if installed.is_ok() && counts.is_ok() { Self::Statements } else { Self::Transactions }
    }

    /// What it counts, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Statements => "statements",
            Self::Transactions => "transactions",
        }
    }

    /// How many there were in this database so far, by everybody but those whose statements hold one of these texts.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn total(self, pool: &PgPool, others: &[&str]) -> Result<f64, sqlx::Error> {
        let others: Vec<_> = others.iter().map(|other| format!("%{other}%")).collect();
        match self {
            Self::Statements => {
                sqlx::query_scalar(
                    "select coalesce(sum(s.calls), 0)::float8 from pg_stat_statements s join pg_database d on d.oid = s.dbid \
                     where datname = current_database() and query not like '%pg_stat%' and query not like all($1)",
                )
                .bind(others)
                .fetch_one(pool)
                .await
            }
            Self::Transactions => {
                sqlx::query_scalar(
                    "select (xact_commit + xact_rollback)::float8 from pg_stat_database where datname = current_database()",
                )
                .fetch_one(pool)
                .await
            }
        }
    }
}
