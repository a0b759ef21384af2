//! What can happen next.

use stateright::{Model, Property};

use crate::process::{Hint, Hold, Process, Stage, Stray};
use crate::store::{Answer, Claim, Message, Script, Store};
use crate::{BLOCK, Bug, Protocol, Resource, Seen, State};

/// Something that happens, to the process of that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It asks for the lock, or again.
    Ask(usize, Fate),
    /// It reads its oldest message.
    Wake(usize),
    /// Its caller writes to the resource.
    Write(usize),
    /// Its watchdog renews the lease.
    Renew(usize),
    /// It passes the lease on to its next caller.
    PassOn(usize),
    /// It releases the lock, or repeats that.
    Release(usize, Fate),
    /// The lease ends in the store.
    Expire,
    /// Its waiting caller gives up.
    Cancel(usize, Fate),
    /// Its late withdrawal arrives.
    Arrive(usize),
    /// Its late question arrives. Nobody reads the answer.
    Stray(usize),
    /// It dies; its connection with it.
    Crash(usize),
    /// Its machine dies: the server still takes the connection for alive.
    PowerOff(usize),
    /// It stands still.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// Its oldest message is lost.
    LoseMessage(usize),
    /// It loses its connection, and what was on its way.
    Disconnect(usize),
    /// It has a connection again.
    Reconnect(usize),
    /// It could not renew until its lease was over by its own clock.
    Lapse(usize),
    /// The server loses data.
    Lose(Lost),
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is answered.
    Answered,
    /// It is carried out, but the answer is lost.
    AnswerLost,
    /// It never arrives.
    RequestLost,
    /// Of a withdrawal or a question: it arrives at some time, whatever happens until then.
    Late,
}

/// Which data the server loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// All: flushed, or restarted without persistence.
    Everything,
    /// The lock: deleted by hand, or evicted.
    Lock,
    /// The queue: evicted.
    Queue,
    /// The fencing counter: evicted.
    Fence,
}

