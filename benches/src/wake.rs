//! The floors of `ping-pong` and `hot-key`: processes wake each other by PUBLISH, one after the
//! other, and nothing else.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, IntoConnectionInfo, Parser, ProtocolVersion,
    PushInfo, PushKind, Value, cmd,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::board::{Phase, Shared, now};
use crate::job::{Job, Section, Spent, Tally, histogram, reached, spending};
use crate::side::Failure;

/// How long a process waits for the ball before it looks whether the run is over.
const PATIENCE: Duration = Duration::from_millis(100);

/// The side `publish`: a task on tokio, and a client library.
pub async fn publish(job: Job) -> Result<Tally, Failure> {
    let board = Shared::map(&job.board)?;
    let (sender, mut pushes) = mpsc::unbounded_channel();
    let mut connection = subscribed(&job, sender).await?;
    board.ready.fetch_add(1, Ordering::SeqCst);
    let play = async {
        let mut player = Player::new(&job, &board);
        reached(&board, Phase::WarmUp).await;
        if job.process == 0 {
            player.throw().exec_async(&mut connection).await?;
        }
        while board.phase() != Phase::Stop {
            let Ok(push) = timeout(PATIENCE, pushes.recv()).await else {
                continue;
            };
            let Some(sent_at) = push.and_then(|push| stamp(&push.kind, &push.data)) else {
                continue;
            };
            player.caught(sent_at);
            if job.section == Section::Pause {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            player.throw().exec_async(&mut connection).await?;
        }
        Ok::<_, Failure>(player)
    };
    let (player, spent) = tokio::try_join!(play, spending(&board))?;
    Ok(player.tally(spent))
}

/// One process of the ring, which counts how often the ball comes.
struct Player<'a> {
    job: &'a Job,
    board: &'a Shared,
    served: u64,
    times: Histogram<u64>,
}

impl<'a> Player<'a> {
    fn new(job: &'a Job, board: &'a Shared) -> Player<'a> {
        Player {
            job,
            board,
            served: 0,
            times: histogram(),
        }
    }

    /// What is timed is from before the PUBLISH until the receiver runs.
    fn caught(&mut self, sent_at: u64) {
        let time = now() - sent_at;
        self.board.enter(self.job.process as u64 + 1, None, None);
        self.board.leave(None);
        if self.board.phase() == Phase::Measure {
            self.served += 1;
            self.times.saturating_record(time);
        }
    }

    /// Throws the ball to the next process.
    fn throw(&self) -> Cmd {
        let next = (self.job.process + 1) % self.job.processes;
        let mut publish = cmd("PUBLISH");
        publish.arg(channel(self.job, next)).arg(now());
        publish
    }

    fn tally(self, spent: Spent) -> Tally {
        let mut tally = Tally {
            spent,
            ..Tally::default()
        };
        tally.add(self.served, &self.times);
        tally
    }
}

/// The side `ring`: one thread that blocks, one socket, and no executor.
pub fn ring(job: &Job) -> Result<Tally, Failure> {
    let board = Shared::map(&job.board)?;
    let info = job.url.as_str().into_connection_info()?;
    let ConnectionAddr::Tcp(host, port) = info.addr() else {
        return Err("the ring needs plain TCP".into());
    };
    let mut socket = TcpStream::connect((host.as_str(), *port))?;
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut parser = Parser::new();
    if let Some(password) = info.redis_settings().password() {
        let user = info.redis_settings().username().unwrap_or("default");
        socket.write_all(&cmd("AUTH").arg(user).arg(password).get_packed_command())?;
        parser.parse_value(&mut reader)?.extract_error()?;
    }
    for hello in [
        cmd("HELLO").arg(3),
        cmd("SUBSCRIBE").arg(channel(job, job.process)),
    ] {
        socket.write_all(&hello.get_packed_command())?;
        parser.parse_value(&mut reader)?.extract_error()?;
    }
    socket.set_read_timeout(Some(PATIENCE))?;
    board.ready.fetch_add(1, Ordering::SeqCst);

    let mut player = Player::new(job, &board);
    while board.phase() == Phase::Setup {
        thread::sleep(Duration::from_millis(1));
    }
    if job.process == 0 {
        socket.write_all(&player.throw().get_packed_command())?;
    }
    let (mut before, mut phase) = (Spent::default(), board.phase());
    while phase != Phase::Stop {
        match parser.parse_value(&mut reader) {
            Ok(Value::Push { kind, data }) => {
                if let Some(sent_at) = stamp(&kind, &data) {
                    player.caught(sent_at);
                    if job.section == Section::Pause {
                        thread::sleep(Duration::from_millis(1));
                    }
                    socket.write_all(&player.throw().get_packed_command())?;
                }
            }
            Ok(reply) => drop(reply.extract_error()?),
            Err(error) if error.is_timeout() => {}
            Err(error) => return Err(error.into()),
        }
        if phase == Phase::WarmUp && board.phase() != phase {
            before = Spent::so_far()?;
        }
        phase = board.phase();
    }
    let spent = Spent::so_far()?.since(before);
    Ok(player.tally(spent))
}

async fn subscribed(
    job: &Job,
    pushes: mpsc::UnboundedSender<PushInfo>,
) -> Result<MultiplexedConnection, Failure> {
    let info = job.url.as_str().into_connection_info()?;
    let redis = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    let info = info
        .set_redis_settings(redis)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let config = AsyncConnectionConfig::new().set_push_sender(pushes);
    let mut connection = redis::Client::open(info)?
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    connection.subscribe(channel(job, job.process)).await?;
    Ok(connection)
}

fn channel(job: &Job, process: usize) -> String {
    format!("{}:{process}", job.key)
}

/// When the message was sent.
fn stamp(kind: &PushKind, data: &[Value]) -> Option<u64> {
    match (kind, data.last()) {
        (PushKind::Message, Some(Value::BulkString(text))) => {
            std::str::from_utf8(text).ok()?.parse().ok()
        }
        _ => None,
    }
}
