//! The writer of the log. A thread of its own writes to standard error, so that a pipe that nobody reads blocks that thread
//! only; what does not fit into a bounded queue is dropped and counted.
//!
//! tracing-appender does the same, but its guard writes to standard output, and may block there, when the queue is full at
//! the end of the process.

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

/// Bytes that wait to be written, at most.
pub(super) const MOST_BYTES: usize = 4 << 20;

/// Says in the log that so many lines were dropped before this place. The line ends with a line feed.
pub(super) type Notice = fn(u64) -> String;

enum WriterMessage {
    Write(Vec<u8>),
    /// Everything ordered before has been written.
    Flush(mpsc::Sender<()>),
}

#[derive(Debug, Default)]
struct Counts {
    queued_bytes: AtomicUsize,
    /// Since the last notice.
    dropped: AtomicU64,
}

/// Queues lines for the thread that writes. Clones write to the same place.
#[derive(Debug, Clone)]
pub(super) struct LogWriter {
    orders: mpsc::Sender<WriterMessage>,
    counts: Arc<Counts>,
    most_bytes: usize,
}

impl LogWriter {
    /// Starts the thread, which runs until the process ends.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(out: impl Write + Send + 'static, most_bytes: usize, notice: Notice) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel();
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all(out, &queue, &shared, notice))?;
        Ok(Self { orders, counts, most_bytes })
    }

    /// Queues one line, or drops it. Never blocks.
    pub(super) fn queue(&self, line: &[u8]) {
        let Counts { queued_bytes, dropped } = &*self.counts;
        let before = queued_bytes.fetch_add(line.len(), Ordering::Relaxed);
        if before + line.len() <= self.most_bytes && self.orders.send(WriterMessage::Write(line.to_vec())).is_ok() {
            return;
        }
        queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        dropped.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(super::DROPPED).increment(1);
    }

    /// Waits until what is queued now has been written, but not longer than this.
    pub(super) fn flush(&self, patience: Duration) {
        let (done, written) = mpsc::channel();
        if self.orders.send(WriterMessage::Flush(done)).is_ok() {
            written.recv_timeout(patience).ok();
        }
    }
}

fn write_all(mut out: impl Write, queue: &mpsc::Receiver<WriterMessage>, counts: &Counts, notice: Notice) {
    while let Ok(order) = queue.recv() {
        let dropped = counts.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            // Where nobody reads the log any more, serving goes on.
            out.write_all(notice(dropped).as_bytes()).ok();
        }
        match order {
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

/// One event of the log: tracing-subscriber writes each with a single call.
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

    /// Blocks each write until it may go on, as a full pipe does.
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
    fn what_does_not_fit_is_dropped_and_counted() {
        let (reader, go_on) = mpsc::channel();
        let written = Arc::new(Mutex::new(String::new()));
        let pipe = Pipe { go_on, written: written.clone() };
        let log = LogWriter::start(pipe, 40, |count| format!("{count} dropped\n")).expect("a thread");
        // Ten bytes each: four fit, whether or not the thread has taken the first one already.
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
        // In one notice, or in several where the thread wrote one between two of the lines.
        let dropped = lines.iter().filter_map(|line| line.strip_suffix(" dropped")?.parse::<u32>().ok());
        assert_eq!(dropped.sum::<u32>(), 3, "{text}");
        log.queue(b"line 0007\n");
        log.flush(SOON);
        assert_eq!(*written.lock().expect("no panic"), "line 0007\n", "there is room again");
    }

    #[test]
    fn a_log_that_cannot_be_written_holds_nobody_up() {
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
