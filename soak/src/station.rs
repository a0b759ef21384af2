//! A lock server, and what goes wrong with it.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use lock_tests::checker::{Event, Fault, Nanos, Recorder, What, now};
use lock_tests::faults::clock::Clock;
use lock_tests::faults::proxy::{self, Proxy, Way};
use lock_tests::server::{Options, Server};
use redis::{RedisError, RedisResult};

use crate::admin::{Admin, COUNTERS, lock, queue};
use crate::effects::{Effects, note_lost_places};
use crate::plan::{Kind, LONGEST_SHIFT, Place, Step};

/// How long to look for the effect of a fault.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long after a fault connections may break that it left without an answer.
const AFTERMATH: Duration = Duration::from_secs(1);

/// A lock server with what it takes to trouble it.
pub(crate) struct Station {
    place: Place,
    server: Server,
    clock: Option<Clock>,
    proxy: Option<Proxy>,
    admin: Admin,
    log: Recorder,
    effects: Effects,
}

impl Station {
    pub(crate) fn start(
        place: Place,
        log: Recorder,
        effects: Effects,
    ) -> Result<Station, Box<dyn std::error::Error>> {
        let clock = place.has_clock().then(Clock::new);
        let options = match (&clock, place) {
            (Some(clock), _) => clock.server(),
            // Written before each answer. What has been written survives the process, if not the
            // machine.
            (None, Place::Durable) => Options::default()
                .with(["--appendonly", "yes", "--appendfsync", "no"])
                .with(["--auto-aof-rewrite-min-size", "4mb"]),
            (None, _) => Options::default(),
        };
        let server = options.start();
        let proxy = place.has_proxy().then(|| Proxy::start(server.port()));
        Ok(Station {
            admin: Admin::new(&server.url(), PATIENCE)?,
            place,
            server,
            clock,
            proxy,
            log,
            effects,
        })
    }

    /// How clients connect.
    pub(crate) fn url(&self) -> String {
        self.proxy
            .as_ref()
            .map_or_else(|| self.server.url(), Proxy::url)
    }

    /// How to connect to the server itself.
    pub(crate) fn direct_url(&self) -> String {
        self.server.url()
    }

    /// Does what `step` says, notes what came of it, and mends what does not mend by itself.
    pub(crate) fn suffer(&mut self, step: &Step) -> io::Result<()> {
        let since = now();
        match self.attempt(step) {
            Ok(true) => self.effects.note(step.kind, &format!("{:?}", self.place)),
            // It had no effect, or none that could be seen.
            Ok(false) => {}
            Err(Trouble::Log(error)) => return Err(error),
            Err(Trouble::Redis(error)) => eprintln!("{} could not be seen: {error}", step.kind),
        }
        if let Some(proxy) = &self.proxy {
            proxy.heal();
        }
        if step.kind.costs_places() {
            note_lost_places(&self.log, self.place.keys(), since, AFTERMATH)?;
        }
        Ok(())
    }

    /// Whether the fault took effect.
    fn attempt(&mut self, step: &Step) -> Result<bool, Trouble> {
        match step.kind {
            Kind::RestartEmpty | Kind::RestartPersisted => self.restart(step),
            Kind::FlushAll => self.flush(),
            Kind::HeldKeyDeleted => self.delete(step, lock, Fault::DataLoss),
            Kind::FenceDeleted => self.delete_counter(step),
            Kind::QueueDeleted => self.delete(step, queue, Fault::PlaceLost),
            Kind::ScriptFlush => {
                let before = self.errors("NOSCRIPT")?;
                self.admin.ask::<()>(&["SCRIPT", "FLUSH"])?;
                self.comes_true(|this| Ok(this.errors("NOSCRIPT")? > before))
            }
            Kind::OutOfMemory => self.fill_memory(step),
            Kind::ClientsKilled => Ok(self
                .admin
                .ask::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"])?
                > 0),
            Kind::OneClientKilled => self.kill_one_client(step),
            Kind::ClientPause => {
                let millis = step.length.as_millis().to_string();
                self.admin.ask::<()>(&["CLIENT", "PAUSE", &millis, "ALL"])?;
                let since = Instant::now();
                self.admin.ask::<()>(&["PING"])?;
                Ok(since.elapsed() > step.length / 2)
            }
            Kind::ServerStopped => {
                self.server.pause();
                let silent = is_silent(&self.server.url());
                sleep(step.length);
                self.server.resume();
                Ok(silent)
            }
            Kind::ClockForward => self.move_clock(step),
            kind => self.disturb_network(kind, step),
        }
    }

