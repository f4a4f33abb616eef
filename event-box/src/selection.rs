use sqlx::PgConnection;

use crate::{
    consumer_group::{ConsumerGroup, GroupError},
    schema::Schema,
};

/// Which parked events a decision concerns: see [`ConsumerGroup::requeue`] and [`ConsumerGroup::skip`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// The parked event of this sequence, whatever its state.
    Event(i64),
    /// The dead letters of this partition key.
    Key(String),
    /// The dead letters of this topic.
    Topic(String),
    /// All dead letters of the group.
    All,
}

/// A parked event that was chosen.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) partition: i16,
    pub(crate) sequence: i64,
    pub(crate) partition_key: Option<String>,
}

impl Selection {
    async fn find(
        &self,
        connection: &mut PgConnection,
        schema: &Schema,
        group: &str,
        partitions: &[i16],
    ) -> Result<Vec<Chosen>, sqlx::Error> {
        let (sequence, key, topic) = match self {
            Self::Event(sequence) => (Some(*sequence), None, None),
            Self::Key(key) => (None, Some(key.as_str()), None),
            Self::Topic(topic) => (None, None, Some(topic.as_str())),
            Self::All => (None, None, None),
        };
        sqlx::query_as!(
            Chosen,
            r#"select partition, sequence, partition_key from event_box.parked
               where group_name = $1 and partition = any($2)
                 and ($3::bigint is null or sequence = $3)
                 and ($3 is not null or dead_at is not null)
                 and ($4::text is null or partition_key = $4)
                 and ($5::text is null or topic = $5)
               order by sequence"#,
            group,
            partitions,
            sequence,
            key,
            topic,
        )
        .fetch_all(schema.over(connection))
        .await
    }
}

impl ConsumerGroup {
    /// Finds what is chosen under the lock of its partitions, which waits for the batches in hand.
    ///
    /// The caller commits, also where nothing is found: a claim that is rolled back looks like the death of whoever had it.
    pub(crate) async fn choose(
        &self,
        connection: &mut PgConnection,
        which: &Selection,
    ) -> Result<Vec<Chosen>, sqlx::Error> {
        let schema = self.log.schema();
        let every: Vec<i16> = (0..64).collect();
        let found = which.find(connection, schema, &self.name, &every).await?;
        if found.is_empty() {
            return Ok(found);
        }
        let mut partitions: Vec<_> = found.iter().map(|chosen| chosen.partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        sqlx::query!(
            r#"select partition from event_box.cursors where group_name = $1 and partition = any($2)
               order by partition for update"#,
            self.name,
            &partitions,
        )
        .fetch_all(schema.over(&mut *connection))
        .await?;
        which.find(connection, schema, &self.name, &partitions).await
    }

    /// Tells a group without such events from one that does not exist, and says which event is not parked.
    pub(crate) async fn check_found(
        &self,
        connection: &mut PgConnection,
        which: &Selection,
        found: usize,
    ) -> Result<(), GroupError> {
        if found > 0 {
            return Ok(());
        }
        self.check_exists(connection).await?;
        match which {
            Selection::Event(sequence) => Err(GroupError::NotParked { group: self.name.clone(), sequence: *sequence }),
            _ => Ok(()),
        }
    }
}
