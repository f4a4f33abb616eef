use anyhow::Context;
use sqlx::PgPool;

/// What a recipe promises, checked one by one and printed.
#[derive(Debug, Default)]
#[must_use = "a broken promise counts once the books are closed"]
pub struct Books {
    broken: Vec<String>,
}

impl Books {
    /// Nothing is checked yet.
    pub fn open() -> Self {
        println!();
        Self::default()
    }

    /// Notes whether a promise was kept.
    pub fn check(&mut self, promise: &str, kept: bool) {
        println!("{}  {promise}", if kept { "yes" } else { "NO " });
        if !kept {
            self.broken.push(promise.to_owned());
        }
    }

    /// As [`check`](Self::check), by a query that answers `true` where the promise was kept.
    ///
    /// # Errors
    /// Where the database refuses.
    pub async fn ask(&mut self, pool: &PgPool, promise: &str, query: &'static str) -> anyhow::Result<()> {
        let kept = sqlx::query_scalar(query).fetch_one(pool).await.with_context(|| promise.to_owned())?;
        self.check(promise, kept);
        Ok(())
    }

    /// # Errors
    /// Where a promise was broken.
    pub fn close(self) -> anyhow::Result<()> {
        if self.broken.is_empty() {
            println!("\nthe books agree");
            return Ok(());
        }
        anyhow::bail!("THE BOOKS DO NOT AGREE: {}", self.broken.join("; "))
    }
}