    /// Kills the server and starts it again. The effect is that it is another process, which knows
    /// what the last one knew, or not.
    fn restart(&mut self, step: &Step) -> Result<bool, Trouble> {
        self.admin
            .ask::<()>(&["SET", "canary", "alive", "PX", "60000"])?;
        let before: String = self.run_id()?;
        let since = now();
        self.server.kill();
        sleep(step.length / 4);
        self.server.restart();
        let persists = step.kind == Kind::RestartPersisted;
        if !persists {
            self.excuse_all(Fault::DataLoss, since)?;
        }
        // It may still be loading.
        let mut canary = None;
        self.comes_true(|this| {
            let answer: RedisResult<bool> = this.admin.ask(&["EXISTS", "canary"]);
            canary = answer.ok();
            Ok(canary.is_some())
        })?;
        Ok(self.run_id()? != before && canary == Some(persists))
    }

    fn flush(&mut self) -> Result<bool, Trouble> {
        let since = now();
        let commands: [&[&str]; 3] = [&["DBSIZE"], &["FLUSHALL"], &["DBSIZE"]];
        let answer = self.admin.at_once::<(u64, String, u64)>(&commands);
        self.excuse_all(Fault::DataLoss, since)?;
        let (before, _, after) = answer?;
        Ok(before > 0 && after == 0)
    }

