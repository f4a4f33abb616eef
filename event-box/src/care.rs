use sqlx::PgConnection;

use crate::{
    batch::{Batch, BatchError, Watch},
    claim::Claim,
    verdict::{Verdict, Verdicts},
};

/// Rows that a careful batch reads at a time: it hands over one event, but what is not the group's is passed over.
const CAREFUL_ROWS: usize = 20;

/// How carefully a batch must go, after a process died with events of this partition in hand.
///
/// The first death says only that one of a batch is to blame. So as many events as a batch holds then go one a transaction, each begun by
/// a committed row in `starts`: the second death leaves the row that names the culprit.
#[derive(Debug, Default)]
pub(crate) struct Care {
    /// Events that still go one a transaction.
    pub(crate) left: usize,
    /// There are rows of ours or of the dead in `starts`.
    pub(crate) has_starts: bool,
    /// Events that killed their process.
    pub(crate) deadly: Verdicts,
    /// A process that began an event here may yet take it back.
    pub(crate) waits: bool,
}

impl Care {
    /// Whether a batch must go differently on account of it.
    pub(crate) fn is_needed(&self) -> bool {
        self.left > 0 || self.waits || !self.deadly.is_empty()
    }

    /// How many rows are to be read where a batch would read `limit`.
    pub(crate) fn rows(&self, limit: usize) -> usize {
        if self.left > 0 { limit.min(CAREFUL_ROWS) } else { limit }
    }
}

impl Batch<'_> {
    /// Notes the claim as this process's own, and answers with the one before it in the partition: before anything else is sent.
    pub(crate) fn note(&self, claim: &Claim) -> u64 {
        self.watch.map_or(0, |watch| watch.process.claimed(claim.partition, claim.xid))
    }

    /// What is known of deaths in this partition. Costs a statement only where there is a reason to ask.
    pub(crate) async fn care(
        &self,
        connection: &mut PgConnection,
        claim: &Claim,
        earlier: u64,
    ) -> Result<Care, BatchError> {
        let mut care = Care { left: claim.careful, ..Care::default() };
        let Some(Watch { process, .. }) = self.watch else { return Ok(Care::default()) };
        let aborted = claim.aborted;
        let earlier_left = process.is_careful(self.partition.number, care.left);
        if aborted.is_none() && care.left == 0 {
            return Ok(care);
        }
        let (partition, group) = (self.partition.number, self.partition.group);
        let starts = self.within(self.partition.starts(connection, process.id)).await?;
        care.has_starts = !starts.is_empty();
        let foreign = || starts.iter().filter(|start| start.process != process.id);
        if foreign().next().is_some() {
            // Asked again until it is settled; how many were left went with the transaction of whoever began it.
            if care.left == 0 {
                care.left = self.policy.batch_size;
            }
            care.waits = foreign().any(|start| !start.abandoned);
            care.deadly = foreign().map(|start| (start.sequence, Verdict::died())).collect();
        } else if aborted == Some(earlier) {
            // This process rolled back, and lives; what it had been told of another's death went with it.
            care.left = care.left.max(earlier_left);
        } else if aborted.is_some() {
            care.left = self.policy.batch_size;
            tracing::warn!(
                group,
                partition,
                events = care.left,
                "a process of this group ended in the middle of a batch; the events it may have had in hand go one at a time"
            );
        }
        process.is_careful(partition, care.left);
        Ok(care)
    }
}

