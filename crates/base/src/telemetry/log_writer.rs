//! The log writer. A dedicated thread writes to standard error, so that a full pipe blocks only that thread. Lines that
//! do not fit into the bounded queue are dropped and counted.
//!
//! tracing-appender does the same, but if the queue is full at the end of the process, its guard writes to standard
//! output and may block there.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Maximum size of the queue in bytes.
pub(super) const MOST_BYTES: usize = 4 << 20;

/// Formats the notice that this many lines were dropped here. It ends with a line feed.
pub(super) type Notice = fn(u64) -> String;

enum WriterMessage {
    Write(Vec<u8>),
    /// Signals that everything queued before has been written.
    Flush(mpsc::Sender<()>),
}

#[derive(Debug, Default)]
struct Counts {
    queued_bytes: AtomicUsize,
    /// Lines dropped since the last notice.
    dropped: AtomicU64,
}

/// Queues lines for the writer thread. Clones use the same queue.
#[derive(Debug, Clone)]
pub(super) struct LogWriter {
    sender: mpsc::Sender<WriterMessage>,
    counts: Arc<Counts>,
    most_bytes: usize,
}

impl LogWriter {
    /// Starts the thread, which runs until the process ends.
    ///
    /// # Errors
    /// Fails if the system cannot start a thread.
    pub(super) fn start(out: impl Write + Send + 'static, most_bytes: usize, notice: Notice) -> io::Result<Self> {
        let (sender, queue) = mpsc::channel();
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all(out, &queue, &shared, notice))?;
        Ok(Self { sender, counts, most_bytes })
    }

    /// Queues one line, or drops it. Never blocks.
    pub(super) fn queue(&self, line: &[u8]) {
        let Counts { queued_bytes, dropped } = &*self.counts;
        let before = queued_bytes.fetch_add(line.len(), Ordering::Relaxed);
        if before + line.len() <= self.most_bytes && self.sender.send(WriterMessage::Write(line.to_vec())).is_ok() {
            return;
        }
        queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        dropped.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(super::DROPPED).increment(1);
    }

    /// Waits until the lines queued so far have been written, at most `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let (done, written) = mpsc::channel();
        if self.sender.send(WriterMessage::Flush(done)).is_ok() {
            written.recv_timeout(timeout).ok();
        }
    }
}

fn write_all(mut out: impl Write, queue: &mpsc::Receiver<WriterMessage>, counts: &Counts, notice: Notice) {
    while let Ok(message) = queue.recv() {
        let dropped = counts.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            // Errors are ignored: the process serves on without a reader of the log.
            out.write_all(notice(dropped).as_bytes()).ok();
        }
        match message {
            WriterMessage::Write(line) => {
                out.write_all(&line).ok();
                counts.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            WriterMessage::Flush(done) => {
                out.flush().ok();
                done.send(()).ok();
            }
        }
    }
}

/// One event of the log: tracing-subscriber writes each event with a single call.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// Blocks each write until it is released, as a full pipe does.
    struct Pipe {
        go_on: mpsc::Receiver<()>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.go_on.recv().ok();
            self.written.lock().expect("no panic").push_str(str::from_utf8(bytes).expect("text"));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted() {
        let (reader, go_on) = mpsc::channel();
        let written = Arc::new(Mutex::new(String::new()));
        let pipe = Pipe { go_on, written: written.clone() };
        let log = LogWriter::start(pipe, 40, |count| format!("{count} dropped\n")).expect("a thread");
        // Ten bytes each: four lines fit, whether or not the thread has already taken the first.
        for number in 0..7 {
            log.queue(format!("line {number:04}\n").as_bytes());
        }
        log.flush(Duration::ZERO);
        drop(reader);
        log.flush(SOON);
        let text = std::mem::take(&mut *written.lock().expect("no panic"));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.iter().filter(|line| line.starts_with("line")).count(), 4, "{text}");
        assert!(lines.contains(&"line 0003"), "{text}");
        // One notice, or several if the thread wrote one between two lines.
        let dropped = lines.iter().filter_map(|line| line.strip_suffix(" dropped")?.parse::<u32>().ok());
        assert_eq!(dropped.sum::<u32>(), 3, "{text}");
        log.queue(b"line 0007\n");
        log.flush(SOON);
        assert_eq!(*written.lock().expect("no panic"), "line 0007\n", "there is room again");
    }

    #[test]
    fn write_errors_do_not_block_or_drop_lines() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let log = LogWriter::start(Closed, 10, |_| String::new()).expect("a thread");
        for _ in 0..3 {
            log.queue(b"123456789\n");
            log.flush(SOON);
        }
        assert_eq!(log.counts.dropped.load(Ordering::Relaxed), 0);
    }
}
