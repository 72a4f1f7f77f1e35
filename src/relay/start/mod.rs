//! Carries out the steps of [`Startup`](super::startup::Startup) on real servers.

mod steps;
mod walk;

pub(super) use walk::Start;
pub(super) use walk::Started;
