//! postgres

pub mod catalog;
