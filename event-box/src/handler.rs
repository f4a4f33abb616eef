use std::marker::PhantomData;

use futures_core::future::BoxFuture;

use crate::{
    context::Context,
    detached::Detached,
    event::{DecodeError, Event},
    event_info::EventInfo,
    failed::Failed,
    failure::Failure,
    group_mode::{Concurrent, GroupMode, Transactional},
};

/// A handler with a name and fields of its own, bound by [`ConsumerBuilder::handle`](crate::ConsumerBuilder::handle). Functions and
/// closures are bound by [`ConsumerBuilder::on`](crate::ConsumerBuilder::on) and need no trait. In a
/// [concurrent](crate::ConsumerBuilder::concurrent) group it is `Handle<State, Concurrent>`, and `cx` a `&mut Detached<'_, State>`.
///
/// ```
/// use event_box::{Context, Event, Handle};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # struct OrderPlaced { total_cents: i64 }
///
/// struct Revenue {
///     currency: String,
/// }
///
/// impl Handle for Revenue {
///     type Event = OrderPlaced;
///     type Error = sqlx::Error;
///
///     async fn handle(&self, event: OrderPlaced, cx: &mut Context<'_>) -> Result<(), sqlx::Error> {
///         sqlx::query("update revenue set cents = cents + $1 where currency = $2")
///             .bind(event.total_cents)
///             .bind(&self.currency)
///             .execute(cx)
///             .await?;
///         Ok(())
///     }
/// }
/// ```
pub trait Handle<S: Sync = (), M: GroupMode = Transactional>: Send + Sync + 'static {
    /// What it handles.
    type Event: Event;
    /// How it fails: any error, or [`Failure`] to say more.
    type Error: Into<Failure>;

    /// Handles one event, in the delivery's transaction where the group has one. Called for one event of a key at a time.
    ///
    /// # Errors
    /// What the handler wrote is undone, and the event is tried again, rejected or snoozed as [`Failure`] says.
    fn handle<'c>(
        &self,
        event: Self::Event,
        cx: &'c mut M::Context<'c, S>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// What a handler returns.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not a handler's result",
    note = "a handler returns `Result<(), Error>`, where `Error` is `event_box::Failure`, `event_box::BoxError` or any `std::error::Error + Send + Sync`; a batch handler may also return `Result<Vec<Failed>, Error>`, the events that it did not handle"
)]
pub trait Outcome: Send {
    #[doc(hidden)]
    fn into_result(self) -> Result<Vec<Failed>, Failure>;
}

#[diagnostic::do_not_recommend]
impl<T: BatchAnswer, E: Into<Failure> + Send> Outcome for Result<T, E> {
    fn into_result(self) -> Result<Vec<Failed>, Failure> {
        self.map(BatchAnswer::into_failed).map_err(Into::into)
    }
}

/// What a batch handler answers where it does not fail as a whole: `()`, all events are handled, or `Vec<Failed>`, all but those.
pub trait BatchAnswer: Send {
    #[doc(hidden)]
    fn into_failed(self) -> Vec<Failed>;
}

impl BatchAnswer for () {
    fn into_failed(self) -> Vec<Failed> {
        Vec::new()
    }
}

impl BatchAnswer for Vec<Failed> {
    fn into_failed(self) -> Vec<Failed> {
        self
    }
}

/// An `async fn(event, &mut Context)` whose future is `Send`. Implemented for functions and closures; never by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler of `{E}`",
    note = "a handler is an `async fn(event: {E}, cx: &mut Context<'_, State>) -> Result<(), Error>` whose future is `Send`"
)]
pub trait Handler<'a, E, C: 'a>: Fn(E, &'a mut C) -> Self::Future {
    #[doc(hidden)]
    type Future: Future<Output = Self::Outcome> + Send + 'a;
    #[doc(hidden)]
    type Outcome: Outcome;
}

impl<'a, F, Fut, Out, E, C: 'a> Handler<'a, E, C> for F
where
    F: Fn(E, &'a mut C) -> Fut,
    Fut: Future<Output = Out> + Send + 'a,
    Out: Outcome,
{
    type Future = Fut;
    type Outcome = Out;
}

/// A handler that no longer knows its event's type.
pub(crate) trait Route<S, M>: Send + Sync {
    fn call<'a>(&'a self, cx: M::Context<'a, S>) -> BoxFuture<'a, Result<(), Failure>>
    where
        S: Sync,
        M: GroupMode;
}

pub(crate) struct FunctionRoute<H, E>(pub(crate) H, pub(crate) PhantomData<fn() -> E>);

pub(crate) struct StructRoute<H>(pub(crate) H);

/// For each mode: how a handler is called is known only where its context's type is.
macro_rules! routes {
    ($mode:ty, $context:ident) => {
        impl<H, E, S> Route<S, $mode> for FunctionRoute<H, E>
        where
            E: Event,
            S: Sync,
            H: for<'a> Handler<'a, E, $context<'a, S>> + Send + Sync + 'static,
        {
            fn call<'a>(&'a self, cx: $context<'a, S>) -> BoxFuture<'a, Result<(), Failure>> {
                Box::pin(async move {
                    let event = decode(&cx)?;
                    // Bound anew, for a lifetime as short as the borrow.
                    let mut cx = cx;
                    call(&self.0, event, &mut cx).await.map(drop)
                })
            }
        }

        impl<H: Handle<S, $mode>, S: Sync> Route<S, $mode> for StructRoute<H> {
            fn call<'a>(&'a self, cx: $context<'a, S>) -> BoxFuture<'a, Result<(), Failure>> {
                Box::pin(async move {
                    let event = decode(&cx)?;
                    let mut cx = cx;
                    self.0.handle(event, &mut cx).await.map_err(Into::into)
                })
            }
        }
    };
}

routes!(Transactional, Context);
routes!(Concurrent, Detached);

/// Ties the context's lifetime to the call.
pub(crate) async fn call<'a, H, A, C: 'a>(handler: &H, argument: A, cx: &'a mut C) -> Result<Vec<Failed>, Failure>
where
    H: Handler<'a, A, C>,
{
    handler(argument, cx).await.into_result()
}

/// A payload that does not decode is an ordinary failure.
pub(crate) fn decode<E: Event>(info: &EventInfo<'_>) -> Result<E, DecodeError> {
    E::decode(info.topic(), info.version(), &info.record.payload)
}
