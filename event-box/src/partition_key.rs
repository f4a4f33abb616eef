use std::{borrow::Cow, rc::Rc, sync::Arc};

use uuid::Uuid;

/// A type whose values can key an event: strings, integers, [`Uuid`], and `Option` of them, where `None` means no order.
///
/// Floats are none, as equal ones may differ in their text. Implement it for a newtype, or for any type that holds the key, to name that
/// as one:
///
/// ```
/// use std::borrow::Cow;
/// use event_box::PartitionKey;
///
/// struct CustomerId(i64);
///
/// impl PartitionKey for CustomerId {
///     fn partition_key(&self) -> Option<Cow<'_, str>> {
///         self.0.partition_key()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a partition key",
    label = "not a partition key",
    note = "a partition key is a string, an integer, a `Uuid`, an `Option` of these, or a newtype that implements `event_box::PartitionKey`"
)]
pub trait PartitionKey {
    /// The key's text, the same for equal keys, 1 to 512 bytes; `None` means no order.
    fn partition_key(&self) -> Option<Cow<'_, str>>;
}

macro_rules! displayed {
    ($($type:ty),*) => {$(
        impl PartitionKey for $type {
            fn partition_key(&self) -> Option<Cow<'_, str>> {
                Some(Cow::Owned(self.to_string()))
            }
        }
    )*};
}
displayed!(i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, Uuid);

impl PartitionKey for str {
    fn partition_key(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self))
    }
}

impl PartitionKey for String {
    fn partition_key(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self))
    }
}

impl<K: PartitionKey> PartitionKey for Option<K> {
    fn partition_key(&self) -> Option<Cow<'_, str>> {
        self.as_ref().and_then(PartitionKey::partition_key)
    }
}

macro_rules! pointed {
    ($($pointer:ty),*) => {$(
        impl<K: PartitionKey + ?Sized> PartitionKey for $pointer {
            fn partition_key(&self) -> Option<Cow<'_, str>> {
                (**self).partition_key()
            }
        }
    )*};
}
pointed!(&K, Box<K>, Rc<K>, Arc<K>);

impl PartitionKey for Cow<'_, str> {
    fn partition_key(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self))
    }
}
