use crate::failure::Failure;

/// An event of a run that its batch handler did not handle, and why. Made by [`Delivery::failed`](crate::Delivery::failed).
#[derive(Debug)]
#[must_use = "return it from the handler: an event that is not named counts as handled"]
pub struct Failed {
    pub(crate) sequence: i64,
    pub(crate) failure: Failure,
}
