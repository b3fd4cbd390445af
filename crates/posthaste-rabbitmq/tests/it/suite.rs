//! Collects tests: each is an async function on a broker, with a deadline.

use std::future::Future;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use crate::server::{self, Private, Server};

/// A broker of the test's own has to be started and stopped within it.
const DEADLINE: Duration = Duration::from_secs(180);

pub(crate) struct Suite {
    trials: Vec<Trial>,
    missing: Vec<&'static str>,
}

impl Suite {
    pub(crate) fn new() -> Self {
        Self { trials: Vec::new(), missing: Vec::new() }
    }

    /// The tests, and which brokers are not there.
    pub(crate) fn finish(self) -> (Vec<Trial>, Vec<&'static str>) {
        (self.trials, self.missing)
    }

    /// On the broker that is tested by default.
    pub(crate) fn add<F, Fut>(&mut self, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.run("rabbitmq", name, server::find("rabbitmq"), DEADLINE, test);
    }

    /// The same, for one that may take longer.
    pub(crate) fn longer<F, Fut>(&mut self, deadline: Duration, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let found = server::find("rabbitmq");
        self.run("rabbitmq", name, found, deadline.max(DEADLINE), test);
    }

    /// With another client; ignored where that is not there.
    pub(crate) fn with_pika<F, Fut>(&mut self, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        match server::find("rabbitmq") {
            Some(server) => {
                let found = crate::pika::is_there().then_some(server);
                self.run("pika", name, found, DEADLINE, test);
            }
            None => self.run("rabbitmq", name, None, DEADLINE, test),
        }
    }

    /// On a broker of the test's own, which it may break.
    pub(crate) fn private<F, Fut>(&mut self, name: &str, test: F)
    where
        F: FnOnce(Private) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let found = server::find("rabbitmq").filter(Server::can_be_started);
        self.run("rabbitmq-private", name, found, DEADLINE, |server| async move {
            test(Private::start(&server).await).await;
        });
    }

    fn run<F, Fut>(
        &mut self,
        id: &'static str,
        name: &str,
        found: Option<Server>,
        deadline: Duration,
        test: F,
    ) where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let ignored = found.is_none();
        if ignored && !self.missing.contains(&id) {
            self.missing.push(id);
        }
        let run = move || -> Result<(), Failed> {
            let server = found.ok_or("the broker is not there")?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            runtime.block_on(async {
                tokio::time::timeout(deadline, test(server))
                    .await
                    .map_err(|_| Failed::from("the deadline passed"))
            })
        };
        self.trials.push(Trial::test(format!("{id}::{name}"), run).with_ignored_flag(ignored));
    }
}
