use std::time::Duration;

use super::ConsumerBuilder;
use crate::{
    backoff::Backoff,
    event::Event,
    group::Start,
    group_mode::Transactional,
    mode::Mode,
    policy::TopicPolicy,
    report::{DeadLetter, Hook},
};

/// Settings, each with its default.
impl<S, R, M> ConsumerBuilder<S, R, M> {
    /// A new group starts with the oldest event still in the log. The default. A group that exists goes on where it stands.
    pub fn from_beginning(mut self) -> Self {
        self.settings.start = Start::Beginning;
        self
    }

    /// A new group starts with what is committed from now on. A group that exists goes on where it stands.
    pub fn from_now(mut self) -> Self {
        self.settings.start = Start::Now;
        self
    }

    /// How many partitions this process works on at once, each with a connection and a transaction of its own. Default: 4. The log has 64
    /// partitions: more workers than that, over all processes, stand idle.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers;
        self
    }

    /// The most events one transaction delivers, up to 100,000. Default: 1,000; 50 where handlers write SQL, as every event then holds a savepoint.
    pub fn batch_size(mut self, events: usize) -> Self {
        self.settings.policy.batch_size = events;
        self
    }

    /// Payload bytes after which no further event joins a batch; the first always does. At most 1 GiB. Default: 8 MiB (8,388,608).
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.policy.batch_bytes = bytes;
        self
    }

    /// How often the log is polled for what no notification announced, at the latest. Default: 100 ms; at most 14 days. Groups that share an [`EventBox`](crate::EventBox)
    /// poll as often as the most eager of them.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval;
        self
    }

    /// How long an event's handlers may take, all together; then their work is undone, and it counts as a failed attempt. Default: 30 s;
    /// at most 14 days.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.settings.policy.handler_timeout = timeout;
        self
    }

    /// After how many failed attempts an event becomes a dead letter and its key goes on without it. Default: 15.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.policy.max_attempts = attempts;
        self
    }

    /// The same for events of one type. Default: that of the group.
    pub fn max_attempts_for<E: Event>(mut self, attempts: u32) -> Self {
        self.for_topics::<E>(|policy| policy.max_attempts = Some(attempts));
        self
    }

    /// How long a failed event waits before it is tried again. Default: from 1 s to 4 h, see [`Backoff`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.policy.backoff = backoff;
        self
    }

    /// The same for events of one type. Default: that of the group.
    pub fn backoff_for<E: Event>(mut self, backoff: Backoff) -> Self {
        self.for_topics::<E>(|policy| policy.backoff = Some(backoff.clone()));
        self
    }

    fn for_topics<E: Event>(&mut self, change: impl Fn(&mut TopicPolicy)) {
        for topic in E::TOPICS {
            change(self.settings.policy.topics.entry(topic).or_default());
        }
    }

    /// After how many deaths of its process an event becomes a dead letter. Default: 3.
    ///
    /// Counted are the deaths that are proven to be the event's: after a process has ended in the middle of a batch (abort, out of
    /// memory, SIGKILL), the events it may have had in hand go one a transaction, each noted before it begins, until the next death
    /// names the one to blame.
    pub fn max_deaths(mut self, deaths: u32) -> Self {
        self.settings.policy.max_deaths = deaths;
        self
    }

    /// Later events of a dead letter's key wait until a person decides: requeues, edits or skips it ([`EventBox::group`](crate::EventBox::group)). Default: the key
    /// goes on without it.
    pub fn hold_keys(mut self) -> Self {
        self.settings.policy.hold_keys = true;
        self
    }

    /// What is to be done with each new dead letter, such as telling somebody; called after the commit that made it one. A process that
    /// dies in between does not call it: the list of dead letters is the truth. May take as long as a handler may; its worker waits for it.
    ///
    /// ```no_run
    /// # use event_box::{Consumer, ConsumerBuilder, DeadLetter};
    /// # fn with_hook(builder: ConsumerBuilder) -> ConsumerBuilder {
    /// builder.on_dead_letter(async |letter: DeadLetter| eprintln!("{} gave up {}: {}", letter.group, letter.id, letter.error))
    /// # }
    /// ```
    pub fn on_dead_letter<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(DeadLetter) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.settings.dead_letter_hook = Some(Hook::new(hook));
        self
    }

    /// Once a minute removes dead letters that are older than this, so that retention may remove their events; each leaves a record in the
    /// table `interventions`. Those that hold their key stay. `None` keeps all. Default: 30 days.
    pub fn dead_letter_retention(mut self, retention: impl Into<Option<Duration>>) -> Self {
        self.settings.dead_letter_retention = retention.into();
        self
    }

    /// How long running handlers may go on after shutdown was asked for; then they are rolled back. Default: 25 s; at most 14
    /// days.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.settings.shutdown_timeout = timeout;
        self
    }

    /// Once a minute removes events that every group has been given and that are older than this; `None` leaves that to
    /// [`prune`](crate::prune). Default: 7 days.
    pub fn retention(mut self, retention: impl Into<Option<Duration>>) -> Self {
        self.settings.retention = retention.into();
        self
    }
}

impl<S, R> ConsumerBuilder<S, R, Transactional> {
    /// Delivers without savepoints, for handlers that only write SQL: where an event fails, its whole batch is undone and run again
    /// without it, so handlers may see an event more than once before it is committed. Faster where little fails. All processes of a
    /// group must agree ([`RunError::Mode`](crate::RunError::Mode)). Default: a savepoint for each event that writes.
    pub fn all_or_nothing(mut self) -> Self {
        self.settings.policy.mode = Mode::AllOrNothing;
        self
    }
}
