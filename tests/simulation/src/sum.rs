//! What of a state matters for what can happen next, as one number: the same for two states that
//! differ in the time, in how high the numbers have grown, or in the order of independent things.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::mem::discriminant;

use foldhash::quality::{FixedState, FoldHasher};
use lock_protocol::machine::{Answer, Outcome};

use crate::clock::{MS, Time};
use crate::process::{Caller, Doing, Flight, Heard, Link, Machine, Process};
use crate::world::{Happening, Happens, ToProcess, World};

/// Where instants begin, fencing tokens, the ids of questions under way, and the numbers of the
/// machines: each larger than all of the next kind. What is smaller counts as it is.
pub(crate) const INSTANTS: u64 = 1 << 61;
const TOKENS: u64 = 1 << 50;
pub(crate) const FLIGHTS: u64 = 1 << 45;
pub(crate) const NUMBERS: u64 = 1 << 40;

/// Nothing looks further back than the longest lease or two heartbeats.
const LONG_AGO: Time = 2_500 * MS;

/// A hasher for which instants count by their distance from now, and all else that grows by its
/// place among what there is.
pub(crate) struct Sum<'a> {
    now: Time,
    /// All numbers of a kind that grows; `None` as long as they are gathered.
    known: Option<&'a [u64]>,
    gathered: Vec<u64>,
    hasher: FoldHasher<'static>,
}

impl<'a> Sum<'a> {
    fn new(now: Time, known: Option<&'a [u64]>) -> Sum<'a> {
        Sum {
            now,
            known,
            gathered: Vec::new(),
            hasher: FixedState::default().build_hasher(),
        }
    }

    /// Adds things whose order does not matter.
    pub(crate) fn add_unordered<T: Hash>(&mut self, things: impl IntoIterator<Item = T>) {
        let mut sums = Vec::new();
        for thing in things {
            let mut sum = Sum::new(self.now, self.known);
            thing.hash(&mut sum);
            self.gathered.append(&mut sum.gathered);
            sums.push(sum.finish());
        }
        sums.sort_unstable();
        self.hasher.write_usize(sums.len());
        sums.iter().for_each(|sum| self.hasher.write_u64(*sum));
    }
}

impl Hasher for Sum<'_> {
    fn finish(&self) -> u64 {
        self.hasher.finish()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        match (number, self.known) {
            (u64::MAX, _) => self.hasher.write_u64(number),
            (INSTANTS.., _) => {
                let passed = self.now.saturating_sub(number).min(LONG_AGO);
                self.hasher.write_u64(passed);
                self.hasher.write_u64(number.saturating_sub(self.now));
            }
            (NUMBERS.., None) => self.gathered.push(number),
            (NUMBERS.., Some(known)) => {
                let place = known.partition_point(|it| *it < number);
                if number >= TOKENS {
                    // How many there are in a block.
                    let gap = place.checked_sub(1).map(|before| number - known[before]);
                    self.hasher.write_u64(gap.unwrap_or(0).min(4));
                }
                self.hasher.write_usize(place);
            }
            _ => self.hasher.write_u64(number),
        }
    }
}

/// The number of this state.
pub(crate) fn of(world: &World) -> u64 {
    let mut gathering = Sum::new(world.now, None);
    add(world, &mut gathering);
    let mut known = gathering.gathered;
    known.sort_unstable();
    known.dedup();
    let mut sum = Sum::new(world.now, Some(&known));
    add(world, &mut sum);
    sum.finish()
}

fn add(world: &World, sum: &mut Sum<'_>) {
    world.stalled_until.max(world.now).hash(sum);
    sum.add_unordered(&world.fates);
    sum.add_unordered(&world.refusals);
    world.server.add_to(sum);
    for process in &world.processes {
        add_process(world.now, process, sum);
    }
    // The time as fencing tokens have it: they may have run ahead.
    crate::server::moment(world.now).micros.hash(sum);
    let mut places = HashMap::new();
    let mut under_way: Vec<&Happening> = world.queue.iter().collect();
    under_way.sort_unstable_by_key(|it| (it.at, it.order));
    let in_order = under_way.into_iter().map(|it| {
        let channel = it.channel();
        let place: &mut u32 = places.entry(channel).or_default();
        *place += u32::from(channel.is_some());
        (*place, it.at.max(world.now), &it.what)
    });
    sum.add_unordered(in_order);
    world.onlooker.add_to(sum);
}

