//! The lanes of an ordered group: each has one owner at a time, and an order that holds over
//! crashes, disconnects and changes of the members.

pub(crate) mod assignment;
pub(crate) mod book;
pub(crate) mod handle;
pub(crate) mod keeper;
pub(crate) mod members;
pub(crate) mod nudge;
mod ownership;
pub(crate) mod recovery;
pub(crate) mod store;
