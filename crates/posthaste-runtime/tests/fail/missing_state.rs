use posthaste_core::Bus;
use posthaste_runtime::{Consumer, State};

#[derive(Clone)]
struct Database;

async fn bill(_: State<Database>) {}

fn consumer(bus: &Bus) -> Consumer {
    Consumer::new(bus).on("orders", bill)
}

fn main() {}
