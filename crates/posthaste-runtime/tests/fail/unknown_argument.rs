use posthaste_core::Bus;
use posthaste_runtime::{Consumer, Metadata};

struct Customer;

async fn bill(_: Metadata, _: Customer) {}

fn consumer(bus: &Bus) -> Consumer {
    Consumer::new(bus).on("orders", bill)
}

fn main() {}
