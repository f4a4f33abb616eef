use std::marker::PhantomData;

use futures_core::future::BoxFuture;

use crate::{
    context::{Context, Delivery},
    event::Event,
    failure::Failure,
};

/// A handler with a name and fields of its own, bound by [`ConsumerBuilder::handle`](crate::ConsumerBuilder::handle). Functions and
/// closures are bound by [`ConsumerBuilder::on`](crate::ConsumerBuilder::on) and need no trait.
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
pub trait Handle<S = ()>: Send + Sync + 'static {
    /// What it handles.
    type Event: Event;
    /// How it fails: any error, or [`Failure`] to say more.
    type Error: Into<Failure>;

    /// Handles one event, in the delivery's transaction. Called for one event of a key at a time.
    ///
    /// # Errors
    /// What the handler wrote is undone, and the event is tried again, rejected or snoozed as [`Failure`] says.
    fn handle(
        &self,
        event: Self::Event,
        cx: &mut Context<'_, S>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// What a handler returns.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not a handler's result",
    note = "a handler returns `Result<(), Error>`, where `Error` is `event_box::Failure`, `event_box::BoxError` or any `std::error::Error + Send + Sync`"
)]
pub trait Outcome: Send {
    #[doc(hidden)]
    fn into_result(self) -> Result<(), Failure>;
}

#[diagnostic::do_not_recommend]
impl<E: Into<Failure> + Send> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), Failure> {
        self.map_err(Into::into)
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
pub(crate) trait Route<S>: Send + Sync {
    fn call<'a>(&'a self, delivery: Delivery<'a>, state: &'a S) -> BoxFuture<'a, Result<(), Failure>>;
}

pub(crate) struct FunctionRoute<H, E>(pub(crate) H, pub(crate) PhantomData<fn() -> E>);

impl<H, E, S> Route<S> for FunctionRoute<H, E>
where
    E: Event,
    S: Send + Sync + 'static,
    H: for<'a> Handler<'a, E, Context<'a, S>> + Send + Sync + 'static,
{
    fn call<'a>(&'a self, delivery: Delivery<'a>, state: &'a S) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let event = decode(&delivery)?;
            let mut cx = Context::new(delivery, state);
            call(&self.0, event, &mut cx).await
        })
    }
}

/// Ties the context's lifetime to the call.
async fn call<'a, H, E, S: 'a>(handler: &H, event: E, cx: &'a mut Context<'a, S>) -> Result<(), Failure>
where
    H: Handler<'a, E, Context<'a, S>>,
{
    handler(event, cx).await.into_result()
}

pub(crate) struct StructRoute<H>(pub(crate) H);

impl<H: Handle<S>, S: Send + Sync + 'static> Route<S> for StructRoute<H> {
    fn call<'a>(&'a self, delivery: Delivery<'a>, state: &'a S) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let event = decode(&delivery)?;
            self.0.handle(event, &mut Context::new(delivery, state)).await.map_err(Into::into)
        })
    }
}

fn decode<E: Event>(delivery: &Delivery<'_>) -> Result<E, Failure> {
    let record = delivery.record;
    Ok(E::decode(&record.topic, record.version, &record.payload)?)
}