impl Action {
    /// Whether it is a fault, of which the number is bounded.
    fn is_fault(self, state: &State) -> bool {
        match self {
            Action::Ask(_, fate) | Action::Release(_, fate) => fate != Fate::Answered,
            Action::Expire => is_about_to_wake(state),
            Action::Cancel(..)
            | Action::Crash(_)
            | Action::PowerOff(_)
            | Action::Pause(_)
            | Action::LoseMessage(_)
            | Action::Disconnect(_)
            | Action::Lapse(_)
            | Action::Lose(_) => true,
            Action::Wake(_)
            | Action::Write(_)
            | Action::Renew(_)
            | Action::PassOn(_)
            | Action::Arrive(_)
            | Action::Stray(_)
            | Action::Resume(_)
            | Action::Reconnect(_) => false,
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let processes = self.callers.iter().map(|callers| Process::new(*callers));
        vec![State {
            store: Store::default(),
            processes: processes.collect(),
            resource: Resource::default(),
            faults: 0,
            seen: Seen::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (p, process) in state.processes.iter().enumerate() {
            if process.lives() {
                self.actions_of(p, process, actions);
            }
            if process.withdrawal.is_some() {
                actions.push(Action::Arrive(p));
            }
            if process.stray.is_some() {
                actions.push(Action::Stray(p));
            }
        }
        if self.may_expire(state) {
            actions.push(Action::Expire);
        }
        let store = &state.store;
        if store.owner.is_some() {
            actions.extend([Action::Lose(Lost::Everything), Action::Lose(Lost::Lock)]);
        }
        if !store.queue.is_empty() {
            actions.push(Action::Lose(Lost::Queue));
        }
        if store.fence > 0 {
            actions.push(Action::Lose(Lost::Fence));
        }
        actions.retain(|action| state.faults < self.faults || !action.is_fault(state));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, action);
        // What changes nothing is no step: else a waiter that asks for ever would look like progress.
        if state == *last {
            return None;
        }
        state.faults += u8::from(action.is_fault(last));
        Some(state)
    }

    /// Not even a queue in which every claim stood twice would be longer, those included whose withdrawal was a fault: so the model is
    /// finite whatever the mistake.
    fn within_boundary(&self, state: &State) -> bool {
        state.store.queue.len() <= 2 * (state.processes.len() + usize::from(state.faults))
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        crate::properties()
    }
}

impl Protocol {
    /// What process `p` can do, and what can be done to it.
    fn actions_of(&self, p: usize, process: &Process, actions: &mut Vec<Action>) {
        use Action::*;
        if process.paused {
            actions.extend([Resume(p), Crash(p)]);
            return;
        }
        if !process.has_ended() {
            actions.extend([Crash(p), PowerOff(p)]);
        }
        if !process.connected {
            actions.push(Reconnect(p));
        } else if !process.has_ended() {
            actions.push(Disconnect(p));
        }
        if !process.inbox.is_empty() {
            actions.push(LoseMessage(p));
            if !matches!(process.stage, Stage::Releasing { .. }) {
                actions.push(Wake(p));
            }
        }
        let up = process.connected;
        match &process.stage {
            Stage::Idle if up && process.callers > 0 => {
                actions.extend([
                    Ask(p, Fate::Answered),
                    Ask(p, Fate::AnswerLost),
                    Ask(p, Fate::RequestLost),
                ]);
                if process.stray.is_none() {
                    actions.push(Ask(p, Fate::Late));
                }
            }
            Stage::Waiting => {
                actions.push(Pause(p));
                if up {
                    actions.extend([Cancel(p, Fate::Answered), Cancel(p, Fate::RequestLost)]);
                    if process.withdrawal.is_none() {
                        actions.push(Cancel(p, Fate::Late));
                    }
                    if !self.has(Bug::WaiterNeverAsks) {
                        actions.extend([Ask(p, Fate::Answered), Ask(p, Fate::AnswerLost)]);
                    }
                }
            }
            Stage::Holding(hold) => {
                actions.extend([Pause(p), Lapse(p)]);
                if up {
                    actions.push(Renew(p));
                }
                if !hold.written {
                    actions.push(Write(p));
                } else {
                    if self.may_pass_on(process, hold) {
                        actions.push(PassOn(p));
                    }
                    if up {
                        actions.extend([
                            Release(p, Fate::Answered),
                            Release(p, Fate::AnswerLost),
                            Release(p, Fate::RequestLost),
                        ]);
                    }
                }
            }
            Stage::Releasing { .. } if up => actions.push(Release(p, Fate::Answered)),
            Stage::Idle | Stage::Releasing { .. } | Stage::Dead => {}
        }
    }

    fn may_pass_on(&self, process: &Process, hold: &Hold) -> bool {
        process.callers > 1
            && (hold.passes < self.passes || self.has(Bug::PassesWithoutEnd))
            && (hold.next <= hold.last || self.has(Bug::PassesBeyondBlock))
            && (!hold.spent || self.has(Bug::PassesSpentLease))
    }

    /// Whether nobody is entitled to rely on the lease in the store: a live holder's own clock ends it first.
    fn may_expire(&self, state: &State) -> bool {
        let Some(owner) = state.store.owner.filter(|owner| owner.leased) else {
            return false;
        };
        let process = &state.processes[owner.claim.process];
        let relies = |hold: &Hold| {
            hold.grant == owner.grant
                && !hold.spent
                && !(hold.grace && self.has(Bug::GraceTakenForTtl))
        };
        process.paused || owner.cut || !process.holds().is_some_and(relies)
    }

    fn apply(&self, state: &mut State, action: Action) {
        match action {
            Action::Ask(p, fate) => self.ask(state, p, fate),
            Action::Wake(p) => self.wake(state, p),
            Action::Write(p) => self.write(state, p),
            Action::Renew(p) => self.renew(state, p),
            Action::PassOn(p) => pass_on(state, p, self.has(Bug::PassesSpentLease)),
            Action::Release(p, fate) => self.release(state, p, fate),
            Action::Expire => expire(state),
            Action::Cancel(p, fate) => self.cancel(state, p, fate),
            Action::Arrive(p) => self.arrive(state, p),
            Action::Stray(p) => self.stray(state, p),
            Action::Crash(p) => die(&mut state.processes[p], false),
            Action::PowerOff(p) => die(&mut state.processes[p], true),
            Action::Pause(p) => state.processes[p].paused = true,
            Action::Resume(p) => state.processes[p].paused = false,
            Action::LoseMessage(p) => drop(state.processes[p].inbox.remove(0)),
            Action::Disconnect(p) => {
                state.processes[p].connected = false;
                state.processes[p].inbox.clear();
            }
            Action::Reconnect(p) => state.processes[p].connected = true,
            Action::Lapse(p) => state.processes[p].end_turn(),
            Action::Lose(lost) => lose(state, lost),
        }
    }

    /// Runs a script, and delivers what it sends.
    fn run<T>(&self, state: &mut State, takes: u8, body: impl FnOnce(&mut Script<'_>) -> T) -> T {
        let mut script = Script {
            protocol: self,
            store: &mut state.store,
            processes: &state.processes,
            seen: &mut state.seen,
            takes,
            sent: Vec::new(),
        };
        let answer = body(&mut script);
        for Message { to, block, grant } in script.sent {
            let process = &mut state.processes[to.process];
            if process.lives() {
                // Of one claim only the newest is kept.
                process.inbox.retain(|hint| hint.number != to.number);
                process.inbox.push(Hint {
                    number: to.number,
                    block,
                    grant,
                    spent: false,
                });
            }
        }
        answer
    }

    fn ask(&self, state: &mut State, p: usize, fate: Fate) {
        let process = &mut state.processes[p];
        let again = process.stage == Stage::Waiting;
        if !again {
            let withdrawn = process.withdrawal == Some(process.claim);
            if !withdrawn || !self.has(Bug::AsksForWithdrawnClaim) {
                process.claim += 1;
            }
            process.stage = Stage::Waiting;
        }
        let claim = process.claim_of(p);
        let owner = state.store.owner.map(|owner| owner.claim);
        if again && self.has(Bug::WaiterAsksOnlyForOwner) && owner != Some(claim) {
            return;
        }
        match fate {
            Fate::RequestLost => return,
            Fate::Late => {
                let number = claim.number;
                let gone = false;
                state.processes[p].stray = Some(Stray { number, gone });
                return;
            }
            Fate::Answered | Fate::AnswerLost => {}
        }
        let answer = self.run(state, BLOCK, |script| script.acquire(claim, false));
        if fate == Fate::Answered {
            note_answer(state, p, answer);
        }
    }

    fn wake(&self, state: &mut State, p: usize) {
        let process = &mut state.processes[p];
        let hint = process.inbox.remove(0);
        let mine = hint.number == process.claim;
        // A message that lay about too long proves nothing any more; the waiter asks.
        let proves = !hint.spent || self.has(Bug::LeaseCountedFromArrival);
        match process.stage {
            Stage::Waiting if mine && proves => {
                process.stage = Stage::Holding(Hold::new(hint.block, hint.grant, true));
            }
            Stage::Waiting if mine => {}
            // It asked before it read. Of a later grant than this one it would not know, and it is given back below.
            Stage::Holding(ref hold) if mine && hint.grant <= hold.token_of => {}
            // Nobody here waits for that claim, or not any more: it is given back at once.
            _ if process.connected => {
                let claim = Claim {
                    process: p,
                    number: hint.number,
                };
                self.run(state, 1, |script| script.abandon(claim));
                bury(state, claim);
            }
            _ => {}
        }
    }

    fn write(&self, state: &mut State, p: usize) {
        let resource = &mut state.resource;
        let Some(hold) = state.processes[p].holds_mut() else {
            return;
        };
        hold.written = true;
        if hold.token < resource.token && !self.has(Bug::ResourceIgnoresToken) {
            return;
        }
        state.seen.stale_write |= hold.token_of < resource.grant;
        resource.token = resource.token.max(hold.token);
        resource.grant = resource.grant.max(hold.token_of);
    }

    fn renew(&self, state: &mut State, p: usize) {
        let process = &state.processes[p];
        let claim = process.claim_of(p);
        let Some(hold) = process.holds().cloned() else {
            return;
        };
        let passes = process.callers > 1 && hold.passes < self.passes;
        let tokens = if passes && hold.next > hold.last && !hold.spent {
            BLOCK
        } else {
            0
        };
        let renewed = self.run(state, 1, |s| s.renew(claim, hold.grant, tokens));
        let owner = state.store.owner;
        let process = &mut state.processes[p];
        match (renewed, process.holds_mut()) {
            (Some(block), Some(hold)) => {
                // A lease that is over by its own clock stays so, whatever the store says.
                hold.grace = false;
                hold.grant = owner.map_or(hold.grant, |owner| owner.grant);
                if let Some(block) = block {
                    (hold.next, hold.last) = (block.first, block.last);
                    hold.left_of = hold.grant;
                }
            }
            _ => process.end_turn(),
        }
    }

    fn release(&self, state: &mut State, p: usize, fate: Fate) {
        let process = &mut state.processes[p];
        let next = match process.stage {
            Stage::Releasing { next } => next,
            _ => process.callers > 1,
        };
        let next = next.then_some(Claim {
            process: p,
            number: process.claim + 1,
        });
        if fate == Fate::RequestLost {
            // The holder gives up; the lease runs out by itself.
            process.end_turn();
            return;
        }
        let claim = process.claim_of(p);
        let released = self.run(state, 1, |script| script.release(claim, next));
        if fate == Fate::Answered {
            bury(state, claim);
        }
        let process = &mut state.processes[p];
        if fate == Fate::AnswerLost {
            process.stage = Stage::Releasing {
                next: next.is_some(),
            };
            return;
        }
        process.end_turn();
        let Some(next) = next else { return };
        process.claim = next.number;
        process.stage = Stage::Waiting;
        // If the lock was not held, or not any more, it is not known what became of the next claim. It asks.
        if let Some(Some(answer)) = released {
            note_answer(state, p, answer);
        }
    }

    fn cancel(&self, state: &mut State, p: usize, fate: Fate) {
        let process = &mut state.processes[p];
        if fate == Fate::Answered && process.callers > 1 {
            // The claim goes on, for those who wait behind.
            process.callers -= 1;
            return;
        }
        // Whoever waits behind has come when the withdrawal was under way, and gets a claim of its own.
        process.end_turn();
        let claim = process.claim_of(p);
        match fate {
            Fate::Answered | Fate::AnswerLost => {
                self.run(state, 1, |script| script.abandon(claim));
                bury(state, claim);
            }
            Fate::RequestLost => {}
            Fate::Late => process.withdrawal = Some(claim.number),
        }
    }

    fn arrive(&self, state: &mut State, p: usize) {
        if let Some(number) = state.processes[p].withdrawal.take() {
            let claim = Claim { process: p, number };
            self.run(state, 1, |script| script.abandon(claim));
            bury(state, claim);
        }
    }

    fn stray(&self, state: &mut State, p: usize) {
        let Some(Stray { number, gone }) = state.processes[p].stray.take() else {
            return;
        };
        if gone && !self.has(Bug::ForgetsWithdrawals) {
            return;
        }
        let claim = Claim { process: p, number };
        self.run(state, BLOCK, |script| script.acquire(claim, true));
        let store = &state.store;
        let owns = store.owner.is_some_and(|owner| owner.claim == claim);
        state.seen.withdrawn_stayed |= gone && (owns || store.queue.contains(&claim));
    }
}

/// The claim has ended, and the server remembers it as long as a question of it may come.
fn bury(state: &mut State, claim: Claim) {
    if let Some(stray) = &mut state.processes[claim.process].stray {
        stray.gone |= stray.number == claim.number;
    }
}

/// Whether the owner is a live process that is about to read that it is: that it does not do so within the grace is a fault. For a claim
/// that is being withdrawn nobody reads.
fn is_about_to_wake(state: &State) -> bool {
    state.store.owner.is_some_and(|owner| {
        let process = &state.processes[owner.claim.process];
        let reads = process.is_up() && process.withdrawal != Some(owner.claim.number);
        let tells = |hint: &Hint| hint.grant == owner.grant;
        reads && process.inbox.iter().any(tells)
    })
}

fn note_answer(state: &mut State, p: usize, answer: Answer) {
    let grant = state.store.grants;
    state.processes[p].stage = match answer {
        Answer::Granted(block) => Stage::Holding(Hold::new(block, grant, false)),
        Answer::Queued => Stage::Waiting,
    };
}

fn pass_on(state: &mut State, p: usize, believed: bool) {
    let process = &mut state.processes[p];
    process.callers -= 1;
    if let Some(hold) = process.holds_mut() {
        hold.token = hold.next;
        hold.token_of = hold.left_of;
        hold.next += 1;
        hold.passes += 1;
        hold.written = false;
        hold.spent &= !believed;
        let token = hold.token;
        state.seen.token = state.seen.token.max(token);
    }
}

fn expire(state: &mut State) {
    let Some(owner) = state.store.owner.take() else {
        return;
    };
    state.seen.lapsed = true;
    let process = &mut state.processes[owner.claim.process];
    for hint in &mut process.inbox {
        hint.spent |= hint.grant == owner.grant;
    }
    let paused = process.paused;
    if let Some(hold) = process.holds_mut() {
        // One who stands still cannot look at its clock. One that runs would have looked by now.
        hold.spent |= hold.grant == owner.grant && paused;
    }
}

fn die(process: &mut Process, half_open: bool) {
    *process = Process {
        stage: Stage::Dead,
        callers: 0,
        claim: process.claim,
        withdrawal: process.withdrawal,
        stray: process.stray,
        paused: false,
        connected: half_open && process.connected,
        inbox: Vec::new(),
    };
}

fn lose(state: &mut State, lost: Lost) {
    let store = &mut state.store;
    if matches!(lost, Lost::Everything | Lost::Lock) {
        state.seen.owner_forgotten |= store.owner.take().is_some();
        state.seen.lapsed = true;
    }
    if matches!(lost, Lost::Everything | Lost::Queue) {
        store.queue.clear();
    }
    if matches!(lost, Lost::Everything | Lost::Fence) {
        store.fence = 0;
    }
    if lost == Lost::Everything {
        let strays = state.processes.iter_mut().filter_map(|p| p.stray.as_mut());
        strays.for_each(|stray| stray.gone = false);
    }
    // However fast, it takes longer than a block of tokens has microseconds.
    store.time += BLOCK - 1;
}
