use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry::Registry,
};

use crate::PATIENCE;

/// One line that event-box logged.
#[derive(Debug, Clone)]
pub struct Line {
    /// How loud.
    pub level: Level,
    /// The message itself.
    pub message: String,
    /// Everything beside it, as text.
    pub fields: BTreeMap<&'static str, String>,
}

/// What event-box logs on this thread for as long as this value lives, and the statements that sqlx sends. Tests that use it run on tokio's
/// current-thread runtime.
#[derive(Debug)]
pub struct Logged {
    records: Records,
    _guard: DefaultGuard,
}

#[derive(Debug, Clone, Default)]
struct Records(Arc<Mutex<(Vec<Line>, Vec<String>)>>);

impl Logged {
    /// Listens from now on.
    pub fn here() -> Self {
        let records = Records::default();
        let guard = tracing::subscriber::set_default(Registry::default().with(records.clone()));
        Self { records, _guard: guard }
    }

    /// Every line so far whose message contains this.
    pub fn said(&self, message: &str) -> Vec<Line> {
        self.records.lock().0.iter().filter(|line| line.message.contains(message)).cloned().collect()
    }

    /// How often a line with this message was logged.
    pub fn times(&self, message: &str) -> usize {
        self.said(message).len()
    }

    /// Every warning and error so far.
    pub fn alarms(&self) -> Vec<Line> {
        self.records.lock().0.iter().filter(|line| line.level <= Level::WARN).cloned().collect()
    }

    /// How many statements with this in them were sent, by whoever runs on this thread.
    pub fn statements(&self, part: &str) -> usize {
        self.records.lock().1.iter().filter(|statement| statement.contains(part)).count()
    }

    /// Waits until a line with this message was logged so often.
    pub async fn wait_for(&self, message: &str, times: usize) {
        self.wait_until(message, || self.times(message) >= times).await;
    }

    /// Waits until so many statements with this in them were sent.
    pub async fn wait_for_statements(&self, part: &str, times: usize) {
        self.wait_until(part, || self.statements(part) >= times).await;
    }

    async fn wait_until(&self, what: &str, come: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !come() {
            assert!(tokio::time::Instant::now() < deadline, "`{what}` has not come: {:#?}", self.said(""));
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

impl Records {
    fn lock(&self) -> MutexGuard<'_, (Vec<Line>, Vec<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Records {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { message, mut fields } = fields;
        match event.metadata().target() {
            "sqlx::query" => {
                // The whole statement only where it is more than its summary.
                let whole = fields.remove("db.statement").filter(|statement| !statement.is_empty());
                self.lock().1.extend(whole.or_else(|| fields.remove("summary")));
            }
            target if target.starts_with("event_box::") => {
                self.lock().0.push(Line { level: *event.metadata().level(), message, fields });
            }
            _ => {}
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => drop(self.fields.insert(name, text)),
        }
    }
}
