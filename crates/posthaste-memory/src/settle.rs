//! Settling: a batch of verdicts is applied in one turn for each topic.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use posthaste_core::broker::{
    Confirmation, Extended, SettleOutcome, SettleReport, Settlement, Settler, Token,
};
use posthaste_core::{Result, Timestamp};

use crate::convert;
use crate::engine::{Connection, Engine, Topic};

/// The way back for the verdicts of one subscription. Outlives its driver.
#[derive(Debug)]
pub(crate) struct MemorySettler {
    engine: Arc<Engine>,
    connection: Arc<Connection>,
    // What the lanes of tokens stand for. A topic or group that was created anew gets a number of
    // its own, so that tokens of the former one cannot touch it. A slice that is replaced, so that
    // it is not locked during a turn.
    sources: RwLock<Arc<[Source]>>,
}

#[derive(Debug, Clone)]
struct Source {
    topic: Arc<Topic>,
    group: u64,
}

impl MemorySettler {
    pub(crate) fn new(engine: &Arc<Engine>, connection: &Arc<Connection>) -> Self {
        Self {
            engine: Arc::clone(engine),
            connection: Arc::clone(connection),
            sources: RwLock::new(Arc::from([])),
        }
    }

    /// The number of a group of a topic, for tokens.
    pub(crate) fn number(&self, topic: &Arc<Topic>, group: u64) -> u32 {
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        let known = sources
            .iter()
            .position(|source| Arc::ptr_eq(&source.topic, topic) && source.group == group);
        let number = known.unwrap_or_else(|| {
            let more = Source { topic: Arc::clone(topic), group };
            *sources = sources.iter().cloned().chain([more]).collect();
            sources.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Calls `act` once for each source that a token names, and says which tokens name none.
    fn by_source<'a>(
        &self,
        tokens: impl Iterator<Item = &'a Token> + Clone,
        mut act: impl FnMut(&Source, u32),
    ) -> Vec<usize> {
        let sources = Arc::clone(&self.sources.read().unwrap_or_else(PoisonError::into_inner));
        for (number, source) in (0_u32..).zip(&*sources) {
            if tokens.clone().any(|token| token.lane == number) {
                act(source, number);
            }
        }
        let unknown = |token: &Token| {
            usize::try_from(token.lane).map_or(true, |number| number >= sources.len())
        };
        tokens.enumerate().filter(|(_, token)| unknown(token)).map(|(index, _)| index).collect()
    }
}

#[async_trait]
impl Settler for MemorySettler {
    async fn settle(
        &self,
        batch: &[Settlement],
        _confirmation: Confirmation, // applied is confirmed: nothing is on its way
    ) -> Result<SettleReport> {
        let reached = self.connection.reach(&self.engine.link).await;
        reached.map_err(|error| error.with_operation("settle"))?;
        let now = Timestamp::now();
        let mut report = SettleReport::done();
        let tokens = batch.iter().map(|settlement| &settlement.token);
        let unknown = self.by_source(tokens, |source, number| {
            source.topic.turn_even_if_deleted(|state, turn| {
                // What is over by now is over, even if nobody has looked since.
                if let Some(group) = state.groups.get_mut(&source.group) {
                    group.tick(turn);
                }
                for (index, settlement) in batch.iter().enumerate() {
                    if settlement.token.lane != number {
                        continue;
                    }
                    if let Some(outcome) = state.settle(source.group, settlement, now, turn) {
                        report.except(index, outcome);
                    }
                }
                if let Some(group) = state.groups.get(&source.group) {
                    group.rearm(turn);
                }
            });
        });
        unknown.into_iter().for_each(|index| report.except(index, SettleOutcome::LeaseLost));
        Ok(report)
    }

    async fn extend(&self, tokens: &[Token]) -> Result<Extended> {
        let reached = self.connection.reach(&self.engine.link).await;
        reached.map_err(|error| error.with_operation("extend"))?;
        let mut lost = Vec::new();
        let unknown = self.by_source(tokens.iter(), |source, number| {
            let mine = || tokens.iter().enumerate().filter(|(_, token)| token.lane == number);
            let extended = source.topic.turn(|state, turn| {
                let group = state.groups.get_mut(&source.group)?;
                group.tick(turn);
                let mut gone = |token| !group.extend(convert::tag(token), turn);
                lost.extend(mine().filter_map(|(index, token)| gone(token).then_some(index)));
                Some(())
            });
            if extended.flatten().is_none() {
                lost.extend(mine().map(|(index, _)| index));
            }
        });
        lost.extend(unknown);
        Ok(Extended::except(lost))
    }
}
