//! A process that holds and waits for locks as it is told by lines on its standard input, and
//! answers each with a line.
//!
//! `holder URL` connects. What it understands:
//!
//! ```text
//! acquire KEY TTL_MS WAIT_MS [PART]   held TOKEN | error KIND
//! release                        released | error KIND
//! drop                           dropped
//! state                          held | lost
//! write PLACE                    accepted | refused        to a resource, with the token of the lock
//! write-unguarded PLACE          written                   the same where nobody compares
//! run KEY TTL_MS BODY_MS         began TOKEN, then: ended | error KIND
//! once KEY PERIOD_MS             done | skipped | error KIND       a body of `run_once_per`
//! time                           the seconds of its wall clock
//! panic KEY TTL_MS               began TOKEN, then: panicked    in a body of `run`
//! contend ORDER                  served COUNT COUNT … | failed WHY      with other processes, as a `Contention` in JSON says
//! exit, abort                    nothing: the process ends, holding what it holds
//! ```
//!
//! PART is what is wanted of the key: `shared`, `permits=N` or `shards=N`; without it, all.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, Write};
use std::time::{Duration, UNIX_EPOCH};

use lock_runtime::fencing::Writer;
use lock_runtime::{Lock, LockError, LockGuard, LockRuntime};
use lock_tests::faults::builder;
use lock_tests::faults::contention::Contention;
use lock_tests::faults::resource::{Resource, Write as Written};

#[tokio::main]
async fn main() {
    let url = std::env::args().nth(1).expect("usage: holder URL");
    let locks = builder(url).build().await.unwrap();
    say("ready");
    let mut guard = None;
    let (lines, mut commands) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    while let Some(line) = commands.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        obey(&locks, &mut guard, &words).await;
    }
}

async fn obey(locks: &LockRuntime, guard: &mut Option<LockGuard>, words: &[&str]) {
    match *words {
        ["acquire", key, ttl, wait, ref part @ ..] => {
            let lock = locks.lock(key).ttl(millis(ttl)).wait(millis(wait));
            match part_of(lock, part).acquire().await {
                Ok(acquired) => {
                    say(&format!("held {}", acquired.fencing_token()));
                    *guard = Some(acquired);
                }
                Err(error) => say(&told(&error)),
            }
        }
        ["release"] => match guard.take().expect("a lock is held").release().await {
            Ok(()) => say("released"),
            Err(error) => say(&told(&error)),
        },
        ["drop"] => {
            *guard = None;
            say("dropped");
        }
        ["state"] => {
            let held = guard.as_ref().is_some_and(LockGuard::is_held);
            say(if held { "held" } else { "lost" });
        }
        ["write", place] => {
            let writer = Writer::from(guard.as_ref().expect("a lock was held"));
            match Resource::at(place).write(&writer).await {
                Written::Accepted => say("accepted"),
                Written::Refused => say("refused"),
            }
        }
        ["write-unguarded", place] => {
            let writer = Writer::from(guard.as_ref().expect("a lock was held"));
            Resource::at(place).write_unguarded(&writer).await;
            say("written");
        }
        ["run", key, ttl, body] => {
            let body = millis(body);
            let ran = locks.lock(key).ttl(millis(ttl)).run(async |lock| {
                say(&format!("began {}", lock.fencing_token()));
                tokio::time::sleep(body).await;
            });
            match ran.await {
                Ok(()) => say("ended"),
                Err(error) => say(&told(&error)),
            }
        }
        ["once", key, period] => {
            let job = locks.lock(key).run_once_per(millis(period), async |_| ());
            match job.await {
                Ok(Some(())) => say("done"),
                Ok(None) => say("skipped"),
                Err(error) => say(&told(&error)),
            }
        }
        ["time"] => say(&UNIX_EPOCH.elapsed().unwrap().as_secs().to_string()),
        ["panic", key, ttl] => {
            let locks = locks.clone();
            let (key, ttl) = (key.to_owned(), millis(ttl));
            let body = async move {
                let ran = locks.lock(key).ttl(ttl).run(async |lock| {
                    say(&format!("began {}", lock.fencing_token()));
                    std::panic::resume_unwind(Box::new("on command"));
                });
                ran.await
            };
            let ended = tokio::spawn(body).await;
            say(if ended.is_err() { "panicked" } else { "ended" });
        }
        ["contend", order] => {
            let order: Contention = serde_json::from_str(order).unwrap();
            match order.run().await {
                Ok(served) => {
                    let counts: Vec<_> = served.iter().map(u64::to_string).collect();
                    say(&format!("served {}", counts.join(" ")));
                }
                Err(why) => say(&format!("failed {why}")),
            }
        }
        ["exit"] => std::process::exit(0),
        ["abort"] => std::process::abort(),
        _ => panic!("unknown: {words:?}"),
    }
}

fn part_of(lock: Lock, part: &[&str]) -> Lock {
    match part {
        [] => lock,
        ["shared"] => lock.shared(),
        [part] => match part.split_once('=') {
            Some(("permits", count)) => lock.permits(count.parse().unwrap()),
            Some(("shards", count)) => lock.shards(count.parse().unwrap()),
            _ => panic!("unknown: {part}"),
        },
        _ => panic!("unknown: {part:?}"),
    }
}

fn told(error: &LockError) -> String {
    let kind = match error {
        error if error.is_taken() => "taken",
        error if error.is_timeout() => "timeout",
        error if error.is_lost() => "lost",
        error if error.is_unavailable() => "unavailable",
        error if error.is_denied() => "denied",
        _ => "other",
    };
    format!("error {kind}")
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(text.parse().unwrap())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}
