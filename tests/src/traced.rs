use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::{Level, Subscriber, subscriber::DefaultGuard};
use tracing_subscriber::{
    filter::Targets,
    layer::{Layer, SubscriberExt},
    registry::{LookupSpan, Registry},
};

use crate::PATIENCE;

/// The spans that OpenTelemetry's SDK exports on this thread for as long as this value lives. Tests that use it run on tokio's
/// current-thread runtime.
#[derive(Debug)]
pub struct Traced {
    exporter: InMemorySpanExporter,
    provider: SdkTracerProvider,
    _guard: DefaultGuard,
}

impl Traced {
    /// Listens from now on. A span's attributes are its fields, and its level.
    pub fn here() -> Self {
        Self::through(Targets::new().with_default(Level::INFO), true)
    }

    /// Listens to what the filter lets through, and leaves OpenTelemetry's own current context alone.
    pub fn filtered(targets: Targets) -> Self {
        Self::through(targets, false)
    }

    fn through(targets: Targets, activate: bool) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = layer(&provider, activate).with_filter(targets);
        let guard = tracing::subscriber::set_default(Registry::default().with(layer));
        Self { exporter, provider, _guard: guard }
    }

    /// Every span that has ended, in the order of their ends.
    pub fn spans(&self) -> Vec<SpanData> {
        self.provider.force_flush().expect("an exporter that answers");
        self.exporter.get_finished_spans().expect("an exporter that works")
    }

    /// Those of this name.
    pub fn named(&self, name: &str) -> Vec<SpanData> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// The only one of this name.
    #[track_caller]
    pub fn one(&self, name: &str) -> SpanData {
        let [span] = <[SpanData; 1]>::try_from(self.named(name))
            .unwrap_or_else(|spans| panic!("{} spans are named `{name}`: {:#?}", spans.len(), self.spans()));
        span
    }

    /// Waits until so many of this name have ended.
    pub async fn wait_for(&self, name: &str, times: usize) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.named(name).len() < times {
            assert!(tokio::time::Instant::now() < deadline, "`{name}` has not come: {:#?}", self.spans());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

fn layer<S>(provider: &SdkTracerProvider, activate: bool) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("tests"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_level(true)
        .with_context_activation(activate)
}
