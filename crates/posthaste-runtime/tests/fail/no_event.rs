use posthaste_core::Bus;
use posthaste_runtime::{Consumer, Payload};

struct OrderPlaced;

async fn bill(_: Payload<OrderPlaced>) {}

fn consumer(bus: &Bus) -> Consumer {
    Consumer::new(bus).on("orders", bill)
}

fn main() {}
