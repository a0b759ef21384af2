//! A cluster of three etcd members, and what goes wrong with it.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lock_tests::checker::{Event, Fault, Nanos, Recorder, What, now};
use lock_tests::etcd::{Cluster, Options};
use lock_tests::faults::pipe::Pipe;

use crate::effects::Effects;
use crate::etcd_admin::{EtcdAdmin, Found};
use crate::plan::{Kind, Place, Step};
use crate::station::{Left, rotated};

const MEMBERS: usize = 3;
/// How long to look for the effect of a fault.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after a fault waiters may stand elsewhere that it left without their leases.
const AFTERMATH: Duration = Duration::from_secs(6);

/// The members with what it takes to trouble them.
pub(crate) struct Etcd {
    cluster: Cluster,
    /// What leads clients to each of them.
    pipes: Vec<Pipe>,
    admin: EtcdAdmin,
    log: Recorder,
    effects: Effects,
}

impl Etcd {
    pub(crate) fn start(log: Recorder, effects: Effects) -> Etcd {
        let cluster = Options::default().cuttable().start(MEMBERS);
        let ports: Vec<u16> = (0..MEMBERS).map(|member| cluster.port(member)).collect();
        Etcd {
            pipes: ports.iter().map(|port| Pipe::to(*port)).collect(),
            admin: EtcdAdmin::new(ports, Duration::from_millis(500)),
            cluster,
            log,
            effects,
        }
    }

    /// How clients connect.
    pub(crate) fn url(&self) -> String {
        let members: Vec<String> = self.pipes.iter().map(Pipe::endpoint).collect();
        format!("etcd://{}", members.join(","))
    }

    /// The members themselves.
    pub(crate) fn ports(&self) -> Vec<u16> {
        (0..MEMBERS).map(|place| self.cluster.port(place)).collect()
    }

    /// Does what `step` says, notes what came of it, and mends what does not mend by itself.
    pub(crate) fn suffer(&mut self, step: &Step) -> io::Result<()> {
        let since = now();
        match self.attempt(step) {
            Ok(true) => self.effects.note(step.kind, "cluster"),
            Ok(false) => {}
            Err(error) => eprintln!("{} could not be seen: {error}", step.kind),
        }
        for pipe in &self.pipes {
            pipe.open();
        }
        self.cluster.cut_off(None);
        // One fault at a time: with two members gone there is no majority.
        self.comes_true(|this| Ok((0..MEMBERS).all(|member| this.admin.is_well(member))))?;
        if step.kind.costs_places() {
            let until = now() + u64::try_from(AFTERMATH.as_nanos()).unwrap_or_default();
            for key in Place::Cluster.keys() {
                self.log.append(&Event {
                    process: 0,
                    key,
                    invoke: since,
                    returned: until,
                    what: What::Fault {
                        fault: Fault::PlaceLost,
                    },
                })?;
            }
        }
        Ok(())
    }

    /// Whether the fault took effect.
    fn attempt(&mut self, step: &Step) -> io::Result<bool> {
        let any = usize::try_from(step.choice % MEMBERS as u64).unwrap_or(0);
        match step.kind {
            Kind::LeaderKilled => {
                let leader = self.leader()?;
                self.kill(leader, step)
            }
            Kind::MemberKilled => self.kill(any, step),
            Kind::LeaderStopped => {
                let leader = self.leader()?;
                self.stop(leader, step)
            }
            Kind::MemberStopped => self.stop(any, step),
            Kind::LeaderCutOff => {
                let leader = self.leader()?;
                self.cluster.cut_off(Some(leader));
                // It gives up, or another leads.
                let gone = self.comes_true(|this| Ok(!this.admin.leads(leader)));
                sleep(step.length);
                gone
            }
            Kind::MemberCutOff => {
                self.cluster.cut_off(Some(any));
                let gone = self.comes_true(|this| Ok(!this.admin.is_well(any)));
                sleep(step.length);
                gone
            }
            Kind::ClientsCut => {
                let before = self.connections();
                self.pipes.iter().for_each(Pipe::cut);
                sleep(step.length);
                self.pipes.iter().for_each(Pipe::open);
                self.comes_true(|this| Ok(this.connections() > before))
            }
            Kind::ClientsHeld => {
                let before: u64 = self.pipes.iter().map(Pipe::held).sum();
                self.pipes.iter().for_each(Pipe::hold);
                sleep(step.length);
                Ok(self.pipes.iter().map(Pipe::held).sum::<u64>() > before)
            }
            Kind::HeldKeyDeleted => self.intervene(step, |admin, found| admin.delete(&found.key)),
            Kind::LeaseRevoked => self.intervene(step, |admin, found| {
                admin.revoke(found.lease).map(|()| true)
            }),
            Kind::Compacted => self.admin.compact().map(|()| true),
            other => Err(io::Error::other(format!("{other} is none of etcd"))),
        }
    }

