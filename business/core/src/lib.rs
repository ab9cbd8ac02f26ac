//! The rules of catchall.
//!
//! Here live what an event is, when a domain is a catch-all, and the ports the rules need:
//! nothing here knows of HTTP, SQL, files or threads. The crate depends on none of ours and on
//! no runtime; whoever implements a port depends on it.
//!
//! Start with [`email_domains::verdict`], the rule everything else exists for, then
//! [`email_domains::ports`], what a store promises.

pub mod email_domains;
pub mod kernel;
