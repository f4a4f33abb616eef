use std::{fmt, sync::Arc};

/// Where a handler puts what it was given: the number of an order.
#[derive(Clone)]
pub struct Sink(Arc<dyn Fn(i64) + Send + Sync>);

impl Sink {
    pub fn new(sink: impl Fn(i64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    pub fn put(&self, order: i64) {
        (self.0)(order);
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}
