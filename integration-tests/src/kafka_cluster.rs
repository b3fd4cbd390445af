//! A private broker: one node, or several that hold copies of everything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use posthaste_conformance::Link;
use posthaste_conformance::fault::{Direction, Proxy};
use posthaste_core::{Error, Result};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use crate::kafka_foreign;
use crate::kafka_node::{Node, Ports, voters};
use crate::record::{Process, Record};

/// Where the groups are; its leader is their coordinator. It has one partition here.
const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Nodes that know each other. The next broker may start when all of them are gone.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Arc<Node>>,
    /// How many connections there were by any way.
    used: AtomicUsize,
    /// What was broken last, to be made whole again.
    hit: Mutex<Hit>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Hit {
    turn: usize,
    nodes: Vec<usize>,
    words: String,
}

impl Cluster {
    /// Starts one like the recorded one, and waits until it answers.
    pub(crate) async fn start(like: &Record, permit: OwnedSemaphorePermit) -> Result<Self> {
        // The record has the first node last.
        let mut all: Vec<Process> = vec![like.server.clone()];
        all.extend(like.others.iter().cloned());
        let ports = Ports::free(all.len())?;
        let voters = voters(&ports)?;
        let mut starting = JoinSet::new();
        for (number, (like, ports)) in all.into_iter().zip(ports).enumerate() {
            let voters = voters.clone();
            // None of them is ready before most of them are there.
            starting.spawn(async move { (number, Node::start(&like, &ports, &voters).await) });
        }
        let mut nodes = Vec::new();
        while let Some(started) = starting.join_next().await {
            let (number, node) =
                started.map_err(|error| Error::invalid("a start failed").with_source(error))?;
            nodes.push((number, Arc::new(node?)));
        }
        nodes.sort_unstable_by_key(|(number, _)| *number);
        let nodes = nodes.into_iter().map(|(_, node)| node).collect();
        Ok(Self { nodes, used: AtomicUsize::new(0), hit: Mutex::default(), _permit: permit })
    }

    /// Where clients connect that nothing happens to.
    pub(crate) fn address(&self) -> String {
        let all: Vec<String> = self.nodes.iter().map(|node| node.address()).collect();
        all.join(",")
    }

    /// The next way, by turns.
    pub(crate) fn way(&self) -> Way {
        let turn = self.used.fetch_add(1, Ordering::Relaxed);
        Way(self.nodes.iter().map(|node| node.way(turn)).collect())
    }

    /// What was broken last.
    pub(crate) fn hit(&self) -> String {
        self.hit.lock().unwrap_or_else(PoisonError::into_inner).words.clone()
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        let one = self.choose_one();
        self.each(one, |node| async move { node.stop().await }).await
    }

    /// One node, the one that coordinates the groups, or all but one: by turns.
    pub(crate) async fn kill(&self) -> Result<()> {
        let chosen = self.choose().await;
        self.each(chosen, |node| async move { node.kill().await }).await
    }

    /// Those that were stopped or killed.
    pub(crate) async fn start_again(&self) -> Result<()> {
        let broken = self.hit.lock().unwrap_or_else(PoisonError::into_inner).nodes.clone();
        self.each(broken, |node| async move { node.start_again().await }).await
    }

    pub(crate) async fn pause(&self) -> Result<()> {
        let one = self.choose_one();
        self.each(one, |node| async move { node.pause().await }).await
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        let broken = self.hit.lock().unwrap_or_else(PoisonError::into_inner).nodes.clone();
        self.each(broken, |node| async move { node.resume().await }).await
    }

    /// Does it to all of them at once.
    async fn each<F, Fut>(&self, numbers: Vec<usize>, call: F) -> Result<()>
    where
        F: Fn(Arc<Node>) -> Fut,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let mut calls = JoinSet::new();
        for node in numbers.iter().filter_map(|number| self.nodes.get(*number)) {
            calls.spawn(call(Arc::clone(node)));
        }
        while let Some(done) = calls.join_next().await {
            done.map_err(|error| Error::invalid("a call failed").with_source(error))??;
        }
        Ok(())
    }

    fn choose_one(&self) -> Vec<usize> {
        let one = fastrand::usize(..self.nodes.len());
        self.remember(vec![one], "")
    }

    async fn choose(&self) -> Vec<usize> {
        let count = self.nodes.len();
        let turn = {
            let mut hit = self.hit.lock().unwrap_or_else(PoisonError::into_inner);
            hit.turn += 1;
            hit.turn
        };
        if count == 1 {
            return self.remember(vec![0], "");
        }
        let one = fastrand::usize(..count);
        match turn % 3 {
            0 => self.remember((0..count).filter(|number| *number != one).collect(), ""),
            1 => {
                let leader = kafka_foreign::leader(&self.address(), OFFSETS_TOPIC).await;
                let nodes = self.nodes.iter().map(|node| node.address());
                let found =
                    leader.ok().and_then(|leader| nodes.into_iter().position(|at| at == leader));
                match found {
                    Some(found) => self.remember(vec![found], ", which has the groups"),
                    None => self.remember(vec![one], ""),
                }
            }
            _ => self.remember(vec![one], ""),
        }
    }

    fn remember(&self, nodes: Vec<usize>, what: &str) -> Vec<usize> {
        let mut hit = self.hit.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers: Vec<String> = nodes.iter().map(|number| (number + 1).to_string()).collect();
        hit.words = match self.nodes.len() {
            1 => "the server".to_owned(),
            all => format!("node {} of {all}{what}", numbers.join(" and ")),
        };
        hit.nodes.clone_from(&nodes);
        nodes
    }
}

/// A way to a broker, for one connection: a proxy in front of each node.
#[derive(Debug)]
pub(crate) struct Way(Vec<Arc<Proxy>>);

impl Way {
    /// Where clients connect that take this way.
    pub(crate) fn address(&self) -> String {
        let all: Vec<String> = self.0.iter().map(|proxy| proxy.addr().to_string()).collect();
        all.join(",")
    }
}

#[async_trait]
impl Link for Way {
    async fn cut(&self) {
        for proxy in &self.0 {
            Link::cut(&**proxy).await;
        }
    }

    async fn refuse(&self) {
        for proxy in &self.0 {
            Link::refuse(&**proxy).await;
        }
    }

    async fn black_hole(&self) {
        for proxy in &self.0 {
            Link::black_hole(&**proxy).await;
        }
    }

    async fn half_open(&self, lost: Direction) {
        for proxy in &self.0 {
            Link::half_open(&**proxy, lost).await;
        }
    }

    async fn heal(&self) -> Result<()> {
        for proxy in &self.0 {
            Link::heal(&**proxy).await?;
        }
        Ok(())
    }
}
