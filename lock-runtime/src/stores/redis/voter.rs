//! A server as one of several that vote.

use std::time::Duration;

use deadpool_redis::Config;
use deadpool_redis::redis::{Cmd, Value, cmd};
use lock_protocol::{BackendError, Claim, LockKey, Renewal};
use tokio::runtime::Handle;

use super::call::Call;
use super::connection::Role;
use super::fault::Fault;
use super::keeper::Keeper;
use super::message::IfCallerGone;
use super::scripts::voting::{self, Terms, Vote};
use super::thread::{Running, Thread};
use super::{RedisBackend, RedisSettings, decode};
use crate::error::LockError;

/// The thread on which the connections of all servers live.
pub(in crate::stores) struct Together(Thread);

/// Ends the thread when it is dropped.
pub(in crate::stores) struct Alive {
    _thread: Running,
}

/// What keeps the connections of some servers.
#[derive(Default)]
pub(in crate::stores) struct Keepers(Vec<Keeper>);

impl Together {
    pub(in crate::stores) fn start() -> Result<Together, BackendError> {
        Thread::start()
            .map(Together)
            .map_err(BackendError::unavailable)
    }

    pub(in crate::stores) fn handle(&self) -> &Handle {
        self.0.handle()
    }

    pub(in crate::stores) fn run(self, keepers: Keepers) -> Alive {
        let keepers = keepers.0.into_iter().map(Keeper::run);
        Alive {
            _thread: self.0.run(keepers),
        }
    }
}

impl RedisBackend {
    /// Starts without waiting for the server, on a thread that is shared.
    pub(in crate::stores) fn on_thread(
        config: &Config,
        settings: &RedisSettings,
        thread: &Together,
        keepers: &mut Keepers,
    ) -> Result<RedisBackend, LockError> {
        let (backend, own) = RedisBackend::on(config, settings, thread.handle(), Role::Voter)?;
        keepers.0.extend(own);
        Ok(backend)
    }

    /// Where the server is.
    pub(in crate::stores) fn address(&self) -> &str {
        self.node.address()
    }

    /// The server's time in microseconds, as soon as there is a connection.
    pub(in crate::stores) async fn time(&self, within: Duration) -> Result<u64, LockError> {
        let replies = self.commands(vec![cmd("TIME")], within).await?;
        let time = replies.first().and_then(voting::time);
        Ok(time.ok_or_else(|| self.error(Fault::Lost(None)))?)
    }

    /// Leaves `mark` on the server for some seconds, unless there is one already. Returns that
    /// which is there.
    pub(in crate::stores) async fn mark(
        &self,
        name: &LockKey,
        mark: &str,
        within: Duration,
    ) -> Result<String, LockError> {
        let name = voting::probe_name(name);
        let mut set = cmd("SET");
        set.arg(&name).arg(mark).arg("NX").arg("PX").arg(10_000);
        let mut get = cmd("GET");
        get.arg(&name);
        let replies = self.commands(vec![set, get], within).await?;
        match replies.get(1) {
            Some(Value::BulkString(found)) => Ok(String::from_utf8_lossy(found).into_owned()),
            _ => Err(self.error(Fault::Lost(None)).into()),
        }
    }

    /// Makes the server known as one that votes, from when it may have to wait for its first vote.
    pub(in crate::stores) async fn attend(
        &self,
        name: &LockKey,
        terms: Terms,
        within: Duration,
    ) -> Result<Vote, LockError> {
        let mut answer = self.node.lanes()[0].ask_within(voting::attend(name, terms), within);
        let vote = decode(answer.reply().await, name, voting::voted);
        Ok(vote.map_err(|fault| self.error(fault))?)
    }

    async fn commands(
        &self,
        commands: Vec<Cmd>,
        within: Duration,
    ) -> Result<Vec<Value>, LockError> {
        let lane = &self.node.lanes()[0];
        let mut answer = lane.ask_within(Call::commands(commands), within);
        let reply = answer.reply().await;
        let reply = reply.and_then(|reply| reply.map_err(Fault::Refused));
        match reply.map_err(|fault| self.error(fault))? {
            Value::Array(replies) => Ok(replies),
            _ => Err(self.error(Fault::Lost(None)).into()),
        }
    }

    /// Asks for a vote for `claim`. The question takes its turn when this is first polled.
    pub(in crate::stores) async fn vote(
        &self,
        claim: &Claim,
        terms: Terms,
    ) -> Result<Vote, BackendError> {
        let (_, place) = self.asks(claim, || self.node.lane_listener(&claim.key));
        let call = voting::vote(claim, &place.listener.channel, terms);
        let asked = self
            .node
            .ask(&claim.key, claim.number, call, IfCallerGone::Drop);
        let answer = decode(asked.await, &claim.key, voting::voted);
        let is_queued = matches!(&answer, Ok(Vote::Refused { queued: true, .. }));
        if claim.queue && !is_queued && answer.is_ok() {
            self.wakeups.left(claim.owner.as_str());
        }
        answer.map_err(|fault| self.error(fault))
    }

    /// Asks for the vote for a lease to go on, and for further fencing tokens.
    pub(in crate::stores) async fn renew_vote(
        &self,
        renewal: &Renewal,
        terms: Terms,
    ) -> Result<Vote, BackendError> {
        let call = voting::renew(renewal, terms);
        let asked = self.node.ask(&renewal.key, 0, call, IfCallerGone::Drop);
        let answer = decode(asked.await, &renewal.key, voting::voted);
        answer.map_err(|fault| self.error(fault))
    }
}
