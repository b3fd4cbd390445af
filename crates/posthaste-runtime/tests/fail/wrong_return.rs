use posthaste_core::Bus;
use posthaste_runtime::{Consumer, Metadata};

async fn bill(_: Metadata) -> bool {
    true
}

fn consumer(bus: &Bus) -> Consumer {
    Consumer::new(bus).on("orders", bill)
}

fn main() {}