    /// Who leads, if somebody does soon.
    fn leader(&mut self) -> io::Result<usize> {
        let mut leader = None;
        self.comes_true(|this| {
            leader = (0..MEMBERS).find(|member| this.admin.leads(*member));
            Ok(leader.is_some())
        })?;
        leader.ok_or_else(|| io::Error::other("nobody leads"))
    }

    fn kill(&mut self, member: usize, step: &Step) -> io::Result<bool> {
        self.cluster.kill(member);
        sleep(step.length);
        let gone = !self.admin.is_well(member);
        self.cluster.revive(member);
        Ok(gone)
    }

    /// Shorter than any lease, since etcd 3.4.23 lets a leader that stood still for longer end
    /// leases that were renewed elsewhere meanwhile.
    fn stop(&mut self, member: usize, step: &Step) -> io::Result<bool> {
        self.cluster.pause(member);
        let gone = !self.admin.is_well(member);
        sleep(step.length);
        self.cluster.resume(member);
        Ok(gone)
    }

    /// Takes the lock from a holder by hand.
    fn intervene(
        &mut self,
        step: &Step,
        take: impl Fn(&EtcdAdmin, &Found) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let keys = rotated(Place::Cluster.keys(), step.choice);
        self.comes_true(|this| {
            for key in &keys {
                let since = now();
                let Some(holder) = this.admin.claims(key)?.into_iter().next() else {
                    continue;
                };
                let taken = take(&this.admin, &holder);
                this.excuse(key, since)?;
                // It may have been released meanwhile.
                if taken.is_ok_and(|taken| taken) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    fn excuse(&self, key: &str, since: Nanos) -> io::Result<()> {
        for fault in [Fault::DataLoss, Fault::PlaceLost] {
            self.log.record(key, since, What::Fault { fault })?;
        }
        Ok(())
    }

    fn connections(&self) -> u64 {
        self.pipes.iter().map(Pipe::connections).sum()
    }

    /// Waits for `condition`, as long as it may take.
    fn comes_true(
        &mut self,
        mut condition: impl FnMut(&mut Etcd) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if condition(self)? {
                return Ok(true);
            }
            sleep(Duration::from_millis(5));
        }
        Ok(false)
    }

    /// Claims, leases and watchers that are left, after waiting for them to go. What remembers
    /// claims that were withdrawn lives for a minute.
    pub(crate) fn leftovers(&mut self) -> io::Result<Left> {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            match self.look() {
                Ok(left) if left.is_nothing() => return Ok(left),
                // A member that has much to do may answer the next time.
                outcome if Instant::now() > deadline => return outcome,
                _ => {}
            }
            sleep(Duration::from_millis(50));
        }
    }

    fn look(&self) -> io::Result<Left> {
        let mut left = Left::default();
        for found in self.admin.all()? {
            left.keys.push((found.key, None));
        }
        left.leases = self.admin.leases()?.len() as u64;
        for member in 0..MEMBERS {
            left.subscriptions += self.admin.watchers(member)?;
        }
        Ok(left)
    }
}
