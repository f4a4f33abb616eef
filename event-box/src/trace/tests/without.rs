//! Without the feature: spans as ever, headers left alone.

use std::time::Duration;

use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};
use tracing_subscriber::{layer::SubscriberExt, registry::Registry};

use crate::{
    BoxError, Consumer, Context, Outbox,
    test_log::{Counted, TestLog},
};

type Reports = mpsc::UnboundedSender<i64>;

async fn report(event: Counted, cx: &mut Context<'_, Reports>) -> Result<(), BoxError> {
    Ok(cx.state().send(event.n)?)
}

fn counted(n: i64) -> Counted {
    Counted { key: "k".to_owned(), n }
}

#[tokio::test]
async fn nothing_is_written_into_headers_and_nothing_read() {
    let log = TestLog::new().await;
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tests"));
    let guard = tracing::subscriber::set_default(Registry::default().with(layer));
    let own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let emitted = async {
        let outbox = Outbox::new();
        outbox.emit(&log.pool, &counted(1)).await.unwrap();
        outbox.emit_all(&log.pool, &[counted(2)]).await.unwrap();
        outbox.copy(&mut log.pool.acquire().await.unwrap(), &[counted(3)]).await.unwrap();
        outbox.emit(&log.pool, &counted(4)).header("traceparent", own).await.unwrap();
    };
    emitted.instrument(info_span!("import")).await;
    let headers: Vec<Option<String>> =
        sqlx::query_scalar("select headers::text from event_box.events order by sequence")
            .fetch_all(&log.pool)
            .await
            .unwrap();
    assert_eq!(headers, [None, None, None, Some(format!(r#"{{"traceparent":"{own}"}}"#))]);

    let (sender, mut reports) = mpsc::unbounded_channel();
    let shutdown = CancellationToken::new();
    let consumer = Consumer::builder(&log, "g").state(sender).on(report).build().unwrap();
    let running = tokio::spawn(consumer.run(shutdown.clone()));
    for n in 1..=4 {
        let reported = tokio::time::timeout(Duration::from_secs(20), reports.recv()).await.unwrap();
        assert_eq!(reported, Some(n));
    }
    shutdown.cancel();
    running.await.unwrap().unwrap();
    drop(guard);
    let mut spans = exporter.get_finished_spans().unwrap();
    spans.retain(|span| span.name == "process counted");
    assert_eq!(spans.len(), 4);
    for span in spans {
        assert_eq!(span.parent_span_id, SpanId::INVALID);
        assert!(span.links.is_empty(), "{span:?}");
    }
    log.close().await;
}
