//! Tests of the repository itself: what its files say of each other.

mod imports;
mod modules;
mod rules;
