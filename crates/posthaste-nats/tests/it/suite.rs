//! Collects tests: each is an async function on a server, with a deadline.

use std::future::Future;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use crate::server::{self, Private, Server};

const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Suite {
    trials: Vec<Trial>,
}

impl Suite {
    pub(crate) fn new() -> Self {
        Self { trials: Vec::new() }
    }

    pub(crate) fn trials(self) -> Vec<Trial> {
        self.trials
    }

    /// On the server that is tested by default.
    pub(crate) fn add<F, Fut>(&mut self, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.on("nats", name, test);
    }

    /// On that server, and on the old line too.
    pub(crate) fn both<F, Fut>(&mut self, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + Clone + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.on("nats", name, test.clone());
        self.on("nats@2.9", name, test);
    }

    /// On a server of the test's own, of that version and of the old line.
    pub(crate) fn private<F, Fut>(&mut self, name: &str, test: F)
    where
        F: FnOnce(Private) -> Fut + Send + Clone + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        for id in ["nats", "nats@2.9"] {
            let test = test.clone();
            self.on_program(id, name, |server| async move {
                test(Private::start(&server).await).await;
            });
        }
    }

    /// With the program of the server of that id, to start others by it.
    pub(crate) fn on_program<F, Fut>(&mut self, id: &'static str, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let found = server::find(id).filter(|server| server.program.is_file());
        self.run(id, name, found, test);
    }

    /// On the server of that id.
    pub(crate) fn on<F, Fut>(&mut self, id: &'static str, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.run(id, name, server::find(id), test);
    }

    fn run<F, Fut>(&mut self, id: &str, name: &str, found: Option<Server>, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let ignored = found.is_none();
        let run = move || -> Result<(), Failed> {
            let server = found.ok_or("the server is not there")?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            runtime.block_on(async {
                tokio::time::timeout(DEADLINE, test(server))
                    .await
                    .map_err(|_| Failed::from("the deadline passed"))
            })
        };
        self.trials.push(Trial::test(format!("{id}::{name}"), run).with_ignored_flag(ignored));
    }
}
