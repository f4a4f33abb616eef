use std::sync::Arc;

use super::ConsumerBuilder;
use crate::{
    consumer::{Consumer, Settings},
    event_box::EventBox,
    group_mode::{Concurrent, GroupMode, Transactional},
    router::Router,
};

/// What a group needs beside its workers' connections: the poll, upkeep, and what is recorded outside of a batch after a death. The
/// listener has a connection outside of the pool.
const SHARED_CONNECTIONS: usize = 3;

/// What the builder was told cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is nothing to do.
    #[error("consumer group `{group}` has no handler: call `.on(handler)` before `.build()`")]
    NoHandler {
        /// The group's name.
        group: String,
    },
    /// The group's name is empty or too long.
    #[error("`{group}` ({} bytes) cannot name a consumer group: use 1 to 255 bytes without NUL", group.len())]
    GroupName {
        /// The name.
        group: String,
    },
    /// A handler's event has a topic that the log would refuse.
    #[error("`{topic}` ({} bytes) is not a topic: use 1 to 255 bytes without NUL", topic.len())]
    Topic {
        /// The topic.
        topic: &'static str,
    },
    /// A topic has a batch handler and another one.
    #[error(
        "`{topic}` has a batch handler and another one, which would have to run in step: bind one of them, or give the other a group \
         of its own"
    )]
    BatchHandlerShares {
        /// The topic.
        topic: &'static str,
    },
    /// A number or duration that must be above zero is zero.
    #[error("`{setting}` is zero: it must be above")]
    Zero {
        /// The builder's method.
        setting: &'static str,
    },
    /// The pool is too small: workers would wait for each other's connections.
    #[error(
        "the pool allows {max_connections} connections, {workers} workers need {needed}: raise `max_connections`, or lower `.workers(..)`"
    )]
    PoolTooSmall {
        /// What the pool allows.
        max_connections: u32,
        /// The workers asked for.
        workers: usize,
        /// What these need, with what the group needs beside them.
        needed: usize,
    },
}

impl<S: Send + Sync + 'static, R> ConsumerBuilder<S, R, Transactional> {
    /// Checks the settings; the log itself is looked at when the consumer runs.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Consumer, BuildError> {
        let (log, group, router, settings) = self.checked()?;
        Ok(Consumer { log, group, dispatch: Arc::new(router), detached: None, settings })
    }
}

impl<S: Send + Sync + 'static, R> ConsumerBuilder<S, R, Concurrent> {
    /// Checks the settings; the log itself is looked at when the consumer runs.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Consumer, BuildError> {
        let (log, group, router, settings) = self.checked()?;
        let router = Arc::new(router);
        Ok(Consumer { log, group, dispatch: router.clone(), detached: Some(router), settings })
    }
}

impl<S: Send + Sync + 'static, R, M: GroupMode> ConsumerBuilder<S, R, M> {
    fn checked(self) -> Result<(EventBox, String, Router<S, M>, Settings), BuildError> {
        let Self { log, group, state, routes, middleware, shared, mut settings, .. } = self;
        settings.clamp();
        if group.is_empty() || group.len() > 255 || group.contains('\0') {
            return Err(BuildError::GroupName { group });
        }
        if routes.is_empty() {
            return Err(BuildError::NoHandler { group });
        }
        if let Some(topic) = routes.keys().find(|topic| topic.is_empty() || topic.len() > 255 || topic.contains('\0')) {
            return Err(BuildError::Topic { topic });
        }
        if let Some(topic) = shared.first() {
            return Err(BuildError::BatchHandlerShares { topic });
        }
        let policy = &settings.policy;
        let zero = [
            ("workers", settings.workers == 0),
            ("concurrent", settings.concurrency == Some(0)),
            ("batch_size", policy.batch_size == 0),
            ("batch_bytes", policy.batch_bytes == 0),
            ("poll_interval", settings.poll_interval.is_zero()),
            ("handler_timeout", policy.handler_timeout.is_zero()),
            ("max_attempts", policy.max_attempts == 0),
            ("max_attempts_for", policy.topics.values().any(|topic| topic.max_attempts == Some(0))),
            ("max_deaths", policy.max_deaths == 0),
        ];
        if let Some((setting, _)) = zero.into_iter().find(|(_, zero)| *zero) {
            return Err(BuildError::Zero { setting });
        }
        let max_connections = log.pool().options().get_max_connections();
        // Rounds keep their workers for as long as handlers wait: looks have a connection of their own there.
        let beside = SHARED_CONNECTIONS + usize::from(settings.concurrency.is_some());
        let (workers, needed) = (settings.workers, settings.workers.saturating_add(beside));
        if (max_connections as usize) < needed {
            return Err(BuildError::PoolTooSmall { max_connections, workers, needed });
        }
        Ok((log, group, Router::new(state, routes, middleware), settings))
    }
}
