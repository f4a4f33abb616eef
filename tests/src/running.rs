use event_box::{Consumer, RunError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::PATIENCE;

/// A consumer in the background.
#[derive(Debug)]
pub struct Running {
    /// Stops it.
    pub shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    /// Runs the consumer until [`stop`](Self::stop).
    pub fn start(consumer: Consumer) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(consumer.run(shutdown.clone()));
        Self { shutdown, task }
    }

    /// Stops it and answers what `run` did.
    pub async fn stop(self) -> Result<(), RunError> {
        self.shutdown.cancel();
        self.ended().await
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> Result<(), RunError> {
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the consumer ends in time")
            .expect("the consumer does not panic")
    }
}
