//! What holds the repository as a whole to itself.

mod rules;
