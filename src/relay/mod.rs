//! relay
pub mod position;
pub mod startup;
pub mod state;