#[cfg(test)]
mod tests {
    use futures_core::future::BoxFuture;
    use sqlx::Connection;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        Event, EventBox, Failure, Outbox,
        batch::{Assignment, Done, Ran},
        claim::Partition,
        group::Start,
        policy::Policy,
        process::Process,
        router::Dispatch,
        test_log::{Counted, TestLog},
        work::Work,
    };

    struct Ignore(Vec<String>);

    impl Dispatch for Ignore {
        fn topics(&self) -> &[String] {
            &self.0
        }

        fn deliver<'a>(&'a self, _: Work<'a>) -> BoxFuture<'a, Result<(), Failure>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    struct Group {
        log: TestLog,
        partition: i16,
    }

    impl Group {
        async fn with_events(n: i64) -> Self {
            let log = TestLog::new().await;
            log.group("g", Start::Beginning).await;
            let events: Vec<_> = (1..=n).map(|n| Counted { key: "k".to_owned(), n }).collect();
            Outbox::new().emit_all(&log.pool, &events).await.unwrap();
            let partition = sqlx::query_scalar("select partition from event_box.events limit 1");
            Self { partition: partition.fetch_one(&log.pool).await.unwrap(), log }
        }

        fn process(&self) -> Process {
            Process::new(EventBox::from(&self.log), "g".to_owned())
        }

        fn claimed(&self) -> Partition<'_> {
            Partition { schema: &self.log.schema, group: "g", number: self.partition }
        }

        /// One batch; rolled back where it is to be cut off.
        async fn batch(&self, process: &Process, limit: usize, cut_off: bool) -> Done {
            let mut connection = self.log.pool.acquire().await.unwrap();
            let mut tx = connection.begin().await.unwrap();
            let batch = Batch {
                partition: self.claimed(),
                watch: Some(Watch { process, pool: &self.log.pool }),
                dispatch: &Ignore(vec![Counted::TOPICS[0].to_owned()]),
                policy: &Policy { batch_size: 5, ..Policy::default() },
                shutdown: &CancellationToken::new(),
                assignment: &Assignment { rows: limit, events: limit, verdicts: Verdicts::new(), suspect: None },
                ran: &Ran::default(),
            };
            let done = batch.run(&mut tx).await.unwrap().expect("nobody else holds it");
            if cut_off { tx.rollback().await } else { tx.commit().await }.unwrap();
            done
        }

        async fn number(&self, sql: &'static str) -> i64 {
            sqlx::query_scalar(sql).fetch_one(&self.log.pool).await.unwrap()
        }
    }

    const CAREFUL: &str = "select sum(careful) from event_box.cursors";
    const STARTS: &str = "select count(*) from event_box.starts";
    const DEATHS: &str = "select coalesce(sum(deaths), 0)::bigint from event_box.parked";

    #[tokio::test(flavor = "multi_thread")]
    async fn as_many_events_as_a_batch_holds_go_alone_after_another_process_was_cut_off() {
        let group = Group::with_events(20).await;
        let (one, other) = (group.process(), group.process());
        group.batch(&one, 10, true).await;
        for careful in (0..5).rev() {
            assert_eq!(group.batch(&other, 10, false).await.handled, 1);
            assert_eq!(group.number(CAREFUL).await, careful);
        }
        assert_eq!(group.batch(&other, 10, false).await.handled, 10);
        assert_eq!((group.number(STARTS).await, group.number(DEATHS).await), (0, 0));
        group.log.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_process_that_rolled_back_itself_has_not_died() {
        let group = Group::with_events(20).await;
        let one = group.process();
        group.batch(&one, 10, true).await;
        assert_eq!(group.batch(&one, 10, false).await.handled, 10);
        group.log.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_is_charged_only_when_its_process_had_time_to_take_it_back() {
        let group = Group::with_events(3).await;
        let (first, one, other) = (group.process(), group.process(), group.process());
        group.batch(&first, 10, true).await;
        // Alone, noted, cut off.
        assert_eq!(group.batch(&one, 10, true).await.handled, 1);
        assert_eq!(group.number(STARTS).await, 1);
        let done = group.batch(&other, 10, false).await;
        assert!(done.waits && done.handled == 0);
        assert!(group.batch(&other, 10, false).await.waits, "it has some seconds");
        // It lives.
        group.claimed().take_back(&group.log.pool, one.id).await.unwrap();
        assert_eq!(group.batch(&other, 10, false).await.handled, 1);
        // The next is cut off as well, and nobody speaks up for it.
        assert_eq!(group.batch(&one, 10, true).await.handled, 1);
        assert!(group.batch(&other, 10, false).await.waits);
        group.number("with aged as (update event_box.starts set noticed_at = noticed_at - interval '6 seconds' returning 1) select count(*) from aged").await;
        let done = group.batch(&other, 10, false).await;
        assert_eq!((done.failures.len(), done.judged.len()), (1, 1));
        assert_eq!((group.number(DEATHS).await, group.number(STARTS).await), (1, 0));
        assert_eq!(group.number(CAREFUL).await, 0, "the culprit is named");
        assert_eq!(group.number("select count(*) from event_box.parked where reason = 'waiting'").await, 1);
        group.log.close().await;
    }

    /// By a task, and by the next claim of its own.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_process_that_lives_takes_back_what_it_began() {
        let group = Group::with_events(3).await;
        let (first, one) = (group.process(), group.process());
        group.batch(&first, 10, true).await;
        group.batch(&one, 10, true).await;
        assert_eq!(group.number(STARTS).await, 1);
        one.lived(group.partition);
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while group.number(STARTS).await > 0 {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        group.batch(&one, 10, true).await;
        assert_eq!(group.number(STARTS).await, 1);
        assert_eq!(group.batch(&one, 10, false).await.handled, 1);
        assert_eq!((group.number(STARTS).await, group.number(DEATHS).await), (0, 0));
        drop(one);
        group.log.close().await;
    }

    /// What cannot be judged counts as no death: no claim yet, a multixact, an id of the future.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_claim_that_cannot_be_judged_is_no_death() {
        let group = Group::with_events(20).await;
        let one = group.process();
        let lock = "select from event_box.cursors where partition = (select partition from event_box.events limit 1) for key share";
        let mut locks = Vec::new();
        for _ in 0..3 {
            let mut tx = group.log.pool.begin().await.unwrap();
            sqlx::query(lock).execute(&mut *tx).await.unwrap();
            locks.push(tx);
        }
        let mut connection = group.log.pool.acquire().await.unwrap();
        assert!(group.claimed().claim(&mut connection).await.unwrap().is_none(), "it is locked");
        for lock in locks {
            lock.rollback().await.unwrap();
        }
        let claim = group.claimed().claim(&mut connection).await.unwrap().expect("nobody holds it");
        assert_eq!(claim.aborted, None, "the multixact's number is no transaction that was rolled back");
        drop(connection);
        assert_eq!(group.batch(&one, 10, false).await.handled, 10);
        group.log.close().await;
    }
}
