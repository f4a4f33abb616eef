//! Events whose shape changes while old ones are still in the log, and handlers of several kinds of event.

use event_box::{BoxError, Consumer, Context, DecodeError, Event};
use event_box_tests::{PATIENCE, Running, TestLog};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

mod v1 {
    #[derive(serde::Serialize, serde::Deserialize, event_box::Event)]
    #[event(topic = "orders.placed", partition_key = "id")]
    pub(super) struct OrderPlaced {
        pub(super) id: i64,
        pub(super) euros: i64,
    }
}

mod v2 {
    use super::v1;

    #[derive(serde::Serialize, serde::Deserialize, event_box::Event)]
    #[event(topic = "orders.placed", partition_key = "id", version = 2, previous = v1::OrderPlaced)]
    pub(super) struct OrderPlaced {
        pub(super) id: i64,
        pub(super) cents: i64,
    }

    impl From<v1::OrderPlaced> for OrderPlaced {
        fn from(v1::OrderPlaced { id, euros }: v1::OrderPlaced) -> Self {
            Self { id, cents: euros * 100 }
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(topic = "orders.placed", partition_key = "order.id", version = 3, previous = v2::OrderPlaced)]
struct OrderPlaced {
    order: Order,
    cents: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: i64,
}

impl From<v2::OrderPlaced> for OrderPlaced {
    fn from(v2::OrderPlaced { id, cents }: v2::OrderPlaced) -> Self {
        Self { order: Order { id }, cents }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(topic = "orders.cancelled", partition_key = "order_id")]
struct OrderCancelled {
    order_id: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(topic = "payments.received", partition_key = "order_id", version = 7)]
struct PaymentReceived {
    order_id: i64,
}

#[derive(Debug, PartialEq, Event)]
enum OrderEvent {
    Placed(OrderPlaced),
    Cancelled(Box<OrderCancelled>),
}

#[derive(Debug, PartialEq, Event)]
enum ShopEvent {
    Payment(PaymentReceived),
    Order(OrderEvent),
}

fn placed(id: i64, cents: i64) -> OrderPlaced {
    OrderPlaced { order: Order { id }, cents }
}

fn cancelled(order_id: i64) -> OrderEvent {
    OrderEvent::Cancelled(OrderCancelled { order_id }.into())
}

type Reports<E> = mpsc::UnboundedSender<(i16, E)>;

async fn report<E: Event>(event: E, cx: &mut Context<'_, Reports<E>>) -> Result<(), BoxError> {
    cx.state().send((cx.version(), event)).map_err(|_| "nobody listens".into())
}

/// What handlers of `E` are given, each with the version it was stored with.
struct Handled<E> {
    consumer: Running,
    reports: mpsc::UnboundedReceiver<(i16, E)>,
}

impl<E: Event> Handled<E> {
    fn by_a_consumer(log: &TestLog) -> Self {
        let (sender, reports) = mpsc::unbounded_channel();
        let consumer = Consumer::builder(&log.pool, "g").state(sender).on(report::<E>).build().unwrap();
        Self { consumer: Running::start(consumer), reports }
    }

    async fn next(&mut self) -> (i16, E) {
        let next = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        next.expect("a handler reports in time").expect("a handler lives")
    }

