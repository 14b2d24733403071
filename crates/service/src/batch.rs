//! Group commit: collects the commands submitted to a store and passes them to its one writer, batch by batch.
//!
//! There is no timer: commands that are submitted while a batch is being written form the next batch. Each process has
//! one writer, because a second one would only split the batches. The writer is a separate task, so a transaction
//! that has begun is completed even if all callers are cancelled.

use async_trait::async_trait;
use eticket_base::{
    tasks::Tasks,
    telemetry::{Span, SpanKind, TraceContext},
};
use eticket_store as store;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store is unavailable, or the outcome is unknown.
    #[error("the store does not respond")]
    Unavailable,
    /// Only this command failed; the store is available.
    #[error("{0}")]
    Failed(String),
    /// The deadline passed before the batch of the command began. The command was not run.
    #[error("the deadline passed before the command could begin")]
    Expired,
    /// The service is stopping. The command was not run.
    #[error("the service is shutting down")]
    Stopped,
}

/// Writes a batch in one transaction.
#[async_trait]
pub trait Writer<J, A>: Send + Sync + 'static {
    /// Returns the results of all commands, in the same order.
    async fn write(&self, batch: &[J]) -> Result<Vec<A>, store::Error>;
}

/// A command whose commit appears in the trace of its caller.
pub trait Traced {
    /// The step that submits the command; `None` for work in the background.
    fn trace(&self) -> Option<&TraceContext>;
}

struct Waiting<J, A> {
    command: J,
    deadline: Option<Instant>,
    reply: oneshot::Sender<Result<A, Error>>,
}

/// Queue to the one writer of a store. Clones share the queue.
pub struct Batches<J, A> {
    queue: mpsc::Sender<Waiting<J, A>>,
}

impl<J, A> Clone for Batches<J, A> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

/// Limits of the queue and of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of queued commands. Further callers wait for space until their own deadlines.
    pub queue: usize,
    /// Maximum number of commands in one transaction.
    pub batch: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { queue: 4096, batch: 512 }
    }
}

impl<J: Traced + Send + Sync + 'static, A: Send + 'static> Batches<J, A> {
    /// Starts the task of the writer. On stop it writes the queued commands and ends.
    pub fn start(service: &'static str, tasks: &Tasks, limits: Limits, writer: impl Writer<J, A>) -> Self {
        let (queue, waiting) = mpsc::channel(limits.queue);
        let stopping = tasks.stopping();
        tasks.spawn("writer", run(service, waiting, limits.batch, writer, stopping));
        Self { queue }
    }

    /// Submits a command and waits for its result. If the caller is cancelled before the batch begins, the command is
    /// not run; after that it is run in any case.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn submit(&self, command: J, deadline: Option<Instant>) -> Result<A, Error> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Waiting { command, deadline, reply }).await.map_err(|_| Error::Stopped)?;
        answer.await.unwrap_or(Err(Error::Stopped))
    }
}

async fn run<J: Traced + Send + Sync + 'static, A: Send + 'static, W: Writer<J, A>>(
    service: &'static str,
    mut waiting: mpsc::Receiver<Waiting<J, A>>,
    most: usize,
    writer: W,
    stopping: tokio_util::sync::CancellationToken,
) {
    let sizes = metrics::histogram!("eticket_batch_size", "service" => service);
    let durations = metrics::histogram!("eticket_commit_seconds", "service" => service);
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            // Queued commands are accepted commands, so they are written before the queue is closed.
            biased;
            count = waiting.recv_many(&mut batch, most) => if count == 0 { return },
            () = stopping.cancelled() => waiting.close(),
        }
        let now = Instant::now();
        let (commands, replies) = still_wanted(batch, now);
        if commands.is_empty() {
            continue;
        }
        sizes.record(commands.len() as f64);
        let spans = commit_spans(&commands);
        let answers = write(&writer, commands).await;
        durations.record(now.elapsed().as_secs_f64());
        for (answer, reply) in answers.into_iter().zip(replies) {
            // A caller that was cancelled needs no result: its retry finds the record.
            let _ = reply.send(answer);
        }
        drop(spans);
    }
}

/// Begins the span of a commit in each exported trace. One transaction writes commands of several traces, so each span
/// links the spans of the others.
fn commit_spans(commands: &[impl Traced]) -> Vec<Span> {
    let sampled = commands.iter().filter_map(Traced::trace).filter(|trace| trace.is_sampled());
    let steps: Vec<_> = sampled.map(TraceContext::child).collect();
    let begin = |(number, step): (usize, &TraceContext)| {
        let mut span = Span::start(SpanKind::Client, step, || "commit".into());
        // A caller may send a sampled trace although this process exports nothing: then there is nothing to link.
        if !span.is_recorded() {
            return span;
        }
        span.set("db.operation.name", "COMMIT");
        span.set("db.operation.batch.size", i64::try_from(commands.len()).unwrap_or(i64::MAX));
        for (_, other) in steps.iter().enumerate().filter(|(other, _)| *other != number) {
            span.link(other);
        }
        span
    };
    steps.iter().enumerate().map(begin).collect()
}

type Reply<A> = oneshot::Sender<Result<A, Error>>;

/// Drops the commands whose deadline has passed or whose caller was cancelled.
fn still_wanted<J, A>(batch: Vec<Waiting<J, A>>, now: Instant) -> (Vec<J>, Vec<Reply<A>>) {
    let mut wanted = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for Waiting { command, deadline, reply } in batch {
        if deadline.is_some_and(|deadline| deadline <= now) {
            let _ = reply.send(Err(Error::Expired));
        } else if !reply.is_closed() {
            wanted.0.push(command);
            wanted.1.push(reply);
        }
    }
    wanted
}

