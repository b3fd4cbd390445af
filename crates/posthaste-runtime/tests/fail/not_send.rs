use posthaste_core::Bus;
use posthaste_runtime::{Consumer, Metadata};
use std::rc::Rc;

async fn wait(_: &str) {}

async fn bill(meta: Metadata) {
    let name = Rc::new(meta.id().to_owned());
    wait(&name).await;
}

fn consumer(bus: &Bus) -> Consumer {
    Consumer::new(bus).on("orders", bill)
}

fn main() {}
