use std::collections::HashMap;

/// Events of a partition that cost a batch its connection or its process, judged when the batch comes again.
pub(crate) type Verdicts = HashMap<i64, Verdict>;

/// What becomes of such an event.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) error: String,
    pub(crate) charge: Charge,
    /// Its statement may still run in the server.
    pub(crate) left_running: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charge {
    /// A failed attempt.
    Attempt,
    /// It would do the same again.
    Rejection,
    /// Its process died of it.
    Death,
}

impl Verdict {
    pub(crate) fn timed_out(timeout: std::time::Duration) -> Self {
        let error = format!("the handler took longer than its time-out of {timeout:?}");
        Self { error, charge: Charge::Attempt, left_running: true }
    }

    /// It calls the other side unavailable, which serves others.
    pub(crate) fn alone_unavailable(error: &str) -> Self {
        let error = format!("said to be unavailable, while another event went through at the same time: {error}");
        Self { error, charge: Charge::Attempt, left_running: false }
    }

    pub(crate) fn died() -> Self {
        let error = "the process died while it handled this event alone (abort, out of memory, kill)".to_owned();
        Self { error, charge: Charge::Death, left_running: false }
    }

    /// Where an error of ours says that the delivery's transaction, or our savepoint in it, is gone: nobody but the handler can have ended
    /// it.
    pub(crate) fn on_ended_transaction(error: &sqlx::Error) -> Option<Self> {
        // no_active_sql_transaction, invalid_savepoint_specification
        let code = error.as_database_error()?.code()?;
        (code == "25P01" || code == "3B001").then(|| Self {
            error: "the handler ended the delivery's transaction: what it and its neighbours wrote may be committed, though the \
                    neighbours are delivered again; leave commit and rollback to the consumer, and use a savepoint of your own to undo"
                .to_owned(),
            charge: Charge::Rejection,
            left_running: false,
        })
    }
}
