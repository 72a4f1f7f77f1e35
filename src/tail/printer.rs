//! Standard output, on a thread of its own: a reader that stands still holds up nothing but the
//! printing.

use std::{
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
    thread,
};

use tokio::{
    io::Interest,
    net::unix::pipe,
    sync::{mpsc, oneshot},
};

use crate::{Code, Error, Result};

/// Chunks that may wait for the reader.
const CHUNKS: usize = 4;

/// The thread that prints. It ends with its last sender, or with the reader.
pub(super) struct Printer {
    /// How it ended. `None` once that was taken.
    ended: Option<oneshot::Receiver<io::Result<()>>>,
    outcome: Result<()>,
}

impl Printer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Code::Internal`]: the system gives no thread.
    pub(super) fn start() -> Result<(mpsc::Sender<Vec<u8>>, Self)> {
        Self::onto(io::stdout())
    }

    fn onto(out: impl Write + Send + 'static) -> Result<(mpsc::Sender<Vec<u8>>, Self)> {
        let (chunks, waiting) = mpsc::channel(CHUNKS);
        let (end, ended) = oneshot::channel();
        let print = move || {
            // Nobody may wait for the outcome any more.
            let _ = end.send(print(waiting, out));
        };
        let started = thread::Builder::new().name("printer".to_owned()).spawn(print);
        started.map_err(|error| Error::new(Code::Internal, "cannot start threads").because(error))?;
        Ok((chunks, Self { ended: Some(ended), outcome: Ok(()) }))
    }

    /// Resolves when nothing more can be printed, also while nothing is printed. Cancel-safe.
    pub(super) async fn reader_left(&mut self) {
        tokio::select! {
            () = self.wait() => {}
            () = hangup() => {}
        }
    }

    /// Waits until everything is printed, or nothing more can be. The senders must be gone.
    ///
    /// # Errors
    /// [`Code::Internal`]: standard output takes nothing, for another reason than that its reader
    /// went away.
    pub(super) async fn finished(&mut self) -> Result<()> {
        self.wait().await;
        std::mem::replace(&mut self.outcome, Ok(()))
    }

    async fn wait(&mut self) {
        if let Some(ended) = &mut self.ended {
            // A thread that is gone without a word has printed what it could.
            let outcome = ended.await.unwrap_or(Ok(()));
            self.outcome = match outcome {
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    Err(Error::new(Code::Internal, "writing to standard output").because(error))
                }
                _ => Ok(()),
            };
            self.ended = None;
        }
    }
}

fn print(mut chunks: mpsc::Receiver<Vec<u8>>, mut out: impl Write) -> io::Result<()> {
    while let Some(chunk) = chunks.blocking_recv() {
        out.write_all(&chunk)?;
        out.flush()?;
    }
    Ok(())
}

/// Resolves when the reader of a pipe goes away. It never resolves where the system does not tell,
/// such as for a file.
async fn hangup() {
    // The writing thread goes on to block: nothing is set on the file that other programs may share.
    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(pipe::Sender::from_owned_fd_unchecked);
    if let Ok(stdout) = stdout
        && stdout.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is written, until it fails.
    #[derive(Clone, Default)]
    struct Paper {
        written: Arc<Mutex<Vec<u8>>>,
        fails: Option<ErrorKind>,
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.fails {
                Some(kind) => Err(kind.into()),
                None => self.written.lock().unwrap().write(bytes),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn everything_is_printed_in_order_before_it_ends() {
        let paper = Paper::default();
        let (chunks, mut printer) = Printer::onto(paper.clone()).unwrap();
        for chunk in ["a\n", "b\n", "c\n"] {
            chunks.send(chunk.as_bytes().to_vec()).await.unwrap();
        }
        drop(chunks);
        printer.finished().await.unwrap();
        assert_eq!(*paper.written.lock().unwrap(), b"a\nb\nc\n");
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is_one() {
        for (kind, code) in [(ErrorKind::BrokenPipe, None), (ErrorKind::StorageFull, Some(Code::Internal))] {
            let (chunks, mut printer) = Printer::onto(Paper { fails: Some(kind), ..Paper::default() }).unwrap();
            chunks.send(b"a\n".to_vec()).await.unwrap();
            printer.reader_left().await;
            assert_eq!(printer.finished().await.err().map(|error| error.code()), code);
        }
    }
}
