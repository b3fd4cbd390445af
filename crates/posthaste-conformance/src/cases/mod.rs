//! Every case, by promise. What a case does is in the file of its promise.

mod p01_durability;
mod p02_outcomes;
mod p03_routing;
mod p04_topology;
mod p05_groups;
mod p06_queues;
mod p07_starts;
mod p08_redelivery;
mod p09_acknowledging;
mod p10_lateness;
mod p11_nack;
mod p12_dead_letters;
mod p13_leases;
mod p14_attempts;
mod p15_failing_keys;
mod p15_order;
mod p16_prefetch;
mod p17_outages;
mod p18_stopping;
mod p19_foreign;
mod p20_fidelity;
mod p21_expiry;
mod p22_delayed_publish;
mod p23_deduplication;
mod p24_lag;
mod p25_seek;
mod p26_health;
mod p27_errors;
mod p28_members;
mod p29_loss;
mod p30_deadlines;
mod p31_isolation;
mod p32_deploys;
mod p33_group_lifecycle;
mod p34_binding;

use crate::case::Case;

/// Every case of the suite, in the order of the promises.
#[must_use]
pub fn all() -> Vec<Case> {
    let files = [
        p01_durability::cases(),
        p02_outcomes::cases(),
        p03_routing::cases(),
        p04_topology::cases(),
        p05_groups::cases(),
        p06_queues::cases(),
        p07_starts::cases(),
        p08_redelivery::cases(),
        p09_acknowledging::cases(),
        p10_lateness::cases(),
        p11_nack::cases(),
        p12_dead_letters::cases(),
        p13_leases::cases(),
        p14_attempts::cases(),
        p15_order::cases(),
        p15_failing_keys::cases(),
        p16_prefetch::cases(),
        p17_outages::cases(),
        p18_stopping::cases(),
        p19_foreign::cases(),
        p20_fidelity::cases(),
        p21_expiry::cases(),
        p22_delayed_publish::cases(),
        p23_deduplication::cases(),
        p24_lag::cases(),
        p25_seek::cases(),
        p26_health::cases(),
        p27_errors::cases(),
        p28_members::cases(),
        p29_loss::cases(),
        p30_deadlines::cases(),
        p31_isolation::cases(),
        p32_deploys::cases(),
        p33_group_lifecycle::cases(),
        p34_binding::cases(),
    ];
    files.into_iter().flatten().collect()
}
