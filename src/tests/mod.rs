//! Tests of the repository itself: they compare what its files say about each other.

mod imports;
mod modules;
mod rules;