    /// Deletes what `name` calls a companion of a key, as soon as there is one.
    fn delete(
        &mut self,
        step: &Step,
        name: fn(&str) -> String,
        excuse: Fault,
    ) -> Result<bool, Trouble> {
        let keys = rotated(self.place.keys(), step.choice);
        self.comes_true(|this| {
            for key in &keys {
                let since = now();
                let deleted = this.admin.ask::<u64>(&["DEL", &name(key)]);
                if deleted.as_ref().map_or(true, |count| *count > 0) {
                    this.excuse(key, excuse, since)?;
                }
                if deleted? > 0 {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Loses a counter, which excuses nothing: the tokens go on.
    fn delete_counter(&mut self, step: &Step) -> Result<bool, Trouble> {
        self.comes_true(|this| {
            let counters = this.admin.ask::<Vec<String>>(&["KEYS", COUNTERS])?;
            match rotated(counters, step.choice).first() {
                Some(counter) => Ok(this.admin.ask::<u64>(&["DEL", counter])? > 0),
                None => Ok(false),
            }
        })
    }

    /// Lets the server refuse what needs memory.
    fn fill_memory(&mut self, step: &Step) -> Result<bool, Trouble> {
        let before = self.errors("OOM")?;
        self.admin.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
        sleep(step.length);
        self.admin.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"])?;
        Ok(self.errors("OOM")? > before)
    }

    fn kill_one_client(&mut self, step: &Step) -> Result<bool, Trouble> {
        let list: String = self.admin.ask(&["CLIENT", "LIST", "TYPE", "pubsub"])?;
        let ids = list
            .lines()
            .filter_map(|line| line.strip_prefix("id=")?.split(' ').next());
        let ids = rotated(ids.collect(), step.choice);
        let Some(id) = ids.first() else {
            return Ok(false);
        };
        Ok(self.admin.ask::<u64>(&["CLIENT", "KILL", "ID", id])? > 0)
    }

    /// Moves the clock forward, and after a while back again.
    fn move_clock(&mut self, step: &Step) -> Result<bool, Trouble> {
        let furthest = LONGEST_SHIFT.as_secs();
        let shift = i64::try_from(1 + step.choice % furthest).unwrap_or(1);
        let ahead = self.set_clock(shift);
        sleep(step.length);
        if self.set_clock(0)? {
            self.effects
                .note(Kind::ClockBack, &format!("{:?}", self.place));
        }
        ahead
    }

    /// Sets the clock so many seconds ahead of the true time. Whether the server tells that time.
    fn set_clock(&mut self, seconds: i64) -> Result<bool, Trouble> {
        let since = now();
        if let Some(clock) = &self.clock {
            clock.shift(seconds);
        }
        let told = self.admin.ask::<(u64, u64)>(&["TIME"]);
        self.excuse_all(Fault::ClockJump, since)?;
        let (told, _) = told?;
        let told = SystemTime::UNIX_EPOCH + Duration::from_secs(told);
        let ahead = match told.duration_since(SystemTime::now()) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        };
        // A whole second is all that the answer tells.
        Ok((ahead - seconds as f64 + 0.5).abs() < 0.8)
    }

    fn disturb_network(&mut self, kind: Kind, step: &Step) -> Result<bool, Trouble> {
        let Some(proxy) = &self.proxy else {
            return Ok(false);
        };
        if kind == Kind::Partition {
            let ways = [Way::Up, Way::Down, Way::Both];
            proxy.partition(rotated(ways.to_vec(), step.choice)[0]);
            let silent = is_silent(&proxy.url());
            sleep(step.length);
            return Ok(silent);
        }
        let scripts = match self.place {
            Place::Node(_) => ["voting", "abandon", "release", "renew"],
            _ => ["acquire", "hand_over", "release", "renew"],
        };
        let script = rotated(scripts.to_vec(), step.choice)[0];
        let (name, fault) = match kind {
            Kind::ReplyLost => (script, proxy::Fault::LoseAnswer),
            Kind::RequestLost => (script, proxy::Fault::LoseRequest),
            Kind::ReplyCut => (script, proxy::Fault::CutAnswer),
            Kind::RequestCut => (script, proxy::Fault::Cut),
            Kind::ReplyDelayed => (script, proxy::Fault::DelayAnswer(step.length)),
            Kind::RequestRepeated => (script, proxy::Fault::Duplicate),
            Kind::HandOverLost => ("push", proxy::Fault::LosePush),
            other => return Err(io::Error::other(format!("{other} is none of a server")).into()),
        };
        let before = proxy.faults();
        proxy.fault(name, fault);
        self.comes_true(|this| {
            Ok(this
                .proxy
                .as_ref()
                .is_some_and(|proxy| proxy.faults() > before))
        })
    }

    fn run_id(&mut self) -> Result<String, Trouble> {
        let info: String = self.admin.ask(&["INFO", "server"])?;
        let id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
        Ok(id.unwrap_or_default().to_owned())
    }

    /// How often the server has answered by this error.
    fn errors(&mut self, error: &str) -> RedisResult<u64> {
        let start = format!("errorstat_{error}:count=");
        self.admin.count("errorstats", &start)
    }

    /// Waits for `condition`, as long as it may take.
    fn comes_true(
        &mut self,
        mut condition: impl FnMut(&mut Station) -> Result<bool, Trouble>,
    ) -> Result<bool, Trouble> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if condition(self)? {
                return Ok(true);
            }
            sleep(Duration::from_millis(2));
        }
        Ok(false)
    }

    /// Notes that leases of this server may have ended by a fault between `since` and now.
    fn excuse_all(&self, fault: Fault, since: Nanos) -> Result<(), Trouble> {
        let fault = match (self.place, fault) {
            // One that has lost everything votes for nobody until the leases that it knew have
            // ended.
            (Place::Node(_), Fault::DataLoss) => Fault::Other,
            (_, fault) => fault,
        };
        let keys = self.place.keys();
        keys.iter()
            .try_for_each(|key| self.excuse(key, fault, since))
    }

    fn excuse(&self, key: &str, fault: Fault, since: Nanos) -> Result<(), Trouble> {
        self.log.record(key, since, What::Fault { fault })?;
        Ok(())
    }

    /// Everything that is left on the server but the fencing tokens and what tells of withdrawals,
    /// after waiting for it to go: keys with their ttl, places in
    /// queues, subscriptions.
    pub(crate) fn leftovers(&mut self) -> RedisResult<Left> {
        // A lease, the queue behind it, and what a clock that was set back adds.
        let deadline = Instant::now() + Duration::from_secs(10) + LONGEST_SHIFT;
        loop {
            let left = self.look()?;
            if left.is_nothing() || Instant::now() > deadline {
                return Ok(left);
            }
            sleep(Duration::from_millis(50));
        }
    }

    fn look(&mut self) -> RedisResult<Left> {
        let mut left = Left::default();
        let keys: Vec<String> = self.admin.ask(&["KEYS", "*"])?;
        for key in keys.iter().filter(|key| *key != "canary") {
            let ttl: i64 = self.admin.ask(&["PTTL", key])?;
            if ttl == -1 {
                // It is reported here, and need not be by the server as well.
                self.server.forgive(key);
            }
            if key.ends_with(":waiters") {
                left.queued += self.admin.ask::<u64>(&["ZCARD", key])?;
            } else if ttl == -1
                || !(key.ends_with(":counter")
                    || key.ends_with(":fence")
                    || key.ends_with(":holders")
                    || key.contains(":waiters:gone:"))
            {
                left.keys.push((key.clone(), u64::try_from(ttl).ok()));
            }
        }
        left.subscriptions = self
            .admin
            .ask::<Vec<String>>(&["PUBSUB", "CHANNELS"])?
            .len() as u64;
        Ok(left)
    }
}

/// What is left on a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Left {
    pub(crate) keys: Vec<(String, Option<u64>)>,
    pub(crate) queued: u64,
    /// On etcd: watchers.
    pub(crate) subscriptions: u64,
    /// Of etcd; on Consul: sessions.
    pub(crate) leases: u64,
}

impl Left {
    pub(crate) fn is_nothing(&self) -> bool {
        self.keys.is_empty() && self.queued == 0 && self.subscriptions == 0 && self.leases == 0
    }

