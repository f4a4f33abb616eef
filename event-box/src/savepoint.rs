use sqlx::PgConnection;

/// Subtransactions a transaction may hold: above 64 PostgreSQL's cache of them overflows and every other session pays.
pub(crate) const MAX_SAVEPOINTS: u32 = 50;

/// The savepoint that one event's handlers share, opened when the first of them touches SQL.
#[derive(Debug, Default)]
pub(crate) struct Savepoint {
    open: bool,
    /// The event in hand has sent SQL.
    touched: bool,
    /// The connection failed when a handler asked for it.
    lost: bool,
    /// The batch is undone as a whole: no savepoints of single events.
    off: bool,
    count: u32,
}

impl Savepoint {
    pub(crate) fn new(off: bool) -> Self {
        Self { off, ..Self::default() }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off
    }

    /// Whether the event in hand wrote what only undoing the whole batch can undo.
    pub(crate) fn cannot_undo(&self) -> bool {
        self.off && self.touched
    }

    /// How many more may be undone by themselves in this transaction: events, or runs of a batch handler.
    pub(crate) fn room(&self) -> usize {
        MAX_SAVEPOINTS.saturating_sub(self.count) as usize + usize::from(self.open)
    }

    /// Whether another may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Whether the transaction is gone, whatever the handler made of it.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the event in hand has sent SQL.
    pub(crate) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Before the event in hand sends SQL.
    pub(crate) async fn touch(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.open && !self.off {
            self.lost = true;
            sqlx::raw_sql("savepoint event_box").execute(connection).await?;
            (self.lost, self.open) = (false, true);
            self.count += 1;
        }
        self.touched = true;
        Ok(())
    }

    /// The event in hand succeeded; fails where a statement of it had failed and the handler went on regardless.
    ///
    /// The next event most likely touches SQL too: its savepoint is opened in the same message.
    pub(crate) async fn keep(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if std::mem::take(&mut self.touched) && self.open {
            let again = self.count < MAX_SAVEPOINTS;
            let sql =
                if again { "release savepoint event_box; savepoint event_box" } else { "release savepoint event_box" };
            sqlx::raw_sql(sql).execute(connection).await?;
            self.open = again;
            self.count += u32::from(again);
        }
        Ok(())
    }

    /// The event in hand failed: what it wrote is undone, its neighbours' work stays.
    pub(crate) async fn undo(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.touched = false;
        if self.open {
            // It would stay open, as a new subtransaction, for the next event.
            let again = self.count < MAX_SAVEPOINTS;
            let sql = if again {
                "rollback to savepoint event_box"
            } else {
                "rollback to savepoint event_box; release savepoint event_box"
            };
            sqlx::raw_sql(sql).execute(connection).await?;
            self.open = again;
            self.count += u32::from(again);
        }
        Ok(())
    }

    /// Back to the level of the claim, where the cursor is advanced.
    pub(crate) async fn close(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if std::mem::take(&mut self.open) {
            sqlx::raw_sql("release savepoint event_box").execute(connection).await?;
        }
        Ok(())
    }
}
