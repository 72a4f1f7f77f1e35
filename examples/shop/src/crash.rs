//! Named places at which a process can be made to die, for the tests of what comes after.

/// Ends the process on the spot, as `kill -9` would, when `SHOP_CRASH_AT` names this place.
pub fn point(name: &str) {
    if std::env::var("SHOP_CRASH_AT").is_ok_and(|wanted| wanted == name) {
        eprintln!("crash point {name}");
        std::process::abort();
    }
}
