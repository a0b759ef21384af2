//! A server of HTTP that fails for some questions: a proxy that knows each of them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a question whose answer is lost keeps its connection.
const SILENCE: Duration = Duration::from_secs(60);

/// A question that came through.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The path, with what is behind its question mark.
    pub path: String,
    /// The body.
    pub body: String,
}

/// What becomes of a question.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is asked and answered.
    Pass,
    /// It is asked, and nobody hears the answer.
    Lose,
    /// It is asked so much later.
    Delay(Duration),
    /// It is not asked, and answered by this status and text.
    Refuse(u16, &'static str),
}

type Rule = Box<dyn Fn(&Asked) -> Fate + Send + Sync>;

/// A proxy in front of one server, with a thread for each connection and a connection for each
/// question.
pub struct Http {
    port: u16,
    state: Arc<State>,
}

struct State {
    server: SocketAddr,
    rule: Mutex<Arc<Rule>>,
    asked: Mutex<Vec<Asked>>,
    /// How many of them did not simply pass.
    failed: AtomicUsize,
    is_over: AtomicBool,
}

impl Http {
    /// A proxy to the server at this port, through which all passes.
    pub fn to(port: u16) -> Http {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            rule: Mutex::new(Arc::new(Box::new(|_| Fate::Pass))),
            asked: Mutex::default(),
            failed: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&shared);
                thread::spawn(move || state.serve(client));
            }
        });
        Http {
            port: own_port,
            state,
        }
    }

    /// Where a client finds it.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What becomes of the questions from now on.
    pub fn rule(&self, rule: impl Fn(&Asked) -> Fate + Send + Sync + 'static) {
        *lock(&self.state.rule) = Arc::new(Box::new(rule));
    }

    /// Lets all pass from now on.
    pub fn pass(&self) {
        self.rule(|_| Fate::Pass);
    }

    /// The questions that came so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.state.asked).clone()
    }

    /// How many of them did not simply pass.
    pub fn failed(&self) -> usize {
        self.state.failed.load(Ordering::SeqCst)
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl State {
    fn serve(&self, mut client: TcpStream) {
        let Ok((head, body)) = read_question(&mut client) else {
            return;
        };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let body = String::from_utf8_lossy(&body).into_owned();
        let asked = Asked { path, body };
        let rule = Arc::clone(&lock(&self.rule));
        lock(&self.asked).push(asked.clone());
        let fate = rule(&asked);
        if !matches!(fate, Fate::Pass) {
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
        let answer = match fate {
            Fate::Pass => self.ask(&head, &asked.body),
            Fate::Lose => {
                let _ = self.ask(&head, &asked.body);
                thread::sleep(SILENCE);
                return;
            }
            Fate::Delay(delay) => {
                thread::sleep(delay);
                self.ask(&head, &asked.body)
            }
            Fate::Refuse(status, text) => Ok(format!(
                "HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            )
            .into_bytes()),
        };
        if let Ok(answer) = answer {
            let _ = client.write_all(&answer);
            let _ = client.shutdown(Shutdown::Write);
        }
    }

    /// Asks the server, on a connection that ends with the answer.
    fn ask(&self, head: &str, body: &str) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(self.server)?;
        let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        server.write_all(format!("{head}{body}").as_bytes())?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// The head of a question, with the empty line behind it, and the body.
fn read_question(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    let end = loop {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(&buffer[..count]);
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let mut body = read.split_off(end);
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(0, |(_, length)| length.trim().parse().unwrap_or(0));
    while body.len() < length {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        body.extend_from_slice(&buffer[..count]);
    }
    Ok((head, body))
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