    pub(crate) fn add(&mut self, other: Left) {
        self.keys.extend(other.keys);
        self.queued += other.queued;
        self.subscriptions += other.subscriptions;
        self.leases += other.leases;
    }

    /// As an event of a log, for the key of all.
    pub(crate) fn event(&self) -> Event {
        Event {
            process: 0,
            key: "*".to_owned(),
            invoke: now(),
            returned: now(),
            what: What::End(lock_tests::checker::Leftovers {
                keys: self.keys.clone(),
                queued: self.queued,
                subscriptions: self.subscriptions,
                ..Default::default()
            }),
        }
    }
}

/// Why it is not known whether a fault took effect.
enum Trouble {
    Redis(RedisError),
    Log(io::Error),
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Trouble {
        Trouble::Redis(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Log(error)
    }
}

/// `all`, begun elsewhere.
pub(crate) fn rotated<T>(mut all: Vec<T>, choice: u64) -> Vec<T> {
    if !all.is_empty() {
        let middle = usize::try_from(choice % all.len() as u64).unwrap_or_default();
        all.rotate_left(middle);
    }
    all
}

/// Whether nobody answers at `url`.
fn is_silent(url: &str) -> bool {
    let admin = Admin::new(url, Duration::from_millis(30));
    admin.is_ok_and(|mut admin| admin.ask::<()>(&["PING"]).is_err())
}
