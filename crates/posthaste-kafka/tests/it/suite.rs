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
        self.on("kafka", name, test);
    }

    /// On a broker of the test's own, which it may kill.
    pub(crate) fn private<F, Fut>(&mut self, name: &str, test: F)
    where
        F: FnOnce(Private) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let found = server::find("kafka").filter(Server::can_be_started);
        self.run("kafka-private", name, found, |server| async move {
            test(Private::start(&server).await).await;
        });
    }

    /// On the broker that is tested by default, with Kafka's own tools beside it.
    pub(crate) fn tools<F, Fut>(&mut self, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.run("kafka-tools", name, server::find("kafka").filter(Server::has_tools), test);
    }

    /// On a broker of the test's own that takes logins by tokens at the address of the
    /// configuration.
    #[cfg(feature = "ssl")]
    pub(crate) fn with_tokens<F, Fut>(&mut self, name: &str, test: F)
    where
        F: FnOnce(Private, crate::adapter::KafkaConfig) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let found = server::find("kafka").filter(Server::can_be_started);
        self.run("kafka-private", name, found, |server| async move {
            let (private, config) = Private::with_tokens(&server).await;
            test(private, config).await;
        });
    }

    /// Without a broker: the test brings its own stand-in.
    pub(crate) fn alone<F, Fut>(&mut self, name: &str, test: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.run("alone", name, Some(Server::nowhere()), |_| test());
    }

    /// On the broker of that id.
    pub(crate) fn on<F, Fut>(&mut self, id: &'static str, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.run(id, name, server::find(id), test);
    }

    /// On the broker that is tested by default, with so much time.
    pub(crate) fn longer<F, Fut>(&mut self, deadline: Duration, name: &str, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.within(deadline.max(DEADLINE), "kafka", name, server::find("kafka"), test);
    }

    fn run<F, Fut>(&mut self, id: &'static str, name: &str, found: Option<Server>, test: F)
    where
        F: FnOnce(Server) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.within(DEADLINE, id, name, found, test);
    }

    fn within<F, Fut>(
        &mut self,
        deadline: Duration,
        id: &'static str,
        name: &str,
        found: Option<Server>,
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
