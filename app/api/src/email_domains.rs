//! The context `email_domains` over HTTP.

pub(crate) mod dto;
pub(crate) mod handlers;
mod request;

#[cfg(feature = "fuzz")]
pub use request::fuzz;

#[cfg(feature = "bench")]
pub use request::count_lines;
