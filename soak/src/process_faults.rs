//! What goes wrong with processes: those that hold a lock or wait for one are killed and stopped.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lock_tests::checker::{Nanos, Recorder, now};

use crate::admin::{Admin, holders, is_marker, lock, queue};
use crate::consul_admin::ConsulAdmin;
use crate::effects::Effects;
use crate::etcd_admin::EtcdAdmin;
use crate::fleet::{Fleet, pid_of};
use crate::plan::{Kind, Step, Store};
use crate::station::rotated;

/// How long to look for a process to hit.
const SEARCH: Duration = Duration::from_secs(2);

/// Finds processes by what the servers know of them.
pub(crate) struct ProcessFaults<'a> {
    fleet: &'a Mutex<Fleet>,
    store: Store,
    /// In the order of the places of the store.
    servers: Vec<Lookup>,
    log: Recorder,
    effects: Effects,
}

/// What looks at a server.
pub(crate) enum Lookup {
    Redis(Box<Admin>),
    Etcd(EtcdAdmin),
    Consul(ConsulAdmin),
}

impl Lookup {
    /// The claim that holds a lock, or the first that waits for it.
    fn owner(&mut self, key: &str, waits: bool) -> Option<String> {
        match self {
            Lookup::Redis(admin) if waits => {
                let members: Vec<String> = admin.ask(&["ZRANGE", &queue(key), "0", "0"]).ok()?;
                members.into_iter().next()
            }
            Lookup::Redis(admin) => {
                let owner: Option<String> = admin.ask(&["GET", &lock(key)]).ok()?;
                // Nobody holds a key that is kept.
                let owner = owner.filter(|owner| !owner.starts_with("kept:"))?;
                if !is_marker(&owner) {
                    return Some(owner);
                }
                // Of several, the one that was extended last.
                let last: Vec<String> = admin.ask(&["ZRANGE", &holders(key), "-1", "-1"]).ok()?;
                last.into_iter().next()
            }
            Lookup::Etcd(admin) => {
                let found = admin.claims(key).ok()?;
                let found = found.into_iter().nth(usize::from(waits))?;
                Some(found.key)
            }
            Lookup::Consul(admin) if waits => {
                let first = admin.waiters(key).ok()?.into_iter().next()?;
                Some(first.owner)
            }
            Lookup::Consul(admin) => admin.holder(key).ok()?.map(|holder| holder.owner),
        }
    }

    /// Whether the claim still holds or waits; `None` if it cannot be told.
    fn still(&mut self, key: &str, owner: &str, waits: bool) -> Option<bool> {
        match self {
            Lookup::Redis(admin) if waits => {
                let score: Option<f64> = admin.ask(&["ZSCORE", &queue(key), owner]).ok()?;
                Some(score.is_some())
            }
            Lookup::Redis(admin) => {
                let holder: Option<String> = admin.ask(&["GET", &lock(key)]).ok()?;
                if !holder.as_deref().is_some_and(is_marker) {
                    return Some(holder.as_deref() == Some(owner));
                }
                let end: Option<f64> = admin.ask(&["ZSCORE", &holders(key), owner]).ok()?;
                let (second, micros): (f64, f64) = admin.ask(&["TIME"]).ok()?;
                Some(end.is_some_and(|end| end > second * 1e3 + micros / 1e3))
            }
            Lookup::Etcd(admin) => {
                let found = admin.claims(key).ok()?;
                let place = found.iter().position(|found| found.key == owner);
                Some(place.is_some_and(|place| (place > 0) == waits))
            }
            Lookup::Consul(admin) if waits => {
                let waiters = admin.waiters(key).ok()?;
                Some(waiters.iter().any(|waiter| waiter.owner == owner))
            }
            Lookup::Consul(admin) => {
                let holder = admin.holder(key).ok()?;
                Some(holder.is_some_and(|holder| holder.owner == owner))
            }
        }
    }
}

