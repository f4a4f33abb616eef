//! Without the feature `opentelemetry`: spans are tracing's alone, and headers are the application's.

use tracing::Span;

use crate::{headers::Headers, record::Record};

pub(super) fn write(_: &Span, _: &mut Headers) {}

pub(super) fn detach(_: &Span, _: Option<&Headers>) {}

pub(super) fn link(_: &Span, _: &Headers, _: Option<(&Record, u32)>) {}
