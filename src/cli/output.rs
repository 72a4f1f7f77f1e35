//! What a command writes for its reader.

use std::io::{self, ErrorKind, Write};

use crate::{Code, Error, Result};

/// Writes to standard output. A reader that has gone away (`outboxd check | head -1`) is no error.
///
/// # Errors
/// [`Code::Internal`]: the output cannot be written for another reason, such as a full disk.
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = io::stdout().lock();
    judge(write(&mut out).and_then(|()| out.flush()))
}

/// Writes a line to standard error, if anybody reads that.
pub(super) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn judge(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::new(Code::Internal, "writing to standard output").because(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_went_away_is_no_error() {
        assert!(judge(Ok(())).is_ok());
        assert!(judge(Err(ErrorKind::BrokenPipe.into())).is_ok());
        assert_eq!(judge(Err(ErrorKind::StorageFull.into())).unwrap_err().code(), Code::Internal);
    }
}
