use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.placed", version = 4294967296)]
struct OrderPlaced;

fn main() {}
