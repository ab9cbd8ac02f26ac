//! The catchall server: its settings, how it is put together, and its commands.

mod args;
pub mod cli;
pub mod settings;
pub mod wiring;
