//! Lets tests wait for a condition, and never for a fixed time.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Tries `attempt` every 10 ms, and later less often, until it gives `Ok`. Returns the value of
/// that.
///
/// # Panics
/// With the last error when `deadline` has passed, so that a test says what it waited for.
#[track_caller]
pub fn eventually<T, E, A, F>(deadline: Duration, mut attempt: A) -> impl Future<Output = T>
where
    E: Display,
    A: FnMut() -> F,
    F: Future<Output = Result<T, E>>,
{
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            match attempt().await {
                Ok(value) => return value,
                Err(last) => {
                    assert!(started.elapsed() < deadline, "{caller}: not within {deadline:?}: {last:#}");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }
}
