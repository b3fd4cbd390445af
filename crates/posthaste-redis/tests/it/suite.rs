//! Collects tests: each is an async function on a server, with a deadline.

use std::future::Future;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use crate::server::{self, Private, Server};

/// A server of the test's own has to be started and stopped within it.
const DEADLINE: Duration = Duration::from_secs(90);
/// Every line of servers that is supported.
const SERVERS: [&str; 3] = ["redis", "redis@7.0", "valkey"];

pub(crate) struct Suite {
    trials: Vec<Trial>,
    missing: Vec<&'static str>,
}

impl Suite {
    pub(crate) fn new() -> Self {
        Self { trials: Vec::new(), missing: Vec::new() }
    }

    /// The tests, and which servers are not there.
    pub(crate) fn finish(self) -> (Vec<Trial>, Vec<&'static str>) {
        (self.trials, self.missing)
    }

    /// On each server.
    pub(crate) fn each<F, Fut>(&mut self, name: &str, test: F)
    where
        F: Fn(Server) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        for id in SERVERS {
            self.run(id, id, name, test.clone());
        }
    }

    /// On a server of that id.
    pub(crate) fn on<F, Fut>(&mut self, id: &'static str, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.run(id, id, name, test);
    }

    /// On servers of the test's own, which it may break, with further lines of configuration.
    pub(crate) fn private<F, Fut>(&mut self, name: &str, further: &'static str, test: F)
    where
        F: Fn(Private) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        for (id, called) in SERVERS.into_iter().zip(["private", "private@7.0", "private-valkey"]) {
            let test = test.clone();
            self.run(id, called, name, move |server| async move {
                test(Private::start(&server, further).await).await;
            });
        }
    }

    fn run<F, Fut>(&mut self, id: &'static str, called: &str, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let found = server::find(id);
        let ignored = found.is_none();
        if ignored && !self.missing.contains(&id) {
            self.missing.push(id);
        }
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
        self.trials.push(Trial::test(format!("{called}::{name}"), run).with_ignored_flag(ignored));
    }
}
