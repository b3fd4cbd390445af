//! What an entry of the table says about starting a broker, and what a started one says back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::secrets::Certificates;

/// What a broker that is to be started may use.
pub(crate) struct Site<'a> {
    /// What was installed: a program, or the folder of one (see [`Install`](super::install::Install)).
    pub(crate) installed: &'a Path,
    /// A folder of its own: data and configuration. What is in it is from an earlier start.
    pub(crate) state: &'a Path,
    /// As many free loopback ports as its entry asks for.
    pub(crate) ports: &'a [u16],
    /// Where the output of preparing steps goes.
    pub(crate) log: &'a Path,
}

/// A program and how it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// What it is for its broker, and how its log is called: `server`, `epmd`, `node2`.
    pub(crate) role: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Variables beside those that it inherits.
    pub(crate) env: BTreeMap<String, String>,
    /// The loopback port at which it must listen before the next process is started.
    pub(crate) listens: Option<u16>,
}

/// How to start a broker, and what a client needs to reach it.
pub(crate) struct Launch {
    /// The process that is the broker; of several nodes the first.
    pub(crate) server: Program,
    /// Further processes, started before the server in this order and stopped after it in the
    /// reverse one.
    pub(crate) others: Vec<Program>,
    pub(crate) url: String,
    /// Further URLs, by purpose: `management`. They hold no login.
    pub(crate) urls: BTreeMap<String, String>,
    /// The user name of a login by password.
    pub(crate) user: Option<String>,
    /// Files for clients: certificates, keys, passwords, by purpose.
    pub(crate) files: BTreeMap<String, PathBuf>,
}

/// What a server that is ready said about itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// `None` where the protocol does not tell it.
    pub(crate) version: Option<String>,
}

impl Program {
    /// A program called with `args`, for the role `server`.
    pub(crate) fn new<A: Into<String>>(
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            role: SERVER.to_owned(),
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            listens: None,
        }
    }

    pub(crate) fn role(mut self, role: impl Into<String>) -> Self {
        self.role = role.into();
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn listens(mut self, port: u16) -> Self {
        self.listens = Some(port);
        self
    }

    /// The call of it, for a step that ends.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(&self.env);
        command
    }
}

impl Launch {
    /// One process, reached without a login.
    pub(crate) fn open(server: Program, url: String) -> Self {
        let (urls, files) = (BTreeMap::new(), BTreeMap::new());
        Self { server, others: Vec::new(), url, urls, user: None, files }
    }

    /// The same reached by TLS and a login. Files: `ca`, `foreign_ca`, `password`.
    pub(crate) fn secured(
        self,
        url: String,
        user: &str,
        tls: Certificates,
        password: PathBuf,
    ) -> Self {
        let files = [("ca", tls.ca), ("foreign_ca", tls.foreign_ca), ("password", password)];
        let files = files.map(|(purpose, file)| (purpose.to_owned(), file)).into();
        Self { url, user: Some(user.to_owned()), files, ..self }
    }
}

impl Answer {
    pub(crate) fn of(version: impl Into<String>) -> Self {
        Self { version: Some(version.into()) }
    }
}

/// The role of the process that is the broker.
const SERVER: &str = "server";
