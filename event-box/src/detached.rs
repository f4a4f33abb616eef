use std::{fmt, ops::Deref};

use crate::event_info::EventInfo;

/// What a handler of a [concurrent](crate::ConsumerBuilder::concurrent) group knows of the event in hand. It is no executor: there is no
/// transaction that the handler's work could share, and so every effect happens at least once, and again where the process or its
/// connection fails before the group's cursor has moved. [`id`](EventInfo::id) is the same in every delivery, and serves as idempotency key.
///
/// ```
/// use event_box::{BoxError, Detached, Event};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # struct OrderPlaced { order_id: i64 }
/// # struct App { mailer: Mailer }
/// # struct Mailer;
/// # impl Mailer { async fn send(&self, key: uuid::Uuid, text: String) -> Result<(), BoxError> { Ok(()) } }
///
/// async fn confirm(event: OrderPlaced, cx: &mut Detached<'_, App>) -> Result<(), BoxError> {
///     cx.state().mailer.send(cx.id(), format!("order {} was placed", event.order_id)).await
/// }
/// ```
pub struct Detached<'c, S = ()> {
    info: EventInfo<'c>,
    state: &'c S,
}

impl<'c, S> Detached<'c, S> {
    pub(crate) fn new(info: EventInfo<'c>, state: &'c S) -> Self {
        Self { info, state }
    }

    /// What was given to [`ConsumerBuilder::state`](crate::ConsumerBuilder::state).
    pub fn state(&self) -> &'c S {
        self.state
    }

    /// The event's id, topic, key, headers and the like, for as long as the delivery lasts; the context itself gives them too (`cx.id()`).
    pub fn info(&self) -> EventInfo<'c> {
        self.info
    }
}

impl<'c, S> Deref for Detached<'c, S> {
    type Target = EventInfo<'c>;

    fn deref(&self) -> &EventInfo<'c> {
        &self.info
    }
}

impl<S> fmt::Debug for Detached<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached").field("info", &self.info).finish_non_exhaustive()
    }
}
