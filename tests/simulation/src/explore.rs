//! Every order of events, and every place for a bounded number of faults: what the simulation
//! leaves to chance is chosen here by [stateright], which visits all states that can be reached.
//!
//! Messages take no time, and whatever is due at an instant happens in any order, but for what is
//! in one connection. Only when all of it has happened does time pass, to what is due next. What
//! takes longer or goes another way is a *fault*, of which the number is bounded.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use lock_protocol::{Kind, Mode};
use stateright::{Model, Path, Property};

use crate::Plan;
use crate::chance::{Chance, Choice};
use crate::clock::Clock;
use crate::fault::Fault;
use crate::process::{Condition, Process, Wish};
use crate::promise::{Promise, Violation};
use crate::sum;
use crate::world::{Happens, ToProcess, World};

/// What is explored: one key, wanted once by each caller.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What each caller of each process wants.
    pub callers: Vec<Vec<Wish>>,
    /// How many faults may happen.
    pub faults: u8,
    /// How often a process may pass a lease on before others get their turn.
    pub passes: u32,
    /// The mistake that is made, if any.
    #[cfg(lock_mistakes)]
    pub mistake: Option<lock_protocol::mistakes::Mistake>,
}

/// Everything at one instant.
#[derive(Clone)]
pub struct State {
    world: World,
    faults: u8,
    sum: u64,
}

/// Something that may happen next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    what: What,
    choice: Choice,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// What was planned with this number.
    Planned(u64),
    Cut(usize),
    Pause(usize),
    Crash(usize),
    ShutDown(usize),
    LoseData,
    Steal,
}

impl Bound {
    /// Processes of so many callers who want the plain lock, and faults.
    pub fn new(callers: &[usize], faults: u8) -> Bound {
        let plain = Wish {
            mode: Mode::Exclusive,
            keeps: false,
        };
        let wishes = callers.iter().map(|callers| vec![plain; *callers]);
        Bound::of(wishes.collect(), faults)
    }

    /// Processes of callers with these wishes, and faults.
    pub fn of(callers: Vec<Vec<Wish>>, faults: u8) -> Bound {
        Bound {
            callers,
            faults,
            passes: 1,
            #[cfg(lock_mistakes)]
            mistake: None,
        }
    }

    /// A promise that is broken, if one was found to be, and the way to it.
    pub fn broken(&self, found: HashMap<&'static str, Path<State, Step>>) -> Option<String> {
        found.into_values().find_map(|path| {
            let broken = path.last_state().broken()?.to_string();
            let way = self.tell(path.into_actions()).join("\n");
            Some(format!("{way}\nBROKEN {broken}"))
        })
    }

    /// What happens on the way that these steps go, line by line.
    fn tell(&self, steps: impl IntoIterator<Item = Step>) -> Vec<String> {
        let mut state = self.init_states().remove(0);
        let mut told = Vec::new();
        for step in steps {
            state.world.lines = Some(Vec::new());
            let Some(next) = self.next_state(&state, step) else {
                break;
            };
            state = next;
            if step.choice != Choice::default() || !matches!(step.what, What::Planned(_)) {
                told.push(format!("------ {step:?}"));
            }
            told.extend(state.world.lines.take().unwrap_or_default());
        }
        told
    }

    /// Makes the mistake in this thread.
    fn make_mistake(&self) {
        #[cfg(lock_mistakes)]
        lock_protocol::mistakes::make(self.mistake);
    }
}

impl State {
    fn new(world: World, faults: u8) -> State {
        let sum = sum::of(&world);
        State { world, faults, sum }
    }

    /// The promise that is broken, if one is.
    pub fn broken(&self) -> Option<&Violation> {
        self.world.onlooker.violation.as_ref()
    }

    pub(crate) fn keeps(&self, promise: Promise) -> bool {
        self.broken().is_none_or(|broken| broken.promise != promise)
    }

