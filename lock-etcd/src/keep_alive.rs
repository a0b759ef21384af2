//! The streams on which leases are kept alive.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::sleep_until;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::client::{Client, method};
use crate::fault::Fault;
use crate::messages::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};

/// How many streams there are. A member that is not the leader passes the questions of one stream
/// on one after the other.
pub(crate) const STREAMS: usize = 8;

/// What is known of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alive {
    /// It has its whole ttl again, by the word of the leader of this term.
    Yes {
        /// An instant before the question was sent.
        sent: Instant,
        term: u64,
    },
    /// There is no such lease.
    No,
}

/// Streams that open themselves when they are needed.
pub(crate) struct KeepAlives {
    streams: Vec<UnboundedSender<Ask>>,
}

struct Ask {
    lease: i64,
    sent: Instant,
    tell: oneshot::Sender<Result<Alive, Fault>>,
}

impl KeepAlives {
    /// The streams, and what has to run for them.
    pub(crate) fn new(client: &Arc<Client>) -> (KeepAlives, Vec<impl Future<Output = ()> + use<>>) {
        let (streams, tasks) = (0..STREAMS)
            .map(|_| {
                let (asks, asked) = unbounded_channel();
                (asks, run(Arc::clone(client), asked))
            })
            .unzip();
        (KeepAlives { streams }, tasks)
    }

    /// Asks for the whole ttl of a lease again, on one of the streams. The question is on its way
    /// when this returns.
    pub(crate) fn ask(
        &self,
        stream: usize,
        lease: i64,
    ) -> impl Future<Output = Result<Alive, Fault>> + use<> {
        let (tell, told) = oneshot::channel();
        let ask = Ask {
            lease,
            sent: Instant::now(),
            tell,
        };
        let _ = self.streams[stream % STREAMS].send(ask);
        async move { told.await.unwrap_or(Err(Fault::Closed)) }
    }
}

async fn run(client: Arc<Client>, mut asked: UnboundedReceiver<Ask>) {
    while let Some(first) = asked.recv().await {
        let (questions, outbound) = unbounded_channel();
        let mut waiting = VecDeque::new();
        ask(&questions, &mut waiting, first);
        let fault = serve(&client, &mut asked, &questions, outbound, &mut waiting).await;
        for ask in waiting {
            let _ = ask.tell.send(Err(fault.clone()));
        }
    }
}

fn ask(questions: &UnboundedSender<LeaseKeepAliveRequest>, waiting: &mut VecDeque<Ask>, ask: Ask) {
    // It fails where the stream has ended, which is noticed by its answers.
    let _ = questions.send(LeaseKeepAliveRequest { id: ask.lease });
    waiting.push_back(ask);
}

/// Asks until the stream breaks, and says why.
async fn serve(
    client: &Client,
    asked: &mut UnboundedReceiver<Ask>,
    questions: &UnboundedSender<LeaseKeepAliveRequest>,
    outbound: UnboundedReceiver<LeaseKeepAliveRequest>,
    waiting: &mut VecDeque<Ask>,
) -> Fault {
    let outbound = UnboundedReceiverStream::new(outbound);
    let opened = client.open(method::LEASE_KEEP_ALIVE, outbound).await;
    let (connection, mut answers) = match opened {
        Ok(opened) => opened,
        Err(fault) => return fault,
    };
    let mut left = pin!(client.left(&connection));
    loop {
        let patience = client.patience();
        let deadline = waiting.front().map(|ask| ask.sent + patience);
        let mut silent = pin!(async move {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        });
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    if !tell(waiting, &answer) {
                        client.leave(&connection);
                        return Fault::Strange;
                    }
                }
                Ok(None) => {
                    client.broke(&connection, None);
                    return Fault::Unknown("the stream of renewals ended".to_owned());
                }
                Err(status) => {
                    client.broke(&connection, Some(&status));
                    return Fault::of(&status);
                }
            },
            () = &mut left, if waiting.is_empty() => {
                return Fault::Unknown("the member was left for another".to_owned());
            }
            next = asked.recv() => match next {
                Some(next) => ask(questions, waiting, next),
                None => return Fault::Closed,
            },
            () = &mut silent => {
                client.leave(&connection);
                return Fault::Timeout;
            }
        }
    }
}

/// Hands an answer to the first that waits, which is whose it is: answers come in order.
fn tell(waiting: &mut VecDeque<Ask>, answer: &LeaseKeepAliveResponse) -> bool {
    match waiting.pop_front() {
        Some(ask) if ask.lease == answer.id => {
            let alive = match &answer.header {
                Some(header) if answer.ttl > 0 => Alive::Yes {
                    sent: ask.sent,
                    term: header.raft_term,
                },
                _ => Alive::No,
            };
            let _ = ask.tell.send(Ok(alive));
            true
        }
        Some(ask) => {
            let _ = ask.tell.send(Err(Fault::Strange));
            false
        }
        None => false,
    }
}