fn add_process(now: Time, process: &Process, sum: &mut Sum<'_>) {
    (process.life, process.condition, process.closing_since).hash(sum);
    (process.runs_since, process.last_waiter, process.last_owner).hash(sum);
    process.numbers.iter().for_each(|number| number.hash(sum));
    for (key, machine) in &process.machines {
        let Machine {
            key: it,
            timer: _,
            asked_at,
            asked,
            asked_of,
            look_by,
        } = machine;
        (key, it, asked_at, asked, asked_of, look_by).hash(sum);
    }
    for Caller {
        doing,
        turn: _,
        parked_until,
        drop_at,
        wants,
        wish: _,
    } in &process.callers
    {
        (doing, parked_until, drop_at, wants).hash(sum);
    }
    for (id, flight) in &process.flights {
        let Flight {
            key,
            what,
            owners: _,
            sent_at,
            epoch,
            pump,
            heard,
        } = flight;
        (id, key, what, sent_at, epoch, pump, heard).hash(sum);
    }
    let Link {
        epoch,
        is_up,
        since,
        largest,
        up,
        down,
        seen,
    } = &process.link;
    (epoch, is_up, seen).hash(sum);
    // News are by so much older than their arrival at the most.
    (since.max(&(now - 150 * MS)), up.max(&now), down.max(&now)).hash(sum);
    largest.iter().for_each(|number| number.hash(sum));
    process
        .missed
        .iter()
        .for_each(|missed| missed.what.hash(sum));
}

/// Obsolete turns and timers are taken out, so their numbers say nothing.
impl Hash for Happens {
    fn hash<H: Hasher>(&self, state: &mut H) {
        discriminant(self).hash(state);
        match self {
            Happens::Arrives(request) => request.hash(state),
            Happens::Closes(process, connection) => (process, connection).hash(state),
            Happens::To(process, life, what) => (process, life, what).hash(state),
            Happens::Resumes(it) | Happens::Starts(it) | Happens::TheftEnds(it) => it.hash(state),
            Happens::Storm => {}
        }
    }
}

impl Hash for ToProcess {
    fn hash<H: Hasher>(&self, state: &mut H) {
        discriminant(self).hash(state);
        match self {
            ToProcess::Answer(epoch, flight, reply, _) => (epoch, flight, reply).hash(state),
            ToProcess::News(epoch, key, owner, word, since) => {
                (epoch, key, owner, word, since).hash(state);
            }
            ToProcess::Fails(flight, failure) => (flight, failure).hash(state),
            ToProcess::Time(it, _) | ToProcess::Turn(it, _) => it.hash(state),
            ToProcess::Sends(key, ask) => (key, ask).hash(state),
            ToProcess::Connects => {}
        }
    }
}

impl Hash for Heard {
    fn hash<H: Hasher>(&self, state: &mut H) {
        discriminant(self).hash(state);
        match self {
            Heard::Answer(Answer::Acquired(acquired)) => acquired.hash(state),
            Heard::Answer(Answer::Released(released)) => released.hash(state),
            Heard::Answer(Answer::NotKnown(error, pause)) => {
                (error.is_denied(), pause).hash(state);
            }
            Heard::Answer(other) => discriminant(other).hash(state),
            Heard::Renewed(renewed) => renewed.hash(state),
        }
    }
}

/// Of what it is told a caller looks at a grant only.
impl Hash for Doing {
    fn hash<H: Hasher>(&self, state: &mut H) {
        discriminant(self).hash(state);
        match self {
            Doing::Nothing => {}
            Doing::Waits {
                id,
                key,
                terms,
                deadline,
                outcome,
            } => {
                (id, key, terms, deadline).hash(state);
                outcome.as_ref().map(discriminant).hash(state);
                if let Some(Outcome::Granted(granted)) = outcome {
                    granted.hash(state);
                }
            }
            Doing::Begins {
                key,
                lease,
                token,
                shard,
                place,
                terms,
                tries,
            } => {
                (key, lease, token, shard, place, terms, tries).hash(state);
            }
            Doing::Holds {
                key,
                lease,
                token,
                mode,
                shard,
                place,
                until,
            } => {
                (key, lease, token, mode, shard, place, until).hash(state);
            }
            Doing::Releases {
                key,
                lease,
                since,
                is_told,
            } => {
                (key, lease, since, is_told).hash(state);
            }
        }
    }
}
