//! The catchall server: its settings, and how it is put together.

pub mod settings;
pub mod wiring;
