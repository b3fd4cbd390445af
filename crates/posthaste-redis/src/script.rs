//! The scripts: what has to happen at the server as a whole.

use std::sync::OnceLock;

use posthaste_core::Result;
use redis::{Cmd, Pipeline, ToRedisArgs, Value};
use tokio::time::Instant;

use crate::error;
use crate::link::{Failure, Link};
use crate::value;

macro_rules! scripts {
    ($($name:ident = $file:literal,)*) => {
        /// A script by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Script { $($name,)* }

        /// The sources, in the order of the names.
        const SOURCES: &[&str] = &[$(concat!(
            include_str!("scripts/common.lua"),
            include_str!(concat!("scripts/", $file, ".lua")),
        ),)*];
    };
}

scripts! {
    Ensure = "ensure",
    Group = "group",
    Publish = "publish",
    Tick = "tick",
    Take = "take",
    Sweep = "sweep",
    Fetch = "fetch",
    GiveBack = "give_back",
    Release = "release",
    Later = "later",
    Letter = "letter",
    Extend = "extend",
    Lanes = "lanes",
    Free = "free",
    Leave = "leave",
    Lag = "lag",
    Groups = "groups",
    Seek = "seek",
    Purge = "purge",
    DeleteTopic = "delete_topic",
    DeleteGroup = "delete_group",
    Replay = "replay",
    Discard = "discard",
    Tidy = "tidy",
}

/// The names under which the server knows the scripts.
#[derive(Debug, Default)]
pub(crate) struct Scripts {
    digests: OnceLock<Vec<String>>,
}

impl Scripts {
    /// Gives the scripts to the server.
    ///
    /// # Errors
    /// `Auth` where the user may not; those of the connection.
    pub(crate) async fn load(&self, link: &Link, until: Instant) -> Result<()> {
        let mut commands = Pipeline::with_capacity(SOURCES.len());
        for source in SOURCES {
            commands.cmd("SCRIPT").arg("LOAD").arg(*source);
        }
        let mut digests = Vec::with_capacity(SOURCES.len());
        for answer in link.send(&commands, until).await.map_err(Failure::into_error)? {
            let answer = value::ok(answer)?;
            let digest = value::text(&answer).ok_or_else(|| error::unexpected("SCRIPT LOAD"))?;
            digests.push(digest.to_owned());
        }
        // The name of a script is its digest, and never another one.
        drop(self.digests.set(digests));
        Ok(())
    }

    /// A call.
    pub(crate) fn call(
        &self,
        script: Script,
        keys: &[impl ToRedisArgs + AsRef<str>],
        args: impl FnOnce(&mut Cmd),
    ) -> Cmd {
        let mut command = Cmd::new();
        // They are loaded before anything else is done.
        let digest = self.digests.get().and_then(|digests| digests.get(script as usize));
        command.arg("EVALSHA").arg(digest.map_or("", String::as_str)).arg(keys.len());
        for key in keys {
            command.arg(key.as_ref());
        }
        args(&mut command);
        command
    }

    /// Sends commands with calls among them, and gives the scripts to the server again if it has
    /// lost them.
    ///
    /// # Errors
    /// As [`Link::send`].
    ///
    /// # Cancel safety
    /// As [`Link::send`].
    pub(crate) async fn send(
        &self,
        link: &Link,
        commands: &Pipeline,
        until: Instant,
    ) -> Result<Vec<Value>, Failure> {
        let mut answers = link.send(commands, until).await?;
        if !answers.iter().any(is_lost) {
            return Ok(answers);
        }
        self.load(link, until).await.map_err(Failure::sent)?;
        let lost: Vec<usize> = (0..answers.len()).filter(|at| is_lost(&answers[*at])).collect();
        let mut again = Pipeline::with_capacity(lost.len());
        for (_, command) in commands.cmd_iter().enumerate().filter(|(at, _)| lost.contains(at)) {
            again.add_command(command.clone());
        }
        let repeated = link.send(&again, until).await?;
        for (at, answer) in lost.into_iter().zip(repeated) {
            answers[at] = answer;
        }
        Ok(answers)
    }

    /// One call, and its answer.
    ///
    /// # Errors
    /// That of the connection, or what the server refused.
    ///
    /// # Cancel safety
    /// When dropped, it is done as a whole or not at all.
    pub(crate) async fn ask(&self, link: &Link, call: Cmd, until: Instant) -> Result<Value> {
        let mut commands = Pipeline::with_capacity(1);
        commands.add_command(call);
        let mut answers = self.send(link, &commands, until).await.map_err(Failure::into_error)?;
        answers.pop().ok_or_else(|| error::unexpected("a script")).and_then(value::ok)
    }
}

fn is_lost(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(refused) if refused.code() == "NOSCRIPT")
}
