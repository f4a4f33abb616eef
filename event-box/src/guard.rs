use sqlx::{
    Execute, Postgres, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgStatement},
};

/// A handler's query, taken apart to see what it is before it is sent.
pub(crate) struct Guarded {
    sql: SqlStr,
    statement: Option<PgStatement>,
    arguments: Result<Option<PgArguments>, BoxDynError>,
    persistent: bool,
}

impl Guarded {
    /// Refuses what would end the delivery's transaction under the consumer's feet, or leave it as another role.
    pub(crate) fn new<'q>(mut query: impl Execute<'q, Postgres>, unprepared: bool) -> Result<Self, sqlx::Error> {
        let arguments = query.take_arguments();
        let persistent = query.persistent() && !unprepared;
        let statement = query.statement().cloned();
        let sql = query.sql();
        if let Some(what) = forbidden(sql.as_str()) {
            return Err(sqlx::Error::InvalidArgument(format!(
                "`{what}` in a handler: the delivery's transaction is the consumer's; return an error to undo, or use `savepoint`"
            )));
        }
        Ok(Self { sql, statement, arguments, persistent })
    }
}

impl Execute<'_, Postgres> for Guarded {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.statement.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        std::mem::replace(&mut self.arguments, Ok(None))
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

/// The forbidden command a text begins with. (What hides behind another statement is found when the savepoint is released.)
fn forbidden(sql: &str) -> Option<String> {
    let mut words =
        without_comments(sql).split(|c: char| c.is_whitespace() || c == ';').filter(|word| !word.is_empty());
    let mut word = || words.next().unwrap_or_default().to_ascii_lowercase();
    let (first, second, third, fourth) = (word(), word(), word(), word());
    let two = format!("{first} {second}");
    let to_savepoint = [&second, &third].iter().any(|word| *word == "to");
    let role = ["role", "session authorization", "local role", "session role"];
    let settings = format!("{second} {third}");
    match first.as_str() {
        "commit" | "end" | "abort" | "begin" => Some(first),
        "rollback" if !to_savepoint => Some(first),
        "start" if second == "transaction" => Some(two),
        "prepare" if second == "transaction" => Some(two),
        "set" | "reset" if role.contains(&second.as_str()) || role.contains(&settings.as_str()) => {
            Some(format!("{first} {settings} {fourth}").trim_end().to_owned())
        }
        _ => None,
    }
}

fn without_comments(sql: &str) -> &str {
    let sql = sql.trim_start();
    let rest = if let Some(comment) = sql.strip_prefix("--") {
        comment.split_once('\n').map_or("", |(_, rest)| rest)
    } else if let Some(comment) = sql.strip_prefix("/*") {
        comment.split_once("*/").map_or("", |(_, rest)| rest)
    } else {
        return sql;
    };
    without_comments(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_the_transaction_or_changes_the_role_is_refused() {
        let refused = [
            "commit",
            "COMMIT;",
            " end ",
            "-- done\n/* now */ Commit and chain",
            "rollback",
            "ROLLBACK WORK",
            "abort",
            "begin",
            "start transaction",
            "prepare transaction 'x'",
            "set role other",
            "SET LOCAL ROLE other",
            "reset role",
            "set session authorization other",
        ];
        for sql in refused {
            assert!(forbidden(sql).is_some(), "{sql}");
        }
        let allowed = [
            "rollback to savepoint mine",
            "rollback to mine",
            "rollback work to mine",
            "savepoint begin",
            "prepare q as select 1",
            "set local statement_timeout = 5",
            "set constraints all deferred",
            "insert into commit values (1)",
            "",
            "-- commit",
            "do $$ begin perform 1; end $$",
        ];
        for sql in allowed {
            assert_eq!(forbidden(sql), None, "{sql}");
        }
    }
}