    /// Stops the consumer, which has handled nothing further.
    async fn stop(mut self) {
        self.consumer.stop().await.unwrap();
        assert!(self.reports.recv().await.is_none());
    }
}

#[tokio::test]
async fn events_of_every_older_version_reach_a_handler_of_the_newest() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &v1::OrderPlaced { id: 7, euros: 1 }).await.unwrap();
    log.outbox.emit(&log.pool, &v2::OrderPlaced { id: 7, cents: 250 }).await.unwrap();
    log.outbox.emit(&log.pool, &placed(7, 399)).await.unwrap();
    let mut handled = Handled::<OrderPlaced>::by_a_consumer(&log);
    for expected in [(1, placed(7, 100)), (2, placed(7, 250)), (3, placed(7, 399))] {
        assert_eq!(handled.next().await, expected);
    }
    handled.stop().await;
    log.close().await;
}

#[tokio::test]
async fn an_event_of_a_version_not_known_is_parked_while_its_neighbours_go_on() {
    let log = TestLog::new().await;
    // A payload that version 3 could read, were it asked to.
    log.sql(
        "select event_box.emit('orders.placed', '{\"order\": {\"id\": 7}, \"cents\": 1}', '7', version => 9::smallint)",
    )
    .await;
    log.outbox.emit(&log.pool, &placed(8, 2)).await.unwrap();
    let mut handled = Handled::<OrderPlaced>::by_a_consumer(&log);
    assert_eq!(handled.next().await, (3, placed(8, 2)));
    log.wait_until("select count(*) from event_box.parked", 1).await;
    handled.stop().await;
    let (key, dead, error): (String, bool, String) =
        sqlx::query_as("select partition_key, dead_at is not null, error from event_box.parked")
            .fetch_one(&log.pool)
            .await
            .unwrap();
    assert_eq!((key.as_str(), dead), ("7", false), "a newer process may come");
    assert_eq!(
        error,
        "`orders.placed` is stored in version 9, the newest this code reads is 3: deploy the newer code, or requeue the \
         event once it runs"
    );
    log.close().await;
}

#[tokio::test]
async fn a_handler_of_an_enum_gets_all_its_topics_in_the_order_of_the_key() {
    let log = TestLog::new().await;
    log.outbox.emit(&log.pool, &v1::OrderPlaced { id: 7, euros: 1 }).await.unwrap();
    // One by one, as a statement, and by COPY; by the enum, and by what it holds.
    log.outbox.emit(&log.pool, &cancelled(7)).await.unwrap();
    let several = [OrderEvent::Placed(placed(7, 2)), cancelled(7), OrderEvent::Placed(placed(7, 3))];
    log.outbox.emit_all(&log.pool, &several).await.unwrap();
    let mut connection = log.pool.acquire().await.unwrap();
    log.outbox.copy(&mut connection, &[cancelled(7), OrderEvent::Placed(placed(7, 4))]).await.unwrap();
    drop(connection);
    log.outbox.emit(&log.pool, &OrderCancelled { order_id: 7 }).await.unwrap();
    log.outbox.emit(&log.pool, &PaymentReceived { order_id: 7 }).await.unwrap();

    let mut handled = Handled::<ShopEvent>::by_a_consumer(&log);
    let expected = [
        (1, OrderEvent::Placed(placed(7, 100))),
        (1, cancelled(7)),
        (3, OrderEvent::Placed(placed(7, 2))),
        (1, cancelled(7)),
        (3, OrderEvent::Placed(placed(7, 3))),
        (1, cancelled(7)),
        (3, OrderEvent::Placed(placed(7, 4))),
        (1, cancelled(7)),
    ];
    for (version, event) in expected {
        assert_eq!(handled.next().await, (version, ShopEvent::Order(event)));
    }
    assert_eq!(handled.next().await, (7, ShopEvent::Payment(PaymentReceived { order_id: 7 })));
    handled.stop().await;
    let keyed = "select count(*) from event_box.events where partition_key = '7'";
    assert_eq!(log.number(keyed).await, 9);
    let topics: Vec<String> = sqlx::query_scalar("select unnest(topics) from event_box.consumer_groups order by 1")
        .fetch_all(&log.pool)
        .await
        .unwrap();
    assert_eq!(topics, ["orders.cancelled", "orders.placed", "payments.received"]);
    log.close().await;
}

#[test]
fn an_enum_is_the_event_that_it_holds() {
    assert_eq!(OrderEvent::TOPICS, ["orders.placed", "orders.cancelled"]);
    assert_eq!(ShopEvent::TOPICS, ["payments.received", "orders.placed", "orders.cancelled"]);
    assert_eq!((OrderEvent::VERSION, ShopEvent::VERSION), (3, 7), "the newest");
    let event = ShopEvent::Order(OrderEvent::Placed(placed(7, 995)));
    assert_eq!((event.topic(), event.version()), ("orders.placed", 3));
    assert_eq!(event.partition_key().as_deref(), Some("7"));
    assert_eq!(event.encode().unwrap(), br#"{"order":{"id":7},"cents":995}"#, "without a word of the enum");
    let event = ShopEvent::Order(cancelled(8));
    assert_eq!((event.topic(), event.version()), ("orders.cancelled", 1));
    assert_eq!(event.partition_key().as_deref(), Some("8"));
    assert_eq!(ShopEvent::decode("orders.cancelled", 1, br#"{"order_id":8}"#).unwrap(), event);
}

#[test]
fn an_enum_reads_no_other_topics() {
    let error = OrderEvent::decode("payments.received", 7, br#"{"order_id":8}"#).unwrap_err();
    assert!(matches!(&error, DecodeError::Topic { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "`payments.received` is not a topic of this event: its topics are `orders.placed`, `orders.cancelled`"
    );
}

#[test]
fn versions_out_of_the_known_range_are_told_apart() {
    #[derive(Debug, Serialize, Deserialize, Event)]
    #[event(topic = "stock.counted", version = 4)]
    struct StockCountedV4 {}
    #[derive(Debug, Serialize, Deserialize, Event)]
    #[event(topic = "stock.counted", version = 5, previous = StockCountedV4)]
    struct StockCounted {}
    impl From<StockCountedV4> for StockCounted {
        fn from(_: StockCountedV4) -> Self {
            Self {}
        }
    }

    let read = |version| StockCounted::decode("stock.counted", version, b"{}");
    assert!(read(4).is_ok() && read(5).is_ok());
    let refused = |version, nearest| {
        let error = read(version).unwrap_err();
        let DecodeError::Version { stored, known, .. } = &error else { panic!("{error:?}") };
        assert_eq!((*stored, *known), (version, nearest));
        error.to_string()
    };
    assert_eq!(
        refused(6, 5),
        "`stock.counted` is stored in version 6, the newest this code reads is 5: deploy the newer code, or requeue the \
         event once it runs"
    );
    assert_eq!(
        refused(2, 4),
        "`stock.counted` is stored in version 2, the oldest this code reads is 4: name the type of version 3 by \
         `#[event(previous = ..)]`"
    );
}

#[test]
fn a_version_reaches_up_to_that_of_a_smallint() {
    #[derive(Serialize, Deserialize, Event)]
    #[event(version = 32_767)]
    struct Happened;

    assert_eq!(Happened.version(), i16::MAX);
}
