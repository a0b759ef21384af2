//! Three servers of Consul, and what goes wrong with them.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use lock_tests::checker::{Fault, Recorder, What, now};
use lock_tests::consul::{Cluster, Options};

use crate::consul_admin::{Claimed, ConsulAdmin};
use crate::effects::{Effects, note_lost_places};
use crate::members::{Ways, comes_true, leftovers};
use crate::plan::{Kind, Place, Step};
use crate::station::{Left, rotated};

const SERVERS: usize = 3;
/// How long after a fault waiters may stand elsewhere that it left without their sessions: a server
/// that was dead for a moment may be taken out of the cluster by then.
const AFTERMATH: Duration = Duration::from_secs(20);

/// The servers with what it takes to trouble them.
pub(crate) struct Consul {
    cluster: Cluster,
    /// What leads clients to each of them.
    ways: Ways,
    admin: ConsulAdmin,
    log: Recorder,
    effects: Effects,
}

impl Consul {
    pub(crate) fn start(log: Recorder, effects: Effects) -> Consul {
        let cluster = Options::default().start(SERVERS);
        let ports: Vec<u16> = (0..SERVERS).map(|server| cluster.port(server)).collect();
        Consul {
            ways: Ways::to(&ports),
            admin: ConsulAdmin::new(ports, Duration::from_millis(500)),
            cluster,
            log,
            effects,
        }
    }

    /// How clients connect.
    pub(crate) fn url(&self) -> String {
        format!("consul://{}", self.ways.endpoints())
    }

    /// The servers themselves.
    pub(crate) fn ports(&self) -> Vec<u16> {
        (0..SERVERS).map(|place| self.cluster.port(place)).collect()
    }

    /// Does what `step` says, notes what came of it, and mends what does not mend by itself.
    pub(crate) fn suffer(&mut self, step: &Step) -> io::Result<()> {
        let since = now();
        match self.attempt(step) {
            Ok(true) => self.effects.note(step.kind, "agents"),
            Ok(false) => {}
            Err(error) => eprintln!("{} could not be seen: {error}", step.kind),
        }
        self.ways.open();
        // One fault at a time: with two servers gone there is no majority.
        self.comes_true(|this| Ok((0..SERVERS).all(|server| this.admin.is_well(server))))?;
        if step.kind.costs_places() {
            note_lost_places(&self.log, Place::Agents.keys(), since, AFTERMATH)?;
        }
        Ok(())
    }

    /// Whether the fault took effect.
    fn attempt(&mut self, step: &Step) -> io::Result<bool> {
        let any = usize::try_from(step.choice % SERVERS as u64).unwrap_or(0);
        match step.kind {
            Kind::LeaderKilled => {
                let leader = self.cluster.leader();
                self.kill(leader, step)
            }
            Kind::MemberKilled => self.kill(any, step),
            Kind::LeaderStopped => {
                let leader = self.cluster.leader();
                self.stop(leader, step)
            }
            Kind::MemberStopped => self.stop(any, step),
            Kind::ClientsCut => self.ways.cut(step),
            Kind::ClientsHeld => Ok(self.ways.hold(step)),
            // Others may have the lock before its holder hears of it.
            Kind::HeldKeyDeleted => self.intervene(step, &[Fault::DataLoss, Fault::PlaceLost], {
                |admin, lock, _| admin.delete(lock)
            }),
            // Nobody has it before the delay is over, so nothing is excused but places.
            Kind::LeaseRevoked => self.intervene(step, &[Fault::PlaceLost], |admin, _, holder| {
                admin.destroy(&holder.session)
            }),
            other => Err(io::Error::other(format!("{other} is none of Consul"))),
        }
    }

    fn kill(&mut self, server: usize, step: &Step) -> io::Result<bool> {
        self.cluster.kill(server);
        sleep(step.length);
        let gone = !self.admin.is_well(server);
        self.cluster.revive(server);
        Ok(gone)
    }

    fn stop(&mut self, server: usize, step: &Step) -> io::Result<bool> {
        self.cluster.pause(server);
        let gone = !self.admin.is_well(server);
        sleep(step.length);
        self.cluster.resume(server);
        Ok(gone)
    }

    /// Takes the lock from a holder by hand.
    fn intervene(
        &mut self,
        step: &Step,
        excused: &[Fault],
        take: impl Fn(&ConsulAdmin, &str, &Claimed) -> io::Result<()>,
    ) -> io::Result<bool> {
        let keys = rotated(Place::Agents.keys(), step.choice);
        self.comes_true(|this| {
            for key in &keys {
                let since = now();
                let Some(holder) = this.admin.holder(key)? else {
                    continue;
                };
                let taken = take(&this.admin, key, &holder);
                for fault in excused {
                    this.log.record(key, since, What::Fault { fault: *fault })?;
                }
                // It may have been released meanwhile.
                let left = this.admin.holder(key)?;
                let is_taken = left.is_none_or(|left| left.session != holder.session);
                if taken.is_ok() && is_taken {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Waits for `condition`, as long as it may take. An election may be under way, so that a
    /// question which fails is asked again.
    fn comes_true(&self, condition: impl Fn(&Consul) -> io::Result<bool>) -> io::Result<bool> {
        comes_true(|| Ok(condition(self).unwrap_or(false)))
    }

    /// Claims and sessions that are left, after waiting for them to go. The key of a lock whose
    /// holder died stays, without a session: nobody has it.
    pub(crate) fn leftovers(&self) -> io::Result<Left> {
        leftovers(|| self.look())
    }

    fn look(&self) -> io::Result<Left> {
        Ok(Left {
            queued: self.admin.claims()? as u64,
            leases: self.admin.sessions()?,
            ..Left::default()
        })
    }
}
