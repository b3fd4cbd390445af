//! A member that has nothing to do, because its group has more members than there are partitions.
//!
//! Nothing is wrong with that where it is meant, as for a member that stands by. It is told once,
//! because it is seldom meant: whoever starts more members to get more done gets nothing.

use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use tokio::time::Instant;

use super::{Consumer, SIGN_OF_LIFE};
use crate::concerns::Concern;

/// For so long a member has nothing before it is asked why: a group that divides its partitions
/// anew is done by then.
const PATIENCE: Duration = Duration::from_secs(12);

/// What is known of a member that has nothing to do.
#[derive(Debug, Default)]
pub(super) struct Idle {
    since: Option<Instant>,
    concern: Option<Concern>,
}

impl Consumer {
    /// Looks whether there is something to do.
    pub(super) fn look_for_work(&mut self, now: Instant) {
        let is_idle = self.commits && !self.is_suspect && self.shared.has_nothing(self.source);
        if !is_idle {
            self.idle = Idle::default();
            return;
        }
        let since = *self.idle.since.get_or_insert(now);
        if self.idle.concern.is_some() || now < since + PATIENCE {
            return;
        }
        self.idle.since = Some(now);
        let topic = &self.client.context().topics.topic;
        let partitions = self.partitions;
        let (beside, why) = match self.members() {
            // It is about to get some, or to be thrown out.
            Some(members) if members <= partitions => return,
            Some(members) => (format!(" and {members} members"), "some of them have"),
            None => (String::new(), "this one has"),
        };
        let text = format!(
            "more members than partitions: {} has {partitions} partitions{beside} in group {}, and \
             {why} no work",
            topic, self.group,
        );
        self.idle.concern = Some(self.concerns.raise(text));
    }

    /// How many members the group has, if the broker tells: of groups by the newer protocol it
    /// does not.
    fn members(&self) -> Option<usize> {
        let list = self.client.fetch_group_list(Some(&self.group), SIGN_OF_LIFE).ok()?;
        let members = list.groups().first()?.members().len();
        (members > 0).then_some(members)
    }
}
