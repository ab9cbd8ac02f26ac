//! The server as its users meet it: the program itself, started as a process of its own, driven
//! over HTTP, stopped and killed, with a real PostgreSQL and a real Redis.
//!
//! | file | what must hold |
//! | --- | --- |
//! | `first_steps` | every store counts, judges, lists and measures alike |
//! | `bulk` | the largest bodies count whole on every store |
//! | `restarts` | a restart loses nothing, not even a reader's place in a list |
//! | `keys` | what is sent again under its key counts once |
//! | `kills` | what was acknowledged outlives `kill -9` |
//! | `ledger` | what came in is accounted for, whatever befalls it |
//! | `measured` | metrics stand in the docs, and are as many for a million domains as for one |
//! | `clock` | a clock behind the newest record is told |
//! | `drain` | what was acknowledged outlives SIGTERM, which is obeyed |
//! | `disk_full` | a disk that is nearly full takes no event, and loses none |
//! | `traces` | a request, the group that carried it and its SQL are one linked trace |
//! | `two_servers` | two servers on one database are one counter |
//! | `many_connections` | ten thousand connections, started with room for a thousand |
//! | `bad_input` | each wrong request gets its own answer and changes nothing |
//! | `page` | the page at `/` shows in a browser what the server does |
//! | `postgres_faults` | whatever befalls PostgreSQL, what is sent again counts once |
//! | `overload` | who comes behind one that waits too long is refused at once |
//! | `redis_faults` | whatever befalls Redis, no client hears of it |
//! | `startup` | a server that cannot serve says why in one line, and ends |
//! | `secrets` | no password is ever printed |
//! | `shadow` | a second store counts the same, and one can move to it |
//! | `stack` | what the server is wired to keeps the promises of the port |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod bad_input;
mod bulk;
mod clock;
mod described;
mod disk_full;
mod drain;
mod first_steps;
mod keys;
mod kills;
mod ledger;
mod many_connections;
mod measured;
mod overload;
mod page;
mod postgres_faults;
mod redis_faults;
mod restarts;
mod secrets;
mod shadow;
mod spool;
mod stack;
mod startup;
mod support;
mod traces;
mod two_servers;
