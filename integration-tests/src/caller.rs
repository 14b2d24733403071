//! Drives grpc-go under the service config that is shipped with the protos, to test how a client library handles
//! responses.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{Arc, Mutex},
};

use prost::Message;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::oneshot,
    task::JoinHandle,
};

use crate::binary::root;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<(i32, Vec<u8>)>>>>;

/// A client process with its own channel.
pub struct Caller {
    child: Child,
    input: ChildStdin,
    waiting: Waiting,
    next: u64,
    reading: JoinHandle<()>,
}

impl Caller {
    /// Starts a client that connects to the first of these addresses that accepts, and to another one when that
    /// connection ends.
    ///
    /// # Panics
    /// If the program is not in the path.
    pub fn start(addresses: &[&str]) -> Self {
        let config = root().join("proto/service-config.json");
        let mut command = Command::new("eticket-caller");
        command.arg(config).args(addresses).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("cargo xtask test builds eticket-caller");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let waiting = Waiting::default();
        let answered = waiting.clone();
        let reading = tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let (number, code, body) = parse(&line).unwrap_or_else(|| panic!("no answer: {line:?}"));
                let waiting = answered.lock().expect("not poisoned").remove(&number);
                // The call may have been cancelled.
                waiting.expect("each call is answered once").send((code, body)).ok();
            }
        });
        Self { child, input, waiting, next: 0, reading }
    }

    /// Calls a unary method, named like `eticket.ticket.v1.TicketService/GetTicket`. Returns the final result of the
    /// client library: the response, or the code after all its attempts.
    pub async fn call<A: Message + Default>(
        &mut self,
        method: &str,
        request: &dyn Encode,
    ) -> impl Future<Output = Result<A, tonic::Code>> + use<A> {
        let (answer, answered) = oneshot::channel();
        self.next += 1;
        self.waiting.lock().expect("not poisoned").insert(self.next, answer);
        let body = request.encoded().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let line = format!("{} {method} {body}\n", self.next);
        self.input.write_all(line.as_bytes()).await.expect("the client takes calls");
        async move {
            match answered.await.expect("the client answers") {
                (0, body) => Ok(A::decode(body.as_slice()).expect("a message of its type")),
                (code, _) => Err(code.into()),
            }
        }
    }

    /// Closes the client's input and waits until it exits.
    ///
    /// # Panics
    /// If it does not exit cleanly.
    pub async fn finish(mut self) {
        drop(self.input);
        assert!(self.child.wait().await.expect("a child can be waited for").success());
        self.reading.await.expect("no answer is malformed");
    }
}

/// A message of any type.
pub trait Encode: Sync {
    fn encoded(&self) -> Vec<u8>;
}

impl<M: Message> Encode for M {
    fn encoded(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

fn parse(line: &str) -> Option<(u64, i32, Vec<u8>)> {
    let mut words = line.split(' ');
    let (number, code) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let body = words.next()?.as_bytes().chunks(2);
    let body = body.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    Some((number, code, body.collect::<Option<_>>()?))
}
