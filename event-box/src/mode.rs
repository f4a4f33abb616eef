use std::fmt;

/// How a consumer group delivers: one for all its processes, kept in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Mode {
    /// Handlers write in the delivery's transaction, each event under a savepoint of its own: one that fails is undone alone.
    #[default]
    Transactional,
    /// No savepoints: where an event fails, the batch is undone and run again without it.
    AllOrNothing,
}

impl Mode {
    /// As the table `consumer_groups` has it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::AllOrNothing => "all_or_nothing",
        }
    }

    /// `None` for a mode of a later version.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Transactional, Self::AllOrNothing].into_iter().find(|mode| mode.text() == text)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
