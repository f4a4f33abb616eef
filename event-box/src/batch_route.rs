use std::{marker::PhantomData, sync::Arc};

use futures_core::future::BoxFuture;

use crate::{
    context::Context,
    delivery::Delivery,
    event::Event,
    failed::Failed,
    failure::Failure,
    group_mode::Transactional,
    handler::{Handler, Route, call, decode},
    work::Answer,
};

/// A batch handler that no longer knows its events' type.
pub(crate) struct BatchRoute<H, E>(pub(crate) H, pub(crate) PhantomData<fn() -> E>);

impl<H, E, S> Route<S, Transactional> for BatchRoute<H, E>
where
    E: Event,
    S: Sync,
    H: for<'a> Handler<'a, Vec<Delivery<E>>, Context<'a, S>> + Send + Sync + 'static,
{
    fn call<'a>(&'a self, mut cx: Context<'a, S>) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let group: Arc<str> = cx.group().into();
            let (mut deliveries, mut undecodable) = (Vec::with_capacity(cx.records().len()), Vec::new());
            for (record, info) in cx.records().iter().zip(cx.events()) {
                match decode(&info) {
                    Ok(event) => {
                        deliveries.push(Delivery::new(event, record.clone(), group.clone(), info.attempt()));
                    }
                    Err(error) => {
                        undecodable.push(Failed { sequence: record.sequence, failure: Failure::Retry(error.into()) });
                    }
                }
            }
            if !undecodable.is_empty() {
                // What comes behind them in their keys must not be handled either: the engine asks again, for the others.
                *cx.answer() = Answer { failed: undecodable, undecodable: true };
                return Ok(());
            }
            let failed = call(&self.0, deliveries, &mut cx.again()).await?;
            cx.answer().failed = failed;
            Ok(())
        })
    }
}
