//! The context `email_domains` over HTTP.

pub(crate) mod dto;
pub(crate) mod handlers;
mod live;
mod request;
mod tail;

pub(crate) use live::Live;
pub(crate) use tail::{Dropped as TailDropped, Skipped as TailSkipped, Tail, Told as TailEvent};

#[cfg(feature = "fuzz")]
pub use request::fuzz;

#[cfg(feature = "bench")]
pub use request::count_lines;
