//! A network between clients and server that is slow and not narrow: what comes waits for a while,
//! and nothing waits for what is ahead of it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis::cmd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::job::histogram;
use crate::side::Failure;

/// A proxy with two threads for each connection, one for each way.
pub struct Proxy {
    port: u16,
    delay: Duration,
    link: Arc<Link>,
}

/// What all connections share.
struct Link {
    /// Nanoseconds that everything waits here: the delay, less what the proxy itself takes.
    wait: AtomicU64,
    /// How long it did wait here.
    waited: Mutex<Histogram<u64>>,
}

impl Proxy {
    /// A proxy that ends with this process.
    pub fn start(server: impl ToSocketAddrs, delay: Duration) -> Result<Proxy, Failure> {
        let server = server.to_socket_addrs()?.next().ok_or("no address")?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let link = Arc::new(Link {
            wait: AtomicU64::new(delay.as_nanos() as u64),
            waited: Mutex::new(histogram()),
        });
        let proxy = Proxy {
            port: listener.local_addr()?.port(),
            delay,
            link: link.clone(),
        };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A connection that cannot be made is closed, which its client sees.
                let _ = link.connect(client, server);
            }
        });
        Ok(proxy)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits less by what the way through the proxy takes by itself, so that a client sees the
    /// delay that was asked for.
    pub fn calibrate(&self, direct: &str) -> Result<(), Failure> {
        for _ in 0..3 {
            let wait = Duration::from_nanos(self.link.wait.load(Ordering::Relaxed)) + self.delay;
            let wait = wait.saturating_sub(self.added(direct)?).as_nanos() as u64;
            self.link.wait.store(wait, Ordering::Relaxed);
        }
        self.link.waited().reset();
        Ok(())
    }

    /// What it adds each way.
    fn added(&self, direct: &str) -> Result<Duration, Failure> {
        let through = format!("redis://127.0.0.1:{}", self.port);
        Ok(round_trip(&through)?.saturating_sub(round_trip(direct)?) / 2)
    }

    /// What the delay came to, in words.
    pub fn reached(&self, direct: &str) -> Result<String, Failure> {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let (p50, p99) = {
            let waited = self.link.waited();
            (
                waited.value_at_quantile(0.5),
                waited.value_at_quantile(0.99),
            )
        };
        Ok(format!(
            "delay: {:.0} µs each way were asked for; a PING takes {:.0} µs longer each way; in the run messages waited for {:.0} µs (p50), {:.0} (p99) \
             of the {:.0} that the way through the proxy leaves",
            self.delay.as_secs_f64() * 1e6,
            self.added(direct)?.as_secs_f64() * 1e6,
            micros(p50),
            micros(p99),
            micros(self.link.wait.load(Ordering::Relaxed)),
        ))
    }
}

impl Link {
    fn waited(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(self: &Arc<Link>, client: TcpStream, server: SocketAddr) -> io::Result<()> {
        let server = TcpStream::connect(server)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            let link = self.clone();
            thread::spawn(move || {
                // Whatever goes wrong ends the connection.
                let _ = link.carry(&from, &to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        Ok(())
    }

    /// Carries what comes, each piece when it has waited long enough.
    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        // The kernel would sleep 50 µs longer than it is told.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let (mut pieces, mut buffer) = (VecDeque::new(), vec![0; 1 << 16]);
        let mut is_open = true;
        while is_open || !pieces.is_empty() {
            let wait = Duration::from_nanos(self.wait.load(Ordering::Relaxed));
            let rest = pieces
                .front()
                .map(|(came, _): &(Instant, Vec<u8>)| wait.saturating_sub(came.elapsed()));
            if rest == Some(Duration::ZERO)
                && let Some((came, piece)) = pieces.pop_front()
            {
                to.write_all(&piece)?;
                self.waited()
                    .saturating_record(came.elapsed().as_nanos() as u64);
                continue;
            }
            let rest = rest.map(|rest| Timespec {
                tv_sec: rest.as_secs() as i64,
                tv_nsec: i64::from(rest.subsec_nanos()),
            });
            let mut source = [PollFd::new(from, PollFlags::IN)];
            let watched = &mut source[..usize::from(is_open)];
            if poll(watched, rest.as_ref())? > 0 {
                let came = Instant::now();
                let length = from.read(&mut buffer)?;
                is_open = length > 0;
                if is_open {
                    pieces.push_back((came, buffer[..length].to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// The median time of a PING.
fn round_trip(url: &str) -> Result<Duration, Failure> {
    let mut connection = redis::Client::open(url)?.get_connection()?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let sent = Instant::now();
        cmd("PING").exec(&mut connection)?;
        times.push(sent.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

#[cfg(test)]
mod tests {
    use lock_tests::server::Server;

    use super::*;

    #[test]
    fn a_delay_adds_to_each_command_and_not_to_each_of_a_pipeline() {
        const DELAY: Duration = Duration::from_millis(20);
        let server = Server::start();
        let (_, port) = server
            .url()
            .rsplit_once(':')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        let proxy = Proxy::start(("127.0.0.1", port.parse().unwrap()), DELAY).unwrap();
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();

        let sent = Instant::now();
        cmd("PING").exec(&mut connection).unwrap();
        assert!(sent.elapsed() >= 2 * DELAY, "{:?}", sent.elapsed());

        // A thousand that are sent without an answer in between, each in a piece of its own.
        let sent = Instant::now();
        for _ in 0..1_000 {
            connection
                .send_packed_command(&cmd("PING").get_packed_command())
                .unwrap();
        }
        for _ in 0..1_000 {
            connection.recv_response().unwrap();
        }
        let all = sent.elapsed();
        assert!(all >= 2 * DELAY && all < 1_000 * DELAY, "{all:?}");
    }
}
