//! A cluster of three etcd members, and what goes wrong with it.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use lock_tests::checker::{Fault, Nanos, Recorder, What, now};
use lock_tests::etcd::{Cluster, Options};

use crate::effects::{Effects, note_lost_places};
use crate::etcd_admin::{EtcdAdmin, Found};
use crate::members::{Ways, comes_true, leftovers};
use crate::plan::{Kind, Place, Step};
use crate::station::{Left, rotated};

const MEMBERS: usize = 3;
/// How long after a fault waiters may stand elsewhere that it left without their leases.
const AFTERMATH: Duration = Duration::from_secs(6);

/// The members with what it takes to trouble them.
pub(crate) struct Etcd {
    cluster: Cluster,
    /// What leads clients to each of them.
    ways: Ways,
    admin: EtcdAdmin,
    log: Recorder,
    effects: Effects,
}

impl Etcd {
    pub(crate) fn start(log: Recorder, effects: Effects) -> Etcd {
        let cluster = Options::default().cuttable().start(MEMBERS);
        let ports: Vec<u16> = (0..MEMBERS).map(|member| cluster.port(member)).collect();
        Etcd {
            ways: Ways::to(&ports),
            admin: EtcdAdmin::new(ports, Duration::from_millis(500)),
            cluster,
            log,
            effects,
        }
    }

    /// How clients connect.
    pub(crate) fn url(&self) -> String {
        format!("etcd://{}", self.ways.endpoints())
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
        self.ways.open();
        self.cluster.cut_off(None);
        // One fault at a time: with two members gone there is no majority.
        comes_true(|| Ok((0..MEMBERS).all(|member| self.admin.is_well(member))))?;
        if step.kind.costs_places() {
            note_lost_places(&self.log, Place::Cluster.keys(), since, AFTERMATH)?;
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
                let gone = comes_true(|| Ok(!self.admin.leads(leader)));
                sleep(step.length);
                gone
            }
            Kind::MemberCutOff => {
                self.cluster.cut_off(Some(any));
                let gone = comes_true(|| Ok(!self.admin.is_well(any)));
                sleep(step.length);
                gone
            }
            Kind::ClientsCut => self.ways.cut(step),
            Kind::ClientsHeld => Ok(self.ways.hold(step)),
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
        comes_true(|| {
            leader = (0..MEMBERS).find(|member| self.admin.leads(*member));
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
        comes_true(|| {
            for key in &keys {
                let since = now();
                let Some(holder) = self.admin.claims(key)?.into_iter().next() else {
                    continue;
                };
                let taken = take(&self.admin, &holder);
                self.excuse(key, since)?;
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

    /// Claims, leases and watchers that are left, after waiting for them to go. What remembers
    /// claims that were withdrawn lives for a minute.
    pub(crate) fn leftovers(&self) -> io::Result<Left> {
        leftovers(|| self.look())
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