    /// Whether every caller has had the lock, or was told that it has not, or is dead.
    fn has_ended(&self) -> bool {
        let mut processes = self.world.processes.iter();
        processes.all(Process::has_ended)
    }
}

impl Model for Bound {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        self.make_mistake();
        let callers = self.callers.iter().map(Vec::len).max().unwrap_or(0);
        let plan = Plan {
            processes: self.callers.len(),
            callers,
            keys: 1,
            goes_on: true,
            ..Plan::new(0)
        };
        let mut world = World::new(&plan, Chance::Chosen(Choice::default()));
        world.now = 2 * sum::INSTANTS;
        world.last_flight = sum::FLIGHTS;
        world.rules.local_passes = self.passes;
        world.rules.local_share = 1.0;
        world.is_stormy = true;
        for (number, process) in world.processes.iter_mut().enumerate() {
            process.clock = Clock::right();
            process.first_number = sum::NUMBERS + ((number as u64) << 32);
            process.numbers.fill(process.first_number);
            for (place, caller) in process.callers.iter_mut().enumerate() {
                caller.wish = self.callers[number].get(place).copied();
                caller.wants = u32::from(caller.wish.is_some());
            }
        }
        world.begin();
        vec![State::new(world, 0)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        if state.broken().is_some() {
            return;
        }
        let usual = Choice::default();
        let odd = Choice {
            is_odd: true,
            ..usual
        };
        let is_left = state.faults < self.faults;
        let mut add = |what, choice| actions.push(Step { what, choice });
        for planned in state.world.possible() {
            let what = What::Planned(planned.order);
            add(what, usual);
            if is_left {
                add(what, odd);
                for fault in faults_of(&planned.what) {
                    let fault = Some(*fault);
                    add(what, Choice { fault, ..usual });
                    // An asker that is stuck for long promises nothing.
                    if fault != Some(Fault::RequestOvertaken) {
                        add(what, Choice { fault, ..odd });
                    }
                }
            }
        }
        if !is_left || state.world.queue.is_empty() {
            return;
        }
        for (number, process) in state.world.processes.iter().enumerate() {
            if process.condition == Condition::Runs && !process.has_ended() {
                if process.link.is_up {
                    add(What::Cut(number), usual);
                    add(What::Cut(number), odd);
                }
                add(What::Pause(number), odd);
                add(What::Crash(number), usual);
                add(What::ShutDown(number), usual);
            }
        }
        if !state.world.server.is_idle(state.world.now) {
            add(What::LoseData, usual);
        }
        add(What::Steal, odd);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        self.make_mistake();
        let State {
            mut world,
            mut faults,
            ..
        } = last.clone();
        world.chance = Chance::Chosen(step.choice);
        match step.what {
            What::Planned(order) => world.happen_now(order),
            What::Cut(process) => world.cut(process),
            What::Pause(process) => world.pause(process),
            What::Crash(process) => world.crash(process),
            What::ShutDown(process) => world.shut_down(process),
            What::LoseData => world.lose_data(),
            What::Steal => world.steal(),
        }
        let Chance::Chosen(left) = world.chance else {
            return None;
        };
        if left.fault.is_some() || left.is_odd && !left.is_used {
            // It is none that can happen here.
            return None;
        }
        world.chance = Chance::Chosen(Choice::default());
        let is_fault = !matches!(step.what, What::Planned(_)) || step.choice != Choice::default();
        world.forget_what_is_over();
        world.check_processes();
        if world.queue.is_empty() && world.onlooker.violation.is_none() {
            world.end();
        }
        faults += u8::from(is_fault);
        let next = State::new(world, faults);
        if is_fault && next.sum == last.sum {
            return None;
        }
        if step.choice.is_odd && matches!(step.what, What::Planned(_)) {
            // What is not odd is no fault.
            let choice = Choice {
                is_odd: false,
                ..step.choice
            };
            let usual = self.next_state(last, Step { choice, ..step });
            if usual.is_some_and(|usual| usual.sum == next.sum) {
                return None;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Bound>> {
        let mut properties = crate::promise::properties();
        properties.push(Property::<Bound>::eventually(EVERYONE_ENDS, |_, state| {
            state.has_ended()
        }));
        properties.push(Property::<Bound>::sometimes(
            WITHOUT_FAULT,
            |bound, state| {
                let callers: usize = bound.callers.iter().map(Vec::len).sum();
                state.faults == 0
                    && state.world.onlooker.grants == callers as u64
                    && state.has_ended()
            },
        ));
        // Permits keep nobody from writing.
        let mut wishes = self.callers.iter().flatten();
        if self.faults > 0 && wishes.any(|wish| wish.mode.kind() != Kind::Permits) {
            properties.push(Property::<Bound>::sometimes(STALE_WRITE, |_, state| {
                state.world.onlooker.stale_writes > 0
            }));
        }
        properties
    }
}

/// The faults that may happen on the way of this.
fn faults_of(what: &Happens) -> &'static [Fault] {
    match what {
        Happens::To(_, _, ToProcess::Turn(..)) => &[
            Fault::RequestLost,
            Fault::Slow,
            Fault::Refused,
            Fault::RequestOvertaken,
            Fault::CallerParked,
            Fault::CallerLeft,
            Fault::ReleaseLeft,
        ],
        Happens::To(..) => &[Fault::RequestLost, Fault::Slow, Fault::RequestOvertaken],
        Happens::Arrives(_) => &[
            Fault::AnswerLost,
            Fault::NewsLost,
            Fault::NewsTwice,
            Fault::Slow,
        ],
        _ => &[],
    }
}

/// In the end every caller has had the lock, or was told that it has not, or is dead.
pub const EVERYONE_ENDS: &str = "every caller ends";
/// Everyone can be served without a fault.
pub const WITHOUT_FAULT: &str = "all are served without a fault";
/// A holder can come too late: the fence is needed.
pub const STALE_WRITE: &str = "a stale write is refused";

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.sum, self.faults).hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        (self.sum, self.faults) == (other.sum, other.faults)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let looks = self.world.processes.iter().map(|process| {
            let machines = process.machines.values();
            machines
                .map(|machine| machine.key.look())
                .collect::<Vec<_>>()
        });
        write!(f, "{} faults, {:?}", self.faults, looks.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::collections::hash_map::Entry;
    use std::hash::BuildHasher;

    use super::*;

    /// Of all states that two processes can reach through a fault, how many were come to by two
    /// ways, and how many of those go on by other ways than the first time, if `known` says that
    /// two are one.
    fn come_to_twice(known: impl Fn(&State) -> u64) -> (u32, u32) {
        let bound = Bound::new(&[1, 1], 1);
        let next = |state: &State| {
            let steps = bound.next_steps(state).into_iter();
            steps.map(|(_, next)| next).collect::<Vec<_>>()
        };
        let mut seen = HashMap::new();
        let (mut twice, mut parted) = (0, 0);
        let mut open = bound.init_states();
        while let Some(state) = open.pop() {
            let next = next(&state);
            let ways: BTreeSet<u64> = next.iter().map(&known).collect();
            match seen.entry(known(&state)) {
                Entry::Vacant(new) => {
                    new.insert(ways);
                    open.extend(next);
                }
                Entry::Occupied(before) => {
                    twice += 1;
                    parted += u32::from(*before.get() != ways);
                }
            }
        }
        (twice, parted)
    }

    #[test]
    fn states_that_are_one_go_on_by_the_same_ways() {
        let known = |state: &State| state.sum.wrapping_mul(2) + u64::from(state.faults);
        let (twice, parted) = come_to_twice(known);
        assert!(twice > 10_000, "{twice}");
        assert_eq!(parted, 0, "of {twice}");
        // The control: what is held in the store makes a difference.
        let looks = |state: &State| {
            let text = format!("{state:?}");
            foldhash::fast::FixedState::default().hash_one(text)
        };
        assert!(come_to_twice(looks).1 > 0);
    }
}
