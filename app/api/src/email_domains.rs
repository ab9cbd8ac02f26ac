//! The context `email_domains` over HTTP.

pub(crate) mod dto;
pub(crate) mod handlers;
mod request;
