use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.placed", crate = "posthaste_core")]
struct OrderPlaced;

fn main() {}