impl<'a> ProcessFaults<'a> {
    pub(crate) fn new(
        fleet: &'a Mutex<Fleet>,
        store: Store,
        servers: Vec<Lookup>,
        log: Recorder,
        effects: Effects,
    ) -> ProcessFaults<'a> {
        ProcessFaults {
            fleet,
            store,
            servers,
            log,
            effects,
        }
    }

    /// Does what `step` says, and notes what came of it.
    pub(crate) fn strike(&mut self, step: &Step) -> io::Result<()> {
        self.fleet().look()?;
        let waits = step.kind == Kind::WaiterKilled;
        let deadline = Instant::now() + SEARCH;
        let mut attempt = 0;
        while Instant::now() < deadline {
            attempt += 1;
            if let Some(victim) = self.find(step.choice.wrapping_add(attempt), waits)? {
                let effect = match step.kind {
                    Kind::HolderKilled | Kind::WaiterKilled => self.kill(&victim, waits)?,
                    Kind::HolderStoppedShort => self.stop_shortly(&victim, step)?,
                    _ => self.stop_beyond_the_lease(&victim)?,
                };
                if effect {
                    self.effects.note(step.kind, &victim.key);
                }
                return Ok(());
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops a process that holds a lock, or waits for one, such that it still does when it stands
    /// still.
    fn find(&mut self, choice: u64, waits: bool) -> io::Result<Option<Victim>> {
        let mut keys = Vec::new();
        for (index, place) in self.store.places().into_iter().enumerate() {
            keys.extend(place.keys().into_iter().map(|key| (index, key)));
        }
        for (place, key) in rotated(keys, choice) {
            let Some((owner, pid)) = self.seen(place, &key, waits) else {
                continue;
            };
            let since = now();
            if !self.fleet().stop(pid)? {
                continue;
            }
            let victim = Victim {
                pid,
                since,
                place,
                key,
                owner,
            };
            // What it had sent before arrives by now.
            sleep(Duration::from_millis(2));
            if self.still(&victim, waits) == Some(true) {
                return Ok(Some(victim));
            }
            self.fleet().go_on(pid, since, &self.log)?;
        }
        Ok(None)
    }

    /// A claim that holds `key`, or waits for it, and its process.
    fn seen(&mut self, place: usize, key: &str, waits: bool) -> Option<(String, u32)> {
        let owner = self.servers[place].owner(key, waits)?;
        let pid = pid_of(&owner)?;
        Some((owner, pid))
    }

    /// Whether the claim still holds or waits; `None` if it cannot be told.
    fn still(&mut self, victim: &Victim, waits: bool) -> Option<bool> {
        self.servers[victim.place].still(&victim.key, &victim.owner, waits)
    }

    /// The effect is that the claim of the dead is still in the store.
    fn kill(&mut self, victim: &Victim, waits: bool) -> io::Result<bool> {
        self.fleet().kill(victim.pid, victim.since, &self.log)?;
        let still = self.still(victim, waits);
        self.fleet().replace(victim.pid)?;
        Ok(still == Some(true))
    }

    /// The effect is that the process stood still with the lock in its hand.
    fn stop_shortly(&mut self, victim: &Victim, step: &Step) -> io::Result<bool> {
        sleep(step.length.min(self.store.longest_ttl() / 2));
        let still = self.still(victim, false);
        self.fleet().go_on(victim.pid, victim.since, &self.log)?;
        Ok(still == Some(true))
    }

    /// The effect is that the lock has another owner, or none, while the process stands still.
    fn stop_beyond_the_lease(&mut self, victim: &Victim) -> io::Result<bool> {
        let deadline = Instant::now() + self.store.longest_ttl() * 4;
        let mut lost = false;
        while !lost && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
            lost = self.still(victim, false) == Some(false);
        }
        // Time for the next holder to hear of its lock and write, which a slower store takes more
        // of.
        sleep(self.store.longest_ttl() / 10);
        self.fleet().go_on(victim.pid, victim.since, &self.log)?;
        Ok(lost)
    }

    fn fleet(&self) -> MutexGuard<'a, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stopped process and why it is one to hit.
struct Victim {
    pid: u32,
    /// Since when it stands still.
    since: Nanos,
    place: usize,
    key: String,
    owner: String,
}
