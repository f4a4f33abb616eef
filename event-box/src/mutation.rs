//! Deliberate defects of the engine, one at a time, that the model check must find (`cargo xtask mutations`). Each puts a rule of the
//! delivery (docs/architecture.md) back to its obvious form. Without the hidden feature there are none.

/// Whether the engine has this defect.
#[cfg(not(feature = "_mutations"))]
pub(crate) const fn is(_name: &str) -> bool {
    false
}

#[cfg(feature = "_mutations")]
pub(crate) use self::active::{is, rewrite};

#[cfg(feature = "_mutations")]
mod active {
    use std::sync::LazyLock;

    use sqlx::PgConnection;

    use crate::{
        batch::{Batch, BatchError},
        cursor::{Cursor, Opening},
        read::Page,
    };

    /// By its name in the environment.
    static ACTIVE: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("EVENT_BOX_MUTATION").ok());

    pub(crate) fn is(name: &str) -> bool {
        debug_assert!(super::ALL.iter().any(|(known, _)| *known == name), "{name} is not listed");
        ACTIVE.as_deref() == Some(name)
    }

    /// The statement with the defect, where it is one of SQL.
    pub(crate) fn rewrite(sql: &str) -> Option<String> {
        let mut changed = sql.to_owned();
        for (_, from, to) in super::SQL.iter().filter(|(name, ..)| is(name)) {
            changed = changed.replace(from, to);
        }
        (changed != sql).then_some(changed)
    }

    impl Batch<'_> {
        /// Commits the advance over all that was read; answers whether it did.
        pub(crate) async fn advances_first(
            &self,
            connection: &mut PgConnection,
            cursor: &Cursor,
            page: &Page,
            opening: Opening,
        ) -> Result<bool, BatchError> {
            let of_savepoints = self.dispatch.has_batch_handlers() || self.policy.mode == crate::Mode::AllOrNothing;
            if of_savepoints || self.watch.is_none() || !is("advance-before-handling") {
                return Ok(false);
            }
            let last = page.rows.last().map(|row| row.sequence);
            let advance = cursor.advance(&page.seen, page.own_xid, opening, last, None);
            self.partition.advance(connection, &advance, 0).await?;
            sqlx::raw_sql("commit; begin isolation level read committed").execute(connection).await?;
            Ok(true)
        }
    }
}

/// Every defect's name, and what it is.
#[cfg(any(test, feature = "_mutations"))]
#[cfg_attr(
    not(feature = "_mutations"),
    expect(unreachable_pub, reason = "only with the feature there is somebody to reach it")
)]
pub const ALL: [(&str, &str); 19] = [
    ("no-late-arm", "what commits behind the position is not looked for"),
    ("late-by-xip-alone", "late is only what the snapshot lists as open"),
    ("floor-is-position", "unknown transactions are taken to write above the position"),
    ("mark-while-bound", "a transaction that had an id already sets the mark"),
    ("empty-floors", "transactions that were open keep no floors of their own"),
    ("early-end-at-the-last-read", "a batch that ends early counts as read to its end"),
    ("byte-budget-hides-the-next", "a read that its byte budget cut does not name the next row"),
    ("own-rows-delivered", "events are delivered in the transaction that wrote them"),
    ("read-as-of-the-claim", "events are read as of the claim's own statement"),
    ("advance-before-handling", "the cursor's advance is committed before the handlers run"),
    ("replay-with-a-new-snapshot", "a replay takes a new snapshot"),
    ("prune-by-age-alone", "retention does not ask what groups were given"),
    ("prune-without-the-lock", "retention does not exclude replay and new groups"),
    ("follower-before-the-parked", "an event does not wait for what is parked of its key"),
    ("follower-in-the-same-batch", "an event does not wait for one of its key that failed in the same batch"),
    ("idle-without-retries", "the idle rule does not know of due retries"),
    ("forward-in-one-statement", "a group is set forward in the statement that waits for its workers"),
    ("prune-repeatable-read", "retention reads as of before it waited for a replay"),
    ("idle-by-last-value-alone", "the idle rule compares the sequence's last value alone"),
];

/// Those of SQL: what stands there, and what stands there instead.
#[cfg(any(test, feature = "_mutations"))]
const SQL: [(&str, &str, &str); 12] = [
    ("no-late-arm", "(sequence > position or not pg_visible_in_snapshot(xid, was))", "sequence > position"),
    (
        "late-by-xip-alone",
        "or not pg_visible_in_snapshot(xid, was)",
        "or xid = any(array(select pg_snapshot_xip(was)))",
    ),
    (
        "own-rows-delivered",
        "and xid <> x and (pg_visible_in_snapshot(xid, t)",
        "and (xid = x or pg_visible_in_snapshot(xid, t)",
    ),
    ("own-rows-delivered", "e.xid >= pg_snapshot_xmax(s) as foreign_row", "false as foreign_row"),
    // Between the snapshot of a claim and its lock lies some time, in one of ten.
    (
        "read-as-of-the-claim",
        "set_config('jit', 'off', true)) as jit",
        "set_config('model.claimed', pg_current_snapshot()::text, true)) as jit",
    ),
    (
        "read-as-of-the-claim",
        "and last_value >= 0\n        for update",
        "and (select pg_sleep(case when random() < 0.1 then 0.3 else 0 end)) is not null and last_value >= 0 for update",
    ),
    (
        "read-as-of-the-claim",
        "coalesce(c.target::pg_snapshot, s) as t",
        "coalesce(c.target::pg_snapshot, nullif(current_setting('model.claimed', true), '')::pg_snapshot, s) as t",
    ),
    // It waits, as for workers with long batches.
    (
        "forward-in-one-statement",
        "coalesce(last.sequence, 0)), snapshot = now.s,",
        "coalesce(last.sequence, 0)), snapshot = case when (select pg_sleep(0.1)) is not null then now.s end,",
    ),
    (
        "replay-with-a-new-snapshot",
        "set position = least(c.position, point.position)",
        "set position = least(c.position, point.position), snapshot = pg_current_snapshot(), \
         floors = array_fill(0::bigint, array[(select count(*) from pg_snapshot_xip(pg_current_snapshot()))::int])",
    ),
    (
        "prune-by-age-alone",
        "where c.position is null\n             or not (",
        "where c.position is null\n             and not (",
    ),
    ("prune-by-age-alone", "select min(coalesce(c.position, 0)) from", "select max(coalesce(c.position, 0)) from"),
    // As where there is more to read.
    (
        "prune-without-the-lock",
        "select sequence from chunk\n    where old",
        "select sequence from chunk, (select pg_sleep(0.02)) as slowly\n    where old",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_changed_is_there_once() {
        let sources = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
        let sources =
            sources.map(|entry| entry.unwrap().path()).filter(|path| path.is_file() && !path.ends_with("mutation.rs"));
        let text: String = sources.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        for (name, from, _) in SQL {
            assert_eq!(text.matches(from).count(), 1, "{name}: {from}");
            assert!(ALL.iter().any(|(known, _)| *known == name), "{name} is not listed");
        }
    }
}
