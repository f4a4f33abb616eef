use std::borrow::Cow;

use event_box::{DecodeError, Event};

const LONGEST: &str = match std::str::from_utf8(&[b't'; 255]) {
    Ok(topic) => topic,
    Err(_) => panic!("ASCII"),
};

/// Whatever its bytes are: as somebody may write who implements `Event` by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) topic: &'static str,
    pub(super) key: Option<String>,
    pub(super) payload: Vec<u8>,
}

impl Event for Raw {
    const TOPICS: &'static [&'static str] = &[
        "raw",
        "'; drop table event_box.events; --",
        "\"quoted\" \\ $1 %s {}",
        "*",
        "- *",
        "7 raw",
        "n\u{e4}me \u{1F600} \u{202E}",
        "\n\t\r",
        " ",
        "event_box.events",
        LONGEST,
    ];

    fn topic(&self) -> &'static str {
        self.topic
    }

    fn partition_key(&self) -> Option<Cow<'_, str>> {
        self.key.as_deref().map(Into::into)
    }

    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        Ok(self.payload.clone())
    }

    fn decode(topic: &str, _: i16, payload: &[u8]) -> Result<Self, DecodeError> {
        let known = Self::TOPICS.iter().find(|known| **known == topic);
        let topic = known.ok_or_else(|| DecodeError::Topic { topic: topic.to_owned(), known: Self::TOPICS })?;
        Ok(Self { topic, key: None, payload: payload.to_vec() })
    }
}
