#[cfg(feature = "opentelemetry")]
mod several;
#[cfg(not(feature = "opentelemetry"))]
mod without;