async fn write<J: Send + Sync + 'static, A: Send + 'static, W: Writer<J, A>>(
    writer: &W,
    commands: Vec<J>,
) -> Vec<Result<A, Error>> {
    match writer.write(&commands).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(store::Error::Unavailable(error)) => {
            tracing::warn!(error = %error, commands = commands.len(), "a batch was not written");
            commands.iter().map(|_| Err(Error::Unavailable)).collect()
        }
        Err(store::Error::Data(error)) if commands.len() == 1 => {
            tracing::error!(error = %error, "a command failed");
            metrics::counter!("eticket_command_failures_total").increment(1);
            vec![Err(Error::Failed(error.to_string()))]
        }
        // One command has invalid data. Writing each command alone keeps it from failing the others.
        Err(store::Error::Data(_)) => {
            let mut answers = Vec::with_capacity(commands.len());
            for command in commands {
                answers.extend(Box::pin(write(writer, vec![command])).await);
            }
            answers
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use tokio::sync::Semaphore;

    use super::*;

    /// Records each batch, waits for a permit, and fails for `POISON` and `OUTAGE`.
    struct Recorder {
        batches: Mutex<Vec<Vec<u32>>>,
        permits: Semaphore,
    }

    impl Traced for u32 {
        fn trace(&self) -> Option<&TraceContext> {
            None
        }
    }

    const POISON: u32 = 666;
    const OUTAGE: u32 = 503;

    #[async_trait]
    impl Writer<u32, u32> for Arc<Recorder> {
        async fn write(&self, batch: &[u32]) -> Result<Vec<u32>, store::Error> {
            self.batches.lock().unwrap().push(batch.to_vec());
            self.permits.acquire().await.unwrap().forget();
            if batch.contains(&OUTAGE) {
                return Err(store::Error::Unavailable(sqlx::Error::PoolTimedOut));
            }
            if batch.contains(&POISON) {
                return Err(store::Error::data("poison"));
            }
            Ok(batch.iter().map(|command| command * 2).collect())
        }
    }

    fn recorder(permits: usize) -> Arc<Recorder> {
        Arc::new(Recorder { batches: Mutex::default(), permits: Semaphore::new(permits) })
    }

    fn start(recorder: &Arc<Recorder>, tasks: &Tasks) -> Batches<u32, u32> {
        Batches::start("test", tasks, Limits { queue: 16, batch: 8 }, recorder.clone())
    }

    /// Submits all commands while a first command holds up the writer, then lets the writer continue.
    async fn behind_a_held_writer(commands: &[u32]) -> (Arc<Recorder>, Vec<Result<u32, Error>>) {
        let (recorder, tasks) = (recorder(0), Tasks::new());
        let batches = start(&recorder, &tasks);
        let submit = |command| {
            tokio::spawn({
                let batches = batches.clone();
                async move { batches.submit(command, None).await }
            })
        };
        let first = submit(1);
        while recorder.batches.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let rest: Vec<_> = commands.iter().map(|command| submit(*command)).collect();
        while batches.queue.capacity() > 16 - commands.len() {
            tokio::task::yield_now().await;
        }
        recorder.permits.add_permits(100);
        assert_eq!(first.await.unwrap(), Ok(2));
        let mut answers = Vec::new();
        for answer in rest {
            answers.push(answer.await.unwrap());
        }
        (recorder, answers)
    }

    #[tokio::test]
    async fn commands_submitted_during_a_commit_form_the_next_batch() {
        let (recorder, answers) = behind_a_held_writer(&[2, 3, 4]).await;
        assert_eq!(answers, [Ok(4), Ok(6), Ok(8)]);
        assert_eq!(*recorder.batches.lock().unwrap(), [vec![1], vec![2, 3, 4]]);
    }

    #[tokio::test]
    async fn a_command_with_invalid_data_fails_alone() {
        let (recorder, answers) = behind_a_held_writer(&[2, POISON, 4]).await;
        assert_eq!(answers, [Ok(4), Err(Error::Failed("poison".into())), Ok(8)]);
        assert_eq!(recorder.batches.lock().unwrap().len(), 5, "the batch, then each command alone");
    }

    #[tokio::test]
    async fn a_batch_is_not_split_if_the_store_is_unavailable() {
        let (recorder, answers) = behind_a_held_writer(&[2, OUTAGE, 4]).await;
        assert_eq!(answers, [Err(Error::Unavailable), Err(Error::Unavailable), Err(Error::Unavailable)]);
        assert_eq!(recorder.batches.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_command_past_its_deadline_is_not_run() {
        let (recorder, tasks) = (recorder(100), Tasks::new());
        let batches = start(&recorder, &tasks);
        let past = Instant::now().checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(batches.submit(1, Some(past)).await, Err(Error::Expired));
        assert!(recorder.batches.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_command_of_a_cancelled_caller_is_not_run() {
        let (reply, gone) = oneshot::channel::<Result<u32, Error>>();
        drop(gone);
        let (commands, _) = still_wanted(vec![Waiting { command: 1, deadline: None, reply }], Instant::now());
        assert!(commands.is_empty());
    }

    #[tokio::test]
    async fn commands_after_the_stop_are_refused() {
        let (recorder, tasks) = (recorder(100), Tasks::new());
        let batches = start(&recorder, &tasks);
        assert_eq!(batches.submit(1, None).await, Ok(2));
        tasks.stop().await;
        assert_eq!(batches.submit(2, None).await, Err(Error::Stopped));
    }
}
