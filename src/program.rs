//! A program that prints a secret: a password, a token. It runs on a thread that may block.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// No secret is longer. Tokens of clouds have about 2,000 bytes.
const PRINTED_MAX: u64 = 64 * 1024;

/// How often the end of a program is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// What the program prints within `bound`. It goes nowhere else, whatever it is.
///
/// # Errors
/// What went wrong, in words that begin with the program: its arguments may hold secrets, and are
/// not named.
pub(crate) fn printed(line: &[String], bound: Duration) -> Result<String, String> {
    let Some((program, arguments)) = line.split_first() else { return Err("no program is named".to_owned()) };
    let failed = |what: String| format!("{program} {what}");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let deadline = Instant::now() + bound;
    let child = command.spawn().map_err(|error| failed(format!("cannot be run: {error}")))?;
    let mut child = Killed(child);
    let (told, text) = mpsc::sync_channel(1);
    let output = child.0.stdout.take();
    let reading = thread::Builder::new().name("printed".to_owned()).spawn(move || {
        let mut text = String::new();
        let read = output.map_or(Ok(0), |output| output.take(PRINTED_MAX).read_to_string(&mut text));
        // Nobody waits any more once the time is up.
        let _ = told.send(read.map(|_| text));
    });
    reading.map_err(|error| failed(format!("cannot be read: {error}")))?;
    let read = text.recv_timeout(bound).map_err(|_| failed("printed nothing in time".to_owned()))?;
    let text = read.map_err(|error| failed(format!("printed something else than text: {error}")))?;
    let status = loop {
        match child.0.try_wait().map_err(|error| failed(format!("was lost: {error}")))? {
            Some(status) => break status,
            // It may have closed its output and go on.
            None if Instant::now() >= deadline => return Err(failed("did not end in time".to_owned())),
            None => thread::sleep(LOOK),
        }
    };
    if !status.success() {
        return Err(failed(format!("ended with {status}; run it as the daemon's user to see why")));
    }
    Ok(text)
}

/// A program that does not outlive the wait for it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and only its status is fetched.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, bound: u64) -> Result<String, String> {
        printed(&["sh", "-c", script].map(str::to_owned), Duration::from_millis(bound))
    }

    #[test]
    fn what_a_program_prints_is_returned_and_nothing_of_it_is_in_an_error() {
        assert_eq!(sh("echo hello; echo noise >&2", 10_000).unwrap(), "hello\n");
        let error = sh("echo s3cret; exit 3", 10_000).unwrap_err();
        assert!(error.starts_with("sh ended with exit status: 3") && !error.contains("s3cret"), "{error}");
        assert!(printed(&["/no/such/program".to_owned()], Duration::ZERO).unwrap_err().contains("cannot be run"));
        assert!(printed(&[], Duration::ZERO).is_err());
    }

    #[test]
    fn a_program_that_is_late_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let late = folder.path().join("late");
        let script = format!("sleep 1; touch {}", late.display());
        assert!(sh(&script, 50).unwrap_err().contains("in time"));
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!late.exists(), "it went on");
    }

    #[test]
    fn a_program_that_closes_its_output_and_goes_on_is_not_waited_for() {
        assert!(sh("echo s3cret; exec >&-; sleep 60", 200).unwrap_err().contains("did not end in time"));
    }

    #[test]
    fn a_program_that_prints_without_end_is_cut_off() {
        let error = sh("yes s3cret", 10_000).unwrap_err();
        assert!(error.contains("ended with") && !error.contains("s3cret"), "{error}");
    }
}
