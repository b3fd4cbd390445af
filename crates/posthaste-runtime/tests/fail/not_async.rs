use posthaste_core::Bus;
use posthaste_runtime::{Consumer, Metadata};

fn bill(_: Metadata) {}

fn consumer(bus: &Bus) -> Consumer {
    Consumer::new(bus).on("orders", bill)
}

fn main() {}
