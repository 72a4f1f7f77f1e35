//! relay
pub mod compare;
pub mod position;
pub mod startup;
pub mod state;
