//! The floor of `ping-pong`: two processes wake each other by PUBLISH, and nothing else.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, IntoConnectionInfo, PushInfo, PushKind, Value, cmd};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::board::{Phase, Shared, now};
use crate::job::{Job, Tally, histogram, reached};
use crate::side::Failure;

/// Sends the ball to and fro with the other process. What is timed is from before the PUBLISH until the other's task runs.
pub async fn run(job: Job) -> Result<Tally, Failure> {
    let board = Shared::map(&job.board)?;
    let (sender, mut pushes) = mpsc::unbounded_channel();
    let mut connection = subscribed(&job, sender).await?;
    board.ready.fetch_add(1, Ordering::SeqCst);
    reached(&board, Phase::WarmUp).await;

    let (mut served, mut times) = (0, histogram());
    let other = channel(&job, 1 - job.process);
    if job.process == 0 {
        cmd("PUBLISH")
            .arg(&other)
            .arg(now())
            .exec_async(&mut connection)
            .await?;
    }
    while board.phase() != Phase::Stop {
        let Ok(push) = timeout(Duration::from_millis(100), pushes.recv()).await else {
            continue;
        };
        let Some(sent_at) = push.as_ref().and_then(stamp) else {
            continue;
        };
        if board.phase() == Phase::Measure {
            served += 1;
            times.saturating_record(now() - sent_at);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        cmd("PUBLISH")
            .arg(&other)
            .arg(now())
            .exec_async(&mut connection)
            .await?;
    }
    let mut tally = Tally::default();
    tally.add(served, &times);
    Ok(tally)
}

async fn subscribed(
    job: &Job,
    pushes: mpsc::UnboundedSender<PushInfo>,
) -> Result<MultiplexedConnection, Failure> {
    let info = job.url.as_str().into_connection_info()?;
    let redis = info
        .redis_settings()
        .clone()
        .set_protocol(redis::ProtocolVersion::RESP3);
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
fn stamp(push: &PushInfo) -> Option<u64> {
    match (&push.kind, push.data.last()) {
        (PushKind::Message, Some(Value::BulkString(text))) => {
            std::str::from_utf8(text).ok()?.parse().ok()
        }
        _ => None,
    }
}
